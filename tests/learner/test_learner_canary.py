"""A canary from end to end: a real safety service and replay, the learner's distribution, and actors' clients.

The records are made by hand: what counts of them are the two signals that actors put on the records of a release.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from learner import decisions
from learner.decisions import DecisionListener
from policies.artifact import artifact_digest
from policies.client import PolicyClient
from policies.distribution import DistributionServer, PolicyBoard
from policies.registry import PolicyRegistry
from policies.release_keeper import ReleaseKeeper
from policies.testing import make_artifact
from policies.trust import TrustPolicy
from replay.client import ReplayWriter
from replay.config import ReplayConfig
from replay.schema import PayloadLayout
from replay.testing import make_columns, make_header, make_origin
from replay.testing import serving as replay_serving
from safety.client import SafetyClient
from safety.docket import Docket
from safety.ledger import read_ledger
from safety.testing import record_made_up
from tests.safety.safety_process import CARTPOLE, CONFIG, RUN, ServiceProcess, parameters_of

WAIT_S = 40.0
INSIDE, OUTSIDE = "actor-0001", "actor-0000"
ORDINARY, CANARY = (make_artifact(seed=seed).to_bytes() for seed in (1, 2))
REPLAY = ReplayConfig(store="memory")


class Scene:
    """Release 1 for everywhere and 2 as a canary; a safety service of its own process; a learner; two actors."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack, replay_address: str, **canary: Any) -> None:
        self.directory, self.replay_address = directory, replay_address
        config = dataclasses.replace(CONFIG, canary_share=0.25, monitor_poll_s=0.05, **canary)
        self.parameters = parameters_of(directory, config, CARTPOLE, replay_address)
        (directory / "safety").mkdir()
        with contextlib.closing(Docket(directory / "safety", RUN)) as docket:
            trust = TrustPolicy(docket.verify_key, RUN)
            self.registry = PolicyRegistry(directory / "policies", trust)
            for data, share in ((ORDINARY, 0.0), (CANARY, 0.25)):
                self.registry.promote(data, record_made_up(docket, RUN, 1, data, canary_share=share))
        self.stack = stack
        self.service = self.start_service()
        keeper = ReleaseKeeper(self.registry, board := PolicyBoard())
        keeper.start()
        server = DistributionServer(board, f"unix:{directory}/policy", keeper)
        stack.callback(server.stop)
        address = server.start()
        safety = stack.enter_context(SafetyClient(self.parameters["address"]))
        listener = DecisionListener(safety, keeper, RUN)
        listener.start()
        stack.callback(listener.close)
        self.actors = {name: PolicyClient(address, trust, "numpy", name, "start") for name in (INSIDE, OUTSIDE)}
        for actor in self.actors.values():
            stack.callback(actor.close)

    def start_service(self) -> ServiceProcess:
        service = ServiceProcess(self.parameters)
        self.stack.callback(service.kill)
        return service

    def act(self, episodes: int, violating: int) -> None:
        """Records of so many episodes by the canary, one a record."""
        origin = make_origin(INSIDE, f"run-{time.monotonic_ns()}")
        payload = PayloadLayout(origin.schema).encode(make_columns())
        writer = ReplayWriter(self.replay_address, origin, window_records=256, window_bytes=1 << 24)
        for index in range(episodes):
            signals = {"episodes": 1.0, "violating_episodes": float(index < violating), "release.2.episodes": 1.0}
            if index < violating:
                signals["release.2.violating_episodes"] = 1.0
            writer.append([make_header(signals=signals)], [payload], WAIT_S)
        writer.close(WAIT_S)
        assert writer.statistics.unacknowledged == 0

    def tags(self) -> dict[str, str]:
        """What each actor acts with."""
        acting = {name: client.current() for name, client in self.actors.items()}
        return {name: "" if each is None else each.tag for name, each in acting.items()}

    def until(self, inside: str, outside: str) -> None:
        eventually(lambda: self.tags() == {INSIDE: inside, OUTSIDE: outside})

    def newest(self) -> Any:
        return read_ledger(self.directory / "safety")[-1]


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[contextlib.ExitStack]:
    monkeypatch.setattr(decisions, "POLL_S", 0.05)
    monkeypatch.setattr(decisions, "RETRY_S", 0.05)
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.mark.robustness
def test_a_good_canary_is_promoted_although_the_service_is_killed_meanwhile(
    socket_directory: Path, stack: contextlib.ExitStack
) -> None:
    address = stack.enter_context(replay_serving(REPLAY))
    scene = Scene(socket_directory, stack, address)
    scene.until("release.2", "release.1")
    scene.act(10, 1)
    scene.service.kill()
    scene.act(10, 1)
    scene.start_service()
    # 20 episodes with 2 violations are not enough; those of before the kill count among the 100.
    scene.act(80, 2)
    scene.until("release.2", "release.2")
    promotion = scene.newest()
    assert (promotion.kind, promotion.fields["release_number"]) == ("promotion", 2)
    assert promotion.fields["violating_episodes"] <= 4
    assert promotion.fields["episodes"] > 20
    (stored,) = scene.registry.promotions()
    assert stored.release == (2, artifact_digest(CANARY))


@pytest.mark.robustness
def test_a_bad_canary_is_rolled_back(socket_directory: Path, stack: contextlib.ExitStack) -> None:
    address = stack.enter_context(replay_serving(REPLAY))
    scene = Scene(socket_directory, stack, address)
    scene.until("release.2", "release.1")
    scene.act(40, 30)
    scene.until("release.1", "release.1")
    revocation = scene.newest()
    assert (revocation.kind, revocation.fields["release_number"]) == ("revocation", 2)
    assert revocation.fields["why"].startswith("canary: ")
    # The actors are told before it is stored.
    eventually(lambda: [stored.release_number for stored in scene.registry.revocations()] == [2])


@pytest.mark.robustness
def test_a_canary_of_which_nobody_hears_is_rolled_back_in_time(
    socket_directory: Path, stack: contextlib.ExitStack
) -> None:
    """Replay is away from the start."""
    scene = Scene(socket_directory, stack, f"unix:{socket_directory}/nobody.sock", canary_s_max=3.0)
    eventually(lambda: bool(scene.registry.revocations()))
    scene.until("release.1", "release.1")
    assert (
        scene.newest()
        .fields["why"]
        .startswith("canary: not decided within safety.canary_s_max = 3 s: replay does not tell: ")
    )
