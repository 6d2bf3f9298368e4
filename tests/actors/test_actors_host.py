"""The host and its actors as real processes, against a real replay service and a real policy server."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import policies.service
import replay.service
from actors.config import ActorConfig, EnvironmentConfig
from actors.environment import UnknownEnvironment
from actors.host import FAULTS_MAX, ActorJob, run_actors
from actors.process import JobError
from policies.artifact import artifact_digest
from policies.distribution import DistributionServer, PolicyBoard
from policies.signing import KeyFileError, SigningKey
from policies.testing import RUN_ID, make_artifact, make_spec, signed_verdict
from protos.transport import AddressError
from replay.client import ReplayClient
from replay.config import ReplayConfig

pytestmark = pytest.mark.robustness

REPOSITORY = Path(__file__).resolve().parent.parent.parent
REPLAY = ReplayConfig(store="memory", fresh_unconsumed_max=400_000)
PROBE = """
import os, pathlib, sys, time
import gymnasium

class Probe(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (4,))
    action_space = gymnasium.spaces.Discrete(2)
    steps = 0

    def reset(self, *, seed=None, options=None):
        return self.observation_space.low, {}

    def step(self, action):
        self.steps += 1
        if self.steps == 100:
            written = pathlib.Path(os.environ["PROBE"], f"{os.getpid()}.writing")
            written.write_text("\\n".join(sys.modules))
            written.rename(written.with_suffix(".modules"))
        if self.steps == 100 and "HANG" in os.environ:
            while True:
                time.sleep(0.01)
        if self.steps == 50 and "FAULTY" in os.environ:
            raise ArithmeticError("a fault in the environment")
        return self.observation_space.high, 1.0, False, False, {}

