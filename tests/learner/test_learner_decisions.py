"""A learner hears of promotions from the safety service; only what is signed counts, and each is taken once."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from learner import decisions
from learner.decisions import DecisionListener
from policies.artifact import artifact_digest
from policies.distribution import PolicyBoard
from policies.registry import PolicyRegistry
from policies.release_keeper import ReleaseKeeper
from policies.signing import SigningKey
from policies.testing import RUN_ID, make_artifact, signed_promotion, signed_revocation, signed_verdict
from policies.trust import TrustPolicy
from protos.common.v1 import common_pb2
from safety.client import SafetyClient, SafetyUnavailable

KEY = SigningKey.generate()
DATA = {number: make_artifact(seed=number).to_bytes() for number in (1, 2)}
WAIT_S = 20.0

Statement = common_pb2.SignedStatement


class ScriptedSafety(SafetyClient):
    """Lists what is in `revoked` and `promoted`, or raises `failure`. No connection."""

    def __init__(self) -> None:
        self.revoked: list[Statement] = []
        self.promoted: list[Statement] = []
        self.failure: Exception | None = None
        self.asked: list[int] = []

    def revocations(self, run_id: str, after_number: int = 0, timeout_s: float = 10.0) -> list[Statement]:
        return self.revoked[after_number:]

    def promotions(self, run_id: str, after_number: int = 0, timeout_s: float = 10.0) -> list[Statement]:
        assert run_id == RUN_ID
        self.asked.append(after_number)
        if self.failure is not None:
            raise self.failure
        return self.promoted[after_number:]


class Learner:
    """Release 1, for everywhere, and 2, a canary."""

    def __init__(self, directory: Path) -> None:
        self.registry = PolicyRegistry(directory, TrustPolicy(KEY.verify_key, RUN_ID))
        for number, share in ((1, 0.0), (2, 0.25)):
            digest = artifact_digest(DATA[number])
            self.registry.promote(DATA[number], signed_verdict(KEY, digest, release_number=number, canary_share=share))
        self.board = PolicyBoard()
        self.releases = ReleaseKeeper(self.registry, self.board)
        self.safety = ScriptedSafety()
        self.listener = DecisionListener(self.safety, self.releases, RUN_ID)
        self.releases.start()

    def catch_up(self, patience_s: float = WAIT_S) -> bool:
        return self.listener.catch_up(threading.Event(), patience_s)

    def offered(self) -> tuple[int, int]:
        return self.board.release_number, self.board.canary_number


def promotion(key: SigningKey = KEY, release: int = 2) -> Statement:
    return signed_promotion(key, artifact_digest(DATA[release]), release_number=release)


@pytest.fixture
def learner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Learner]:
    monkeypatch.setattr(decisions, "POLL_S", 0.01)
    monkeypatch.setattr(decisions, "RETRY_S", 0.01)
    learner = Learner(tmp_path)
    with contextlib.closing(learner.listener):
        yield learner


def eventually(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_what_was_promoted_while_it_was_down_is_heard_at_the_start(learner: Learner) -> None:
    assert learner.offered() == (1, 2)
    learner.safety.promoted = [promotion()]
    assert learner.catch_up()
    assert learner.offered() == (2, 0)
    assert learner.releases.offered is not None
    assert learner.releases.offered.number == 2
    assert [each.release_number for each in learner.registry.promotions()] == [2]


def test_while_it_runs_it_goes_on_asking_for_what_it_has_not_heard(learner: Learner) -> None:
    learner.listener.start()
    eventually(lambda: len(learner.safety.asked) > 1)
    learner.safety.promoted = [promotion()]
    eventually(lambda: learner.offered() == (2, 0))
    eventually(lambda: learner.safety.asked[-1] == 1)
    learner.safety.revoked = [signed_revocation(KEY, artifact_digest(DATA[2]), release_number=2)]
    eventually(lambda: learner.offered() == (1, 0))


def test_both_at_once_and_it_stays_revoked(learner: Learner) -> None:
    learner.safety.promoted = [promotion()]
    learner.safety.revoked = [signed_revocation(KEY, artifact_digest(DATA[2]), release_number=2)]
    assert learner.catch_up()
    assert learner.offered() == (1, 0)


def test_what_is_not_signed_is_refused_and_asked_for_again(learner: Learner, caplog: pytest.LogCaptureFixture) -> None:
    learner.safety.promoted = [promotion(SigningKey.generate())]
    assert learner.catch_up()
    assert learner.catch_up()
    assert learner.offered() == (1, 2)
    assert learner.safety.asked == [0, 0]
    # Said once, as long as it is the same.
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("a promotion is refused: ")
    learner.safety.promoted = [promotion()]
    assert learner.catch_up()
    assert learner.offered() == (2, 0)


def test_revocations_are_heard_though_promotions_are_not_told(learner: Learner) -> None:
    learner.safety.failure = SafetyUnavailable("gone")
    learner.safety.revoked = [signed_revocation(KEY, artifact_digest(DATA[2]), release_number=2)]
    assert not learner.catch_up(patience_s=0.0)
    assert learner.offered() == (1, 0)
