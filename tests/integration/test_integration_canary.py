"""Canaries among real processes: the safety service that judges releases by its suite and canaries by what happens in
the field, replay, and four actors on one host, of which two have names in the canary's share.

Of the learner only what it does with releases is here. Records say who acted with what, and when.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from actors.config import EnvironmentConfig
from learner import decisions
from learner.decisions import DecisionListener
from policies.artifact import artifact_digest
from policies.canary import in_share
from policies.distribution import DistributionServer, PolicyBoard
from policies.registry import PolicyRegistry
from policies.release_keeper import ReleaseKeeper
from policies.signing import VerifyKey
from policies.trust import TrustPolicy
from protos.safety.v1 import safety_pb2
from replay.client import ReplayClient
from replay.config import ReplayConfig
from replay.testing import serving as replay_serving
from safety.client import SafetyClient
from safety.docket import Docket
from safety.ledger import LedgerEntry, read_ledger
from safety.testing import constant_artifact, record_made_up
from tests.integration.field_environment import FIELD
from tests.integration.training_run import kill
from tests.safety.actor_process import ActorProcess, acting
from tests.safety.safety_process import CONFIG, RUN, ServiceProcess, parameters_of

pytestmark = [pytest.mark.robustness, pytest.mark.timeout(60)]

WAIT_S = 20.0
SHARE = 0.25
NAMES = [f"actor-{index:04d}" for index in range(4)]
INSIDE = {name for name in NAMES if in_share(name, SHARE)}
ENVIRONMENT = EnvironmentConfig(name="gym:tests.integration.field_environment:Field-v0")
HARMLESS, HARMFUL = (constant_artifact(action).to_bytes() for action in (0, 1))
REPLAY = ReplayConfig(store="memory", fresh_unconsumed_max=100_000)


class Acted(NamedTuple):
    """Who acted in a record, with which artifacts, and when that began (ns since the epoch)."""

    actor_id: str
    digests: set[bytes]
    start_time_ns: int


class Scene:
    """Everything but the safety service and the actors, which a test starts, and kills."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack, **canary: Any) -> None:
        self.directory, self._stack = directory, stack
        self._replay_address = stack.enter_context(replay_serving(REPLAY))
        self._replay = stack.enter_context(ReplayClient(self._replay_address))
        config = dataclasses.replace(
            CONFIG, episodes=40, planted_violations=30, lanes=32, canary_share=SHARE, monitor_poll_s=0.05, **canary
        )
        self._parameters = parameters_of(directory, config, ENVIRONMENT, self._replay_address)

    def start(self) -> None:
        """The safety service, and what the learner does with what it says."""
        self.start_service()
        key = self.directory / "safety" / "verify_key.pem"
        self.registry = PolicyRegistry(self.directory / "policies", TrustPolicy(VerifyKey.load(key), RUN))
        keeper = ReleaseKeeper(self.registry, board := PolicyBoard())
        keeper.start()
        self.board = board
        server = DistributionServer(board, f"unix:{self.directory}/policy", keeper)
        self._stack.callback(server.stop)
        policy_address = server.start()
        self.safety = self._stack.enter_context(SafetyClient(self._parameters["address"]))
        listener = DecisionListener(self.safety, keeper, RUN)
        listener.start()
        self._stack.callback(listener.close)
        self.actors: ActorProcess = self._stack.enter_context(
            acting(
                self.directory,
                variables={FIELD: "1"},
                environment=ENVIRONMENT.name,
                processes=len(NAMES),
                run_id=RUN,
                replay_address=self._replay_address,
                policy_address=policy_address,
                trust_key_path=str(key),
            )
        )

    def start_service(self) -> ServiceProcess:
        self.service = ServiceProcess(self._parameters)
        self._stack.callback(self.service.kill)
        return self.service

    def release(self, data: bytes) -> safety_pb2.VerdictStatement:
        """Has it judged by the suite, and offers it to the actors."""
        signed = self.safety.evaluate(data, RUN, 1, WAIT_S)
        verdict = safety_pb2.VerdictStatement.FromString(signed.payload)
        assert (verdict.approved, verdict.canary_share) == (True, SHARE), verdict.reason
        self.registry.promote(data, signed)
        self.board.publish_release(1, data, signed)
        return verdict

    def acted(self) -> list[Acted]:
        """What has been done so far, in the order of the log."""
        return [
            Acted(
                record.origin.actor_id,
                {span.digest for span in record.header.policies},
                record.header.start_time_ns,
            )
            for record in self._replay.records()
        ]

    def episodes(self, release_number: int) -> float:
        """Episodes that the release has acted in, as replay counts them."""
        return self._replay.stats(WAIT_S).signal_totals.get(f"release.{release_number}.episodes", 0.0)

    def newest(self) -> LedgerEntry:
        return read_ledger(self.directory / "safety")[-1]

    def decided(self, kind: str) -> LedgerEntry:
        """The ledger's last entry, once it is of that kind."""
        eventually(f"the newest entry is a {kind}", lambda: self.newest().kind == kind)
        return self.newest()