gymnasium.register("Probe-v0", Probe, max_episode_steps=10)
"""
HOST = """
import pathlib, sys
from actors.config import ActorConfig, EnvironmentConfig
from actors.host import ActorJob, run_actors
from replay.config import ReplayConfig
PosixPath = pathlib.PosixPath
sys.exit(run_actors(eval(sys.argv[1])))
"""


def eventually(condition: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    end_s = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < end_s, "did not happen in time"
        time.sleep(0.02)
    return result


@contextlib.contextmanager
def serving(serve: Callable[..., Any], *arguments: Any, **keywords: Any) -> Iterator[str]:
    """Runs one of the asyncio services in a thread; yields its address."""
    ready = threading.Event()
    addresses: list[str] = []
    control: list[Any] = []

    def on_ready(address: str) -> None:
        addresses.append(address)
        ready.set()

    async def main() -> None:
        stop = asyncio.Event()
        control.extend((asyncio.get_running_loop(), stop))
        await serve(*arguments, **keywords, on_ready=on_ready, stop=stop)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    try:
        assert ready.wait(20.0)
        yield addresses[0]
    finally:
        control[0].call_soon_threadsafe(control[1].set)
        thread.join(20.0)
        assert not thread.is_alive()


class Host:
    """A host process, and what it says."""

    def __init__(self, job: ActorJob, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOST, repr(job)],
            cwd=REPOSITORY,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    def starts(self) -> list[tuple[str, int, str]]:
        """(actor id, pid, run id) of every start so far."""
        found = [re.match(r"temper actor (\S+) started: pid (\d+), run id (\S+)", line) for line in self.lines]
        return [(match[1], int(match[2]), match[3]) for match in found if match]

    def end(self, timeout_s: float = 20.0) -> int:
        """Waits for the process; its output is complete then."""
        status = self.process.wait(timeout_s)
        self._reader.join(10.0)
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.end()
        assert self.process.stdout is not None
        self.process.stdout.close()


@dataclasses.dataclass
class World:
    """The servers that actors need, and the hosts started in this test."""

    job: ActorJob
    board: PolicyBoard
    key: SigningKey
    client: ReplayClient
    directory: Path
    digest: bytes = b""
    hosts: list[Host] = dataclasses.field(default_factory=list)

    def start(self, job: ActorJob | None = None, **environment: str) -> Host:
        self.hosts.append(Host(job or self.job, **environment))
        return self.hosts[-1]

    def records(self) -> dict[tuple[str, str], list[Any]]:
        """Headers in log order, by (actor id, run id)."""
        found: dict[tuple[str, str], list[Any]] = {}
        for record in self.client.records(limit=1_000_000):
            found.setdefault((record.origin.actor_id, record.origin.run_id), []).append(record.header)
        return found


@pytest.fixture
def world(socket_directory: Path) -> Iterator[World]:
    key = SigningKey.generate()
    key.verify_key.save(socket_directory / "verify_key.pem")
    data = make_artifact(make_spec((4,), 2)).to_bytes()
    board = PolicyBoard()
    board.publish_release(3, data, signed_verdict(key, artifact_digest(data), version=3))
    server = DistributionServer(board, f"unix:{socket_directory}/policy")
    with serving(replay.service.serve, REPLAY, socket_directory / "replay", f"unix:{socket_directory}/r") as address:
        job = ActorJob(
            actor=ActorConfig(lanes=4, unroll_length=5, restart_backoff_s_max=0.5, stop_s_max=8.0),
            environment=EnvironmentConfig(name="cartpole"),
            replay=REPLAY,
            seed=1,
            run_id=RUN_ID,
            config_digest=bytes(32),
            replay_address=address,
            policy_address=server.start(),
            inference_address=None,
            trust_key_path=socket_directory / "verify_key.pem",
            actor_prefix="actor",
            processes=2,
        )
        client = ReplayClient(address)
        found = World(job, board, key, client, socket_directory, artifact_digest(data))
        try:
            yield found
        finally:
            for host in found.hosts:
                host.close()
            client.close()
            server.stop()


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


def test_a_fleet_acts_is_repaired_and_stops_in_order(world: World) -> None:
    host = world.start()
    eventually(lambda: len(world.records()) == 2)
    first = host.starts()
    assert [actor for actor, _, _ in first] == ["actor-0000", "actor-0001"]
    victim_actor, victim_pid, victim_run = first[0]

    os.kill(victim_pid, signal.SIGKILL)
    actor, pid, run = eventually(lambda: host.starts()[2:])[0]
    assert actor == victim_actor
    assert pid != victim_pid
    assert run != victim_run
    assert any("killed by SIGKILL; starts again" in line for line in host.lines)
    eventually(lambda: (actor, run) in world.records())

    host.process.send_signal(signal.SIGTERM)
    assert host.end() == 0
    assert all(gone(pid) for _, pid, _ in host.starts())
    stopped = re.compile(r"temper actor (\S+) stopped: .* (\d+) records acknowledged, 0 lost")
    acknowledged = {match[1]: int(match[2]) for line in host.lines if (match := stopped.match(line))}
    records = world.records()
    assert set(records) == {(actor, run) for actor, _, run in host.starts()}
    for (actor, run), headers in records.items():
        assert [header.sequence for header in headers] == list(range(len(headers)))
        assert {(span.version, span.digest) for header in headers for span in header.policies} == {(3, world.digest)}
        if run != victim_run:
            assert acknowledged[actor] == len(headers)
    seeds = [{header.environment_seed for header in headers} for headers in records.values()]
    assert not seeds[0] & seeds[1] and not seeds[0] & seeds[2] and not seeds[1] & seeds[2]


def test_actors_die_with_their_host(world: World) -> None:
    host = world.start()
    eventually(lambda: len(world.records()) == 2)
    host.process.kill()
    eventually(lambda: all(gone(pid) for _, pid, _ in host.starts()), 5.0)


def test_the_host_stops_with_the_process_that_started_it(world: World) -> None:
    script = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:]); time.sleep(60)"
    arguments = [sys.executable, "-c", script, sys.executable, "-c", HOST, repr(world.job)]
    parent = subprocess.Popen(arguments, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: len(world.records()) == 2)
        family = psutil.Process(parent.pid).children(recursive=True)
        assert len(family) == 3
    finally:
        parent.kill()
        parent.wait()
    _, alive = psutil.wait_procs(family, timeout=15)
    assert not alive


def test_a_thin_actor_imports_no_learner(world: World) -> None:
    (world.directory / "probe.py").write_text(PROBE)
    job = dataclasses.replace(world.job, environment=EnvironmentConfig(name="gym:probe:Probe-v0"), processes=1)
    host = world.start(job, PROBE=str(world.directory), PYTHONPATH=str(world.directory))
    written = eventually(lambda: list(world.directory.glob("*.modules")))[0]
    assert written.stem == str(host.starts()[0][1])
    modules = set(written.read_text().split())
    assert {"numpy", "grpc", "gymnasium", "actors.rollout"} <= modules
    assert not modules & {"jax", "jaxlib", "flax", "optax", "orbax", "lmdb", "tyro", "rich"}


def test_an_actor_that_does_not_stop_is_killed(world: World) -> None:
    (world.directory / "probe.py").write_text(PROBE)
    job = dataclasses.replace(
        world.job,
        actor=dataclasses.replace(world.job.actor, stop_s_max=0.5),
        environment=EnvironmentConfig(name="gym:probe:Probe-v0"),
        processes=1,
    )
    host = world.start(job, PROBE=str(world.directory), PYTHONPATH=str(world.directory), HANG="1")
    eventually(lambda: list(world.directory.glob("*.modules")))
    host.process.send_signal(signal.SIGINT)
    assert host.end() == 0
    assert any("killed: pid" in line for line in host.lines)
    assert gone(host.starts()[0][1])


def test_actors_that_keep_failing_are_started_again_ever_later(world: World) -> None:
    """Nobody signs for the run of these actors, so each gives up after policy_wait_s; the host never does."""
    job = dataclasses.replace(
        world.job, run_id="another-run", actor=dataclasses.replace(world.job.actor, policy_wait_s=0.05), processes=1
    )
    host = world.start(job)
    eventually(lambda: len(host.starts()) > FAULTS_MAX)
    host.process.send_signal(signal.SIGTERM)
    assert host.end() == 0
    assert len({run for _, _, run in host.starts()}) == len(host.starts())
    pauses = [float(match[1]) for line in host.lines if (match := re.search(r"starts again in ([\d.]+) s", line))]
    assert pauses[0] <= 0.25 <= pauses[2]
    assert max(pauses) <= 0.5
    assert any("gives up: no authorised policy" in line for line in host.lines)
    assert world.records() == {}


def test_the_host_gives_up_on_an_environment_that_keeps_raising(world: World) -> None:
    (world.directory / "probe.py").write_text(PROBE)
    job = dataclasses.replace(world.job, environment=EnvironmentConfig(name="gym:probe:Probe-v0"), processes=1)
    host = world.start(job, PROBE=str(world.directory), PYTHONPATH=str(world.directory), FAULTY="1")
    assert host.end() == 1
    assert len(host.starts()) == FAULTS_MAX
    assert host.lines[-1].endswith(f"ActorsKeepFailing: actor-0000 failed {FAULTS_MAX} times in a row: giving up\n")
    assert any("ArithmeticError: a fault in the environment" in line for line in host.lines)


def test_inference_as_a_service_and_in_process_with_jax(world: World) -> None:
    """Both write records of the released policy; the host itself stays free of jax, so that it may fork."""
    actor = dataclasses.replace(world.job.actor, inference="jax")
    jax_host = world.start(dataclasses.replace(world.job, actor=actor, processes=1, actor_prefix="jax"))
    arguments = (world.job.policy_address, world.job.trust_key_path, RUN_ID, f"unix:{world.directory}/inference")
    with serving(policies.service.serve, *arguments, backend="numpy") as address:
        actor = dataclasses.replace(world.job.actor, inference="served")
        job = dataclasses.replace(world.job, actor=actor, inference_address=address, actor_prefix="served")
        served_host = world.start(job)
        eventually(lambda: {actor for actor, _ in world.records()} == {"jax-0000", "served-0000", "served-0001"}, 60.0)
        maps = [Path(f"/proc/{pid}/maps").read_text() for pid in (jax_host.process.pid, jax_host.starts()[0][1])]
        assert ["jaxlib" in text for text in maps] == [False, True]
        for host in (jax_host, served_host):
            host.process.send_signal(signal.SIGTERM)
            assert host.end() == 0
    spans = [span for headers in world.records().values() for header in headers for span in header.policies]
    assert {(span.version, span.digest) for span in spans} == {(3, world.digest)}


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"actor": ActorConfig(inference="served")}, JobError, "--inference-address"),
        ({"actor": ActorConfig(lanes=65, window_records=64)}, JobError, "lanes = 65.*window_records = 64"),
        (
            {"actor": ActorConfig(lanes=8, unroll_length=100, window_bytes=4096)},
            JobError,
            "8 payloads of .*window_bytes = 4096",
        ),
        ({"replay_address": "nowhere"}, AddressError, "nowhere"),
        ({"actor_prefix": "rack 7/"}, JobError, "actor_prefix 'rack 7/'"),
        ({"environment": EnvironmentConfig(name="cartpol")}, UnknownEnvironment, "cartpole"),
        ({"trust_key_path": Path("missing.pem")}, KeyFileError, "missing.pem"),
    ],
)
def test_a_job_that_cannot_run_is_refused_before_any_process_starts(
    world: World, change: dict[str, Any], error: type[Exception], text: str
) -> None:
    before = psutil.Process().children()
    with pytest.raises(error, match=text):
        run_actors(dataclasses.replace(world.job, **change))
    assert psutil.Process().children() == before
