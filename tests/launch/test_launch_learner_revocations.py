"""A real learner process without the ledger's disk: what was revoked while it was down, it never offers again."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launch.run_paths import RunPaths
from policies.registry import PolicyRegistry
from protos import transport
from protos.policy.v1 import policy_pb2, policy_pb2_grpc
from safety.client import SafetyClient
from tests.launch import lineage_run
from tests.safety.safety_process import CARTPOLE, CONFIG, RUN, ServiceThread, parameters_of

WAIT_S = 60.0


@contextlib.contextmanager
def learner(root: Path, trust: Path, sockets: Path) -> Iterator[str]:
    """`temper learner` in a directory of its own; gives the address that it serves at, once it does."""
    address = f"unix:{sockets}/policy.sock"
    options = {
        "--config": root / "config.toml",
        "--run-dir": root,
        "--replay": f"unix:{sockets}/no-replay.sock",
        "--safety": f"unix:{sockets}/safety.sock",
        "--listen": address,
        "--trust": trust,
        "--run-id": RUN,
    }
    command = [sys.executable, "-m", "launch.cli", "learner", *(str(each) for pair in options.items() for each in pair)]
    with (root / "learner.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
    try:
        assert process.stdout is not None
        said = process.stdout.readline().decode()
        assert said == f"temper learner ready at {address}\n", (root / "learner.log").read_text()
        yield address
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def watching(address: str) -> Iterator[Callable[[int], list[tuple[int, int]]]]:
    """Gives the next offers that a watcher gets: the kind of each, and the learner update count of a policy."""
    with transport.channel(address) as channel:
        call = policy_pb2_grpc.PolicyDistributionStub(channel).Watch(
            policy_pb2.WatchRequest(actor_id="actor-0", run_id=RUN), timeout=WAIT_S
        )
        yield lambda count: [(offer.kind, offer.version) for offer in (next(call) for _ in range(count))]
        call.cancel()


@pytest.mark.robustness
def test_a_learner_that_was_down_hears_of_it_from_the_safety_service(tmp_path: Path, socket_directory: Path) -> None:
    paths = lineage_run.begin(tmp_path / "gate's host")
    own = RunPaths(tmp_path / "learner's host")
    own.root.mkdir()
    shutil.copy(paths.config, own.config)
    shutil.copytree(paths.policies, own.policies)
    parameters = parameters_of(socket_directory, CONFIG, CARTPOLE, None) | {"directory": str(paths.safety)}
    safety = ServiceThread(parameters)
    try:
        with SafetyClient(parameters["address"]) as gate:
            gate.revoke(RUN, 2, "poisoned")
        with learner(own.root, paths.verify_key, socket_directory) as address:
            revocation, release = policy_pb2.PolicyOffer.KIND_REVOCATION, policy_pb2.PolicyOffer.KIND_RELEASE
            # Release 2 is of update 6, release 1 of update 4; before its policies every watcher gets the revocations.
            with watching(address) as following:
                assert following(2) == [(revocation, 0), (release, 4)]
            registry = PolicyRegistry(own.policies, lineage_run.registry_of(paths).trust)
            assert [each.release_number for each in registry.revocations()] == [2]
            # While it runs it goes on asking.
            with SafetyClient(parameters["address"]) as gate:
                gate.revoke(RUN, 1, "poisoned, too")
            deadline_s = time.monotonic() + WAIT_S
            while registry.newest() is not None:
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
    finally:
        safety.stop()
    assert not (own.root / "safety").exists()
