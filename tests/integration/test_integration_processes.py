"""Every process by itself, over TCP, as a launch script would start them; no supervisor."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from launch.config_file import write_config
from launch.overrides import apply_overrides
from launch.recipes import make_recipe
from protos.common.v1 import access_pb2, access_pb2_grpc
from protos.transport import channel
from protos.transport_roles import KINDS
from protos.transport_security import Security
from tests.integration.training_run import QUICK
from tests.protos.installation import Installation

pytestmark = pytest.mark.timeout(180)


class Process:
    """One `temper` subcommand; its output goes to a file."""

    def __init__(self, output: Path, *arguments: str) -> None:
        self.output = output
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "launch.cli", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def ready(self, timeout_s: float = 60.0) -> str:
        """The address of its "ready" line."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self._process.poll() is None:
            for line in self.output.read_text().splitlines():
                if " ready at " in line:
                    return line.rpartition(" ready at ")[2]
            time.sleep(0.05)
        raise AssertionError(f"not ready: {self.output.read_text()}")

    def wait(self, timeout_s: float) -> int:
        """Its exit status."""
        return self._process.wait(timeout_s)

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(30)

    def end(self) -> None:
        """Whatever it takes."""
        self._process.kill()
        self._process.wait(10)


@contextlib.contextmanager
def processes() -> Iterator[list[Process]]:
    running: list[Process] = []
    try:
        yield running
    finally:
        for process in reversed(running):
            process.end()


@pytest.mark.parametrize(("inference", "secured"), [("numpy", False), ("served", True)], ids=["numpy", "served-tls"])
def test_a_run_put_together_by_hand_over_tcp(inference: str, secured: bool, tmp_path: Path) -> None:
    """Plainly on loopback, and with certificates, each process with the roles of its kind and no more."""
    keys = Installation(tmp_path / "keys")
    run = tmp_path / "run"
    run.mkdir()
    config = tmp_path / "config.toml"
    settings = [*QUICK, f"actor.inference={inference}", "stop.target_return=inf"]
    write_config(apply_overrides(make_recipe("catch"), settings), config)
    common = ("--config", str(config))
    here, run_id = "127.0.0.1:0", ("--run-id", "by-hand")
    trust = ("--trust", str(tmp_path / "safety" / "verify_key.pem"), *run_id)
    with processes() as running:

        def start(name: str, *arguments: str) -> Process:
            if secured:
                place = keys.issue(name, *KINDS[name.removesuffix("s")], hosts=["127.0.0.1"])
                arguments = (*arguments, "--certificates", str(place))
            running.append(Process(tmp_path / f"{name}.out", *arguments))
            return running[-1]

        replay = start("replay", "replay", "serve", *common, "--directory", str(tmp_path / "replay"), "--listen", here)
        replay_address = replay.ready()
        safety = start(
            *("safety", "safety", "serve", *common, "--directory", str(tmp_path / "safety"), "--listen", here),
            *(*run_id, "--replay", replay_address),
        )
        learner = start(
            *("learner", "learner", *common, "--run-dir", str(run), "--replay", replay_address),
            *("--safety", safety.ready(), "--listen", here, *trust, "--max-env-steps", "20000"),
        )
        policy_address = learner.ready()
        extra: tuple[str, ...] = ()
        if inference == "served":
            served = start("inference", "policy", "serve", "--policy", policy_address, *trust, "--listen", here)
            extra = ("--inference-address", served.ready())
        actors = start(
            *("actors", "actor", *common, "--replay", replay_address, "--policy", policy_address, *trust, *extra),
            *("--processes", "2"),
        )
        for address in (replay_address, policy_address, safety.ready()):
            reader = keys.client(f"reader-{address.rpartition(':')[2]}", "read") if secured else Security()
            with channel(address, reader) as connection:
                health = health_pb2_grpc.HealthStub(connection)
                answer = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
                callers = access_pb2_grpc.AccessStub(connection).Callers(access_pb2.CallersRequest(), timeout=10)
                assert (callers.denied_calls, callers.unauthenticated_calls) == (0, 0)
                assert (callers.connections > 0) == secured
        assert learner.wait(120) == 0, learner.output.read_text()
        assert actors.stop() == 0, actors.output.read_text()
        assert safety.stop() == 0, safety.output.read_text()
        assert replay.stop() == 0, replay.output.read_text()
    final = json.loads((run / "learner" / "final.json").read_text())
    assert final["env_steps"] >= 20_000
    assert final["stopped_because"] == "env_steps"
    log = (tmp_path / "actors.out").read_text()
    assert "actor-0000 stopped" in log
    assert "actor-0001 stopped" in log


def test_an_address_that_somebody_listens_on_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    write_config(make_recipe("catch"), config)
    with processes() as running:
        first = Process(
            tmp_path / "first.out",
            *("replay", "serve", "--config", str(config), "--directory", str(tmp_path / "a")),
            *("--listen", "127.0.0.1:0"),
        )
        running.append(first)
        address = first.ready()
        second = subprocess.run(
            [
                *(sys.executable, "-m", "launch.cli", "replay", "serve", "--config", str(config)),
                *("--directory", str(tmp_path / "b"), "--listen", address),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert second.returncode == 2
        assert second.stderr.count("\n") == 1
        assert address in second.stderr
        with channel(address) as connection:
            grpc.channel_ready_future(connection).result(timeout=10)
