"""A candidate whose answer is lost, or cannot be taken: it is asked for again until it is in effect, and only then."""

from __future__ import annotations

import errno
import os
import queue
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from learner import promotion
from learner.candidate_file import NAME, Candidate, CandidateFile
from learner.promotion import CandidateResult
from policies.artifact import artifact_digest
from policies.testing import RUN_ID, signed_revocation, signed_verdict
from protos.common.v1 import common_pb2
from safety.client import SafetyUnavailable
from tests.learner.test_learner_promotion import DATA, KEY, Desk, Judge

LINEAGE = b"l" * 32
VERDICT = signed_verdict(KEY, artifact_digest(DATA), version=7)
WAIT_S = 20.0


def lost(data: bytes, version: int) -> common_pb2.SignedStatement:
    raise SafetyUnavailable("gone")


@pytest.fixture
def make_desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Desk]]:
    monkeypatch.setattr(promotion, "RETRY_S", 0.01)
    made: list[Desk] = []

    def make(judge: Judge, *listed: common_pb2.SignedStatement, kept: bool = False) -> Desk:
        if kept:
            CandidateFile(tmp_path / NAME, RUN_ID).keep(Candidate(7, DATA, LINEAGE))
        made.append(Desk(tmp_path, judge, KEY, listed))
        return made[-1]

    yield make
    for desk in made:
        desk.desk.close()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def result_of(desk: Desk) -> CandidateResult:
    assert desk.desk.wait(WAIT_S)
    (result,) = desk.desk.results()
    return result


def test_without_an_answer_the_same_candidate_is_offered_again(make_desk: Callable[..., Desk]) -> None:
    answers: list[Exception | None] = [None, SafetyUnavailable("gone"), SafetyUnavailable("gone")]
    offered: list[tuple[bytes, int]] = []

    def judge(data: bytes, version: int) -> common_pb2.SignedStatement:
        offered.append((data, version))
        if (answer := answers.pop()) is not None:
            raise answer
        return VERDICT

    desk = make_desk(judge)
    desk.desk.offer(7, DATA, LINEAGE)
    assert result_of(desk).release_number == 1
    assert offered == [(DATA, 7)] * 3
    assert desk.gate.lineage_digests == [LINEAGE] * 3
    assert desk.kept.read() is None


def test_until_it_is_answered_no_other_is_offered_and_it_is_kept(
    make_desk: Callable[..., Desk], caplog: pytest.LogCaptureFixture
) -> None:
    desk = make_desk(lost)
    desk.desk.offer(7, DATA, LINEAGE)
    eventually(lambda: len(desk.gate.lineage_digests) >= 4)
    assert not desk.desk.idle
    assert not desk.desk.wait(0.0)
    assert desk.desk.results() == []
    with pytest.raises(queue.Full):
        desk.desk.offer(8, DATA)
    desk.desk.close()
    assert [(each.decided, each.reason) for each in desk.desk.results()] == [(False, "gone")]
    assert desk.kept.read() == Candidate(7, DATA, LINEAGE)
    # Said once, as long as it is the same.
    assert caplog.text.count("candidate 7 has no answer in effect, going on trying: gone") == 1