def eventually(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {WAIT_S:g} s: {what}"
        time.sleep(0.02)


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[contextlib.ExitStack]:
    monkeypatch.setattr(decisions, "POLL_S", 0.05)
    monkeypatch.setattr(decisions, "RETRY_S", 0.05)
    with contextlib.ExitStack() as stack:
        yield stack


def test_a_harmless_canary_acts_in_its_share_and_then_everywhere(
    socket_directory: Path, stack: contextlib.ExitStack
) -> None:
    # Some two hundred episodes, of which there are fifty a second.
    scene = Scene(socket_directory, stack, canary_violation_rate_max=0.02)
    scene.start()
    assert scene.release(HARMLESS).release_number == 1
    eventually("all of the share act", lambda: {each.actor_id for each in scene.acted()} == INSIDE)

    # The service that counts, and one of those that act.
    scene.service.kill()
    victim = min(INSIDE)
    kill(scene.actors.pid_of(victim))
    before = scene.episodes(1)
    eventually("the others of the share go on", lambda: scene.episodes(1) > before)
    eventually("the actor is replaced", lambda: scene.actors.starts_of(victim) == 2)
    assert scene.newest().kind == "verdict"
    scene.start_service()

    promotion = scene.decided("promotion")
    assert (promotion.fields["release_number"], promotion.fields["violating_episodes"]) == (1, 0)
    # Those of before the kill count.
    assert promotion.fields["episodes"] > before
    eventually("everybody acts", lambda: {each.actor_id for each in scene.acted()} == set(NAMES))
    acted = scene.acted()
    assert all(each.digests == {artifact_digest(HARMLESS)} for each in acted)
    early = [each for each in acted if each.start_time_ns < promotion.time_ns]
    assert {each.actor_id for each in early} == INSIDE
    assert scene.actors.stop() == 0


def test_one_that_does_harm_in_the_field_alone_is_taken_back_and_the_one_before_acts(
    socket_directory: Path, stack: contextlib.ExitStack
) -> None:
    scene = Scene(socket_directory, stack)
    (socket_directory / "safety").mkdir()
    with contextlib.closing(Docket(socket_directory / "safety", RUN)) as docket:
        first = record_made_up(docket, RUN, 1, HARMLESS)
    scene.start()
    harmless, harmful = artifact_digest(HARMLESS), artifact_digest(HARMFUL)
    scene.registry.promote(HARMLESS, first)
    scene.board.publish_release(1, HARMLESS, first)
    eventually("everybody acts", lambda: {each.actor_id for each in scene.acted()} == set(NAMES))

    verdict = scene.release(HARMFUL)
    assert (verdict.release_number, verdict.incumbent_digest) == (2, harmless)
    revocation = scene.decided("revocation")
    assert revocation.fields["release_number"] == 2
    assert revocation.fields["why"].startswith("canary: ")
    assert "enough evidence that it is not acceptable" in revocation.fields["why"]

    def back() -> set[str]:
        """The actors that have begun records since, with the release before and nothing else."""
        since = [each for each in scene.acted() if each.start_time_ns > revocation.time_ns]
        return {each.actor_id for each in since if each.digests == {harmless}}

    eventually("all are back", lambda: back() == set(NAMES))
    position = len(scene.acted())
    # And stay there, the one that starts anew too.
    victim = max(INSIDE)
    kill(scene.actors.pid_of(victim))
    eventually("the actor is replaced", lambda: scene.actors.starts_of(victim) == 2)
    restarted_ns = time.time_ns()
    eventually(
        "it acts",
        lambda: any(each.actor_id == victim and each.start_time_ns > restarted_ns for each in scene.acted()[position:]),
    )
    acted = scene.acted()
    assert all(each.digests == {harmless} for each in acted[position:])
    assert {each.actor_id for each in acted if harmful in each.digests} == INSIDE
    assert scene.episodes(1) > 0
    # The actors are told before it is stored.
    eventually("it is stored", lambda: [each.release_number for each in scene.registry.revocations()] == [2])
    assert scene.actors.stop() == 0
