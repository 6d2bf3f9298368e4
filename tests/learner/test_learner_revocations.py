"""A learner that was not told of a revocation hears of it from the safety service; only what is signed counts."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from learner import decisions
from learner.decisions import DecisionListener
from policies.artifact import artifact_digest
from policies.distribution import PolicyBoard
from policies.registry import PolicyRegistry
from policies.release_keeper import ReleaseKeeper
from policies.signing import SigningKey
from policies.testing import RUN_ID, make_artifact, signed_revocation, signed_verdict
from policies.trust import TrustPolicy
from protos.common.v1 import common_pb2
from safety.client import SafetyClient, SafetyUnavailable
from safety.revocations import RevocationRefused

KEY, OTHER_KEY = SigningKey.generate(), SigningKey.generate()
DATA = {number: make_artifact(seed=number).to_bytes() for number in (1, 2, 3)}
WAIT_S = 20.0

Statement = common_pb2.SignedStatement


class ScriptedSafety(SafetyClient):
    """Lists what is in `listed`, or raises `failure`; notes what it is asked for. No connection."""

    def __init__(self) -> None:
        self.listed: list[Statement] = []
        self.failure: Exception | None = None
        self.asked: list[int] = []

    def revocations(self, run_id: str, after_number: int = 0, timeout_s: float = 10.0) -> list[Statement]:
        assert run_id == RUN_ID
        self.asked.append(after_number)
        if self.failure is not None:
            raise self.failure
        return self.listed[after_number:]

    def promotions(self, run_id: str, after_number: int = 0, timeout_s: float = 10.0) -> list[Statement]:
        return []


class Learner:
    """What a learner has of releases: numbers 1 to 3 in its registry."""

    def __init__(self, directory: Path) -> None:
        self.registry = PolicyRegistry(directory, TrustPolicy(KEY.verify_key, RUN_ID))
        for number, data in DATA.items():
            self.registry.promote(data, signed_verdict(KEY, artifact_digest(data), release_number=number))
        self.board = PolicyBoard()
        self.releases = ReleaseKeeper(self.registry, self.board)
        self.safety = ScriptedSafety()
        self.listener = DecisionListener(self.safety, self.releases, RUN_ID)
        self.releases.start()

    def stored(self) -> list[int]:
        return [revocation.release_number for revocation in self.registry.revocations()]

    def catch_up(self, patience_s: float = WAIT_S) -> bool:
        return self.listener.catch_up(threading.Event(), patience_s)


@pytest.fixture
def learner(tmp_path: Path) -> Learner:
    return Learner(tmp_path)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "POLL_S", 0.01)
    monkeypatch.setattr(decisions, "RETRY_S", 0.01)


def revocation(number: int, release: int, key: SigningKey = KEY) -> Statement:
    digest = artifact_digest(DATA[release])
    return signed_revocation(key, digest, revocation_number=number, release_number=release, why="poisoned")


def eventually(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_what_was_revoked_while_it_was_down_is_heard_before_anything_is_offered(
    learner: Learner, tmp_path: Path
) -> None:
    learner.safety.listed = [revocation(1, 3), revocation(2, 1)]
    assert learner.board.release_number == 3
    assert learner.catch_up()
    assert learner.releases.offered is not None
    assert (learner.board.release_number, learner.releases.offered.number) == (2, 2)
    assert learner.stored() == [3, 1]
    # It is for good: another start need not be told.
    again = PolicyBoard()
    ReleaseKeeper(PolicyRegistry(tmp_path, learner.registry.trust), again).start()
    assert again.release_number == 2


def test_with_everything_revoked_nothing_is_offered(learner: Learner) -> None:
    learner.safety.listed = [revocation(number, number) for number in (1, 2, 3)]
    assert learner.catch_up()
    assert (learner.board.release_number, learner.releases.offered) == (0, None)


def test_a_forged_one_is_refused_and_keeps_out_no_other(learner: Learner, caplog: pytest.LogCaptureFixture) -> None:
    another_runs = signed_revocation(KEY, artifact_digest(DATA[1]), revocation_number=3, run_id="run-2")
    learner.safety.listed = [revocation(1, 2, OTHER_KEY), revocation(2, 3), another_runs, Statement()]
    assert learner.catch_up()
    assert (learner.stored(), learner.board.release_number) == ([3], 2)
    assert [line.getMessage()[:24] for line in caplog.records if line.levelno == logging.ERROR] == [
        "a revocation is refused:"
    ] * 3
    # They are asked for again, and spoken of once.
    caplog.clear()
    assert learner.catch_up()
    assert learner.safety.asked == [0, 0]
    assert [line for line in caplog.records if line.levelno == logging.ERROR] == []


def test_a_flood_of_forged_ones_is_told_in_a_few_lines(learner: Learner, caplog: pytest.LogCaptureFixture) -> None:
    learner.safety.listed = [Statement()] * 100
    assert learner.catch_up()
    assert len(caplog.records) == 6
    assert caplog.records[-1].getMessage() == "and 95 more"


def test_what_is_known_is_not_asked_for_again(learner: Learner) -> None:
    learner.safety.listed = [revocation(1, 3)]
    learner.catch_up()
    learner.catch_up()
    learner.safety.listed.append(revocation(2, 2))
    learner.catch_up()
    assert learner.safety.asked == [0, 1, 1]
    assert learner.board.release_number == 1


def test_after_a_silence_all_of_them_are_heard_again(learner: Learner) -> None:
    """The ledger may have been set back meanwhile: numbers count anew from there."""
    learner.safety.listed = [revocation(1, 1), revocation(2, 2)]
    learner.catch_up()
    learner.safety.failure = SafetyUnavailable("gone")
    assert not learner.catch_up(0.0)
    learner.safety.listed, learner.safety.failure = [revocation(1, 3)], None
    learner.catch_up()
    # Its number is another's, so it cannot be stored; nobody acts with it all the same.
    assert learner.board.release_number == 0
    assert learner.stored() == [1, 2]


@pytest.mark.parametrize(
    "failure", [SafetyUnavailable("gone"), RevocationRefused("another run's"), RuntimeError("odd")]
)
def test_without_an_answer_the_release_is_offered_all_the_same(
    learner: Learner, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    learner.safety.failure = failure
    assert not learner.catch_up(0.1)
    assert learner.board.release_number == 3
    assert len(learner.safety.asked) > 1
    (line,) = caplog.records
    assert line.getMessage().endswith(f"is offered all the same: {failure}")


def test_a_request_to_stop_ends_the_waiting(learner: Learner) -> None:
    learner.safety.failure = SafetyUnavailable("gone")
    stop = threading.Event()
    stop.set()
    assert not learner.listener.catch_up(stop, WAIT_S)
    assert len(learner.safety.asked) == 1


def test_it_goes_on_asking_whatever_comes(
    learner: Learner, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a live run: whoever revoked was killed before the learner was told, or the safety service was away."""
    monkeypatch.setattr(decisions, "PATIENCE_S", 0.05)
    learner.safety.failure = SafetyUnavailable("gone")
    learner.listener.start()
    try:
        eventually(lambda: bool(caplog.records))
        learner.safety.failure = RuntimeError("odd")
        learner.safety.listed = [revocation(1, 3)]
        asked = len(learner.safety.asked)
        eventually(lambda: len(learner.safety.asked) > asked + 3)
        # One line, though it goes on, and for another reason.
        assert [line.getMessage() for line in caplog.records] == [
            "what has been revoked or promoted since is not known: gone"
        ]
        learner.safety.failure = None
        eventually(lambda: learner.board.release_number == 2)
        learner.safety.listed.append(revocation(2, 2))
        eventually(lambda: learner.board.release_number == 1)
        assert learner.stored() == [3, 2]
    finally:
        learner.listener.close()
    asked = len(learner.safety.asked)
    learner.listener.close()
    assert len(learner.safety.asked) == asked


def test_closing_one_that_never_started(learner: Learner) -> None:
    learner.listener.close()


def test_a_disk_that_is_full_is_tried_again(
    learner: Learner, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    learner.safety.listed = [revocation(1, 3)]
    with monkeypatch.context() as patch:
        patch.setattr("policies.registry.replace_file", fail)
        assert learner.catch_up()
        # The actors drop it, and have the one before it.
        assert (learner.stored(), learner.board.release_number) == ([], 2)
        assert "release 3 is revoked, but that is not stored" in caplog.text
        assert learner.releases.offered is not None
        assert learner.releases.offered.number == 2
    assert learner.catch_up()
    assert (learner.stored(), learner.board.release_number) == ([3], 2)