@pytest.mark.parametrize("approved", [True, False])
def test_the_verdict_that_was_given_is_asked_for_before_it_is_offered_again(
    make_desk: Callable[..., Desk], approved: bool
) -> None:
    """A rejection without criteria, too: the candidate would be tested anew, at the cost of the run's error rate."""

    def judge(data: bytes, version: int) -> common_pb2.SignedStatement:
        fields: dict[str, Any] = {} if approved else {"approved": False, "reason": "it crashed", "release_number": 0}
        desk.gate.listed = [
            signed_verdict(KEY, b"o" * 32, release_number=2),
            signed_verdict(KEY, artifact_digest(data), run_id="another"),
            common_pb2.SignedStatement(payload=b"\xff"),
            signed_verdict(KEY, artifact_digest(data), version=version, **fields),
        ]
        raise SafetyUnavailable("gone")

    desk = make_desk(judge)
    desk.desk.offer(7, DATA)
    result = result_of(desk)
    assert (result.decided, result.approved, result.reason) == (True, approved, "" if approved else "it crashed")
    assert len(desk.gate.lineage_digests) == 1
    assert [offer.digest for offer in desk.released()] == ([artifact_digest(DATA)] if approved else [])
    assert desk.kept.read() is None


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_what_was_decided_before_this_start_is_adopted(make_desk: Callable[..., Desk], share: float) -> None:
    verdict = signed_verdict(KEY, artifact_digest(DATA), version=7, canary_share=share)
    desk = make_desk(lost, verdict, kept=True)
    result = result_of(desk)
    assert (result.approved, result.version, result.canary_share) == (True, 7, share)
    assert [release.digest for release in desk.registry.releases()] == [artifact_digest(DATA)]
    assert (desk.board.release_number, desk.board.canary_number) == ((0, 1) if share else (1, 0))
    assert desk.desk.idle == (not share)
    assert desk.gate.lineage_digests == []
    assert desk.kept.read() is None


def test_what_was_not_decided_before_this_start_is_offered_again(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(lambda data, version: VERDICT, kept=True)
    assert result_of(desk).approved
    assert desk.gate.lineage_digests == [LINEAGE]


def test_what_is_adopted_already_is_so_once(make_desk: Callable[..., Desk]) -> None:
    """The learner was killed between the registry and the removal of what was kept."""
    first = make_desk(lambda data, version: VERDICT)
    first.judge_one(DATA)
    desk = make_desk(lambda data, version: VERDICT, kept=True)
    assert result_of(desk).release_number == 1
    assert len(desk.registry.releases()) == 1
    assert desk.kept.read() is None


@pytest.mark.parametrize("over", ["expired", "revoked"])
def test_an_approval_that_counts_no_more_is_not_adopted(make_desk: Callable[..., Desk], over: str) -> None:
    """The registry has not heard of the revocation; the safety service is asked once more, and says what it is now."""
    fields: dict[str, Any] = {"expiry_time_ns": 1} if over == "expired" else {}

    def judge(data: bytes, version: int) -> common_pb2.SignedStatement:
        desk.gate.listed = [signed_verdict(KEY, artifact_digest(data), version=version, **fields)]
        if over == "revoked":
            desk.gate.revoked = [common_pb2.SignedStatement(), signed_revocation(KEY, artifact_digest(data))]
        if len(desk.gate.lineage_digests) == 1:
            raise SafetyUnavailable("gone")
        return signed_verdict(KEY, artifact_digest(data), approved=False, release_number=0, reason="no longer")

    desk = make_desk(judge)
    desk.desk.offer(7, DATA)
    result = result_of(desk)
    assert (result.decided, result.approved, result.reason) == (True, False, "no longer")
    assert desk.registry.releases() == []
    assert desk.released() == []


@pytest.mark.parametrize("full", ["registry", "candidate"])
def test_on_a_full_disk_it_is_tried_again_until_there_is_room(
    make_desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, full: str
) -> None:
    """What is not kept is not offered, and what cannot be registered is nobody's release yet."""
    real, failures = os.fsync, list(range(3))

    def fsync(descriptor: int) -> None:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if failures and (".verdict" if full == "registry" else ".candidate.") in path:
            failures.pop()
            assert desk.released() == []
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    desk = make_desk(lambda data, version: VERDICT)
    monkeypatch.setattr(os, "fsync", fsync)
    desk.desk.offer(7, DATA)
    assert result_of(desk).approved
    assert failures == []
    assert [release.number for release in desk.registry.releases()] == [1]
    assert len(desk.released()) == 1
    # Decided once; asked for no more after that.
    assert len(desk.gate.lineage_digests) == 1
    assert "cannot be written: No space left on device; " in caplog.text
