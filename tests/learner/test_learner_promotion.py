"""From candidate to release: a real registry and real signatures; only who signs is scripted."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from learner.candidate_file import NAME, CandidateFile
from learner.promotion import CandidateResult, Evaluation, PromotionDesk
from policies.artifact import artifact_digest
from policies.distribution import PolicyBoard, Seen
from policies.promotion import Promotion
from policies.registry import PolicyRegistry
from policies.revocation import Revocation
from policies.signing import SigningKey
from policies.testing import RUN_ID, make_artifact, signed_promotion, signed_revocation, signed_verdict
from policies.trust import TrustPolicy
from protos.common.v1 import common_pb2
from protos.policy.v1 import policy_pb2
from protos.safety.v1 import safety_pb2
from safety.client import OfferRefused, SafetyClient, SafetyUnavailable

Judge = Callable[[bytes, int], common_pb2.SignedStatement]


class ScriptedGate(SafetyClient):
    """Answers `evaluate` with whatever `judge` returns or raises, and lists what it is given. No connection."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.closed = threading.Event()
        self.lineage_digests: list[bytes] = []
        self.listed: list[common_pb2.SignedStatement] = []
        self.revoked: list[common_pb2.SignedStatement] = []

    def verdicts(self, limit: int = 0, timeout_s: float = 5.0) -> list[common_pb2.SignedStatement]:
        return self.listed[: limit or None]

    def revocations(
        self, run_id: str, after_number: int = 0, timeout_s: float = 10.0
    ) -> list[common_pb2.SignedStatement]:
        return self.revoked[after_number:]

    def close(self) -> None:
        self.closed.set()

    def evaluate(
        self,
        artifact: bytes,
        run_id: str,
        version: int,
        timeout_s: float,
        on_progress: Callable[[int, int], None] | None = None,
        *,
        lineage_digest: bytes = b"",
    ) -> common_pb2.SignedStatement:
        self.lineage_digests.append(lineage_digest)
        if on_progress is not None:
            on_progress(3, 10)
        return self._judge(artifact, version)


class Desk:
    """A desk with its registry and board, and the candidate that it keeps."""

    def __init__(
        self, directory: Path, judge: Judge, key: SigningKey, listed: Sequence[common_pb2.SignedStatement] = ()
    ) -> None:
        self.registry = PolicyRegistry(directory, TrustPolicy(key.verify_key, RUN_ID))
        self.board = PolicyBoard()
        self.gate = ScriptedGate(judge)
        self.gate.listed = list(listed)
        self.kept = CandidateFile(directory / NAME, RUN_ID)
        self.desk = PromotionDesk(self.gate, self.registry, self.board, RUN_ID, timeout_s=20, kept=self.kept)

    def judge_one(self, data: bytes, version: int = 7) -> CandidateResult:
        self.desk.offer(version, data)
        assert self.desk.wait(20)
        (result,) = self.desk.results()
        return result

    def released(self) -> list[policy_pb2.PolicyOffer]:
        return [o for o in self.board.offers_since(Seen())[0] if o.kind == policy_pb2.PolicyOffer.KIND_RELEASE]


KEY = SigningKey.generate()
DATA = make_artifact().to_bytes()


@pytest.fixture
def make_desk(tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    made: list[Desk] = []

    def make(judge: Judge, key: SigningKey = KEY) -> Desk:
        made.append(Desk(tmp_path, judge, key))
        return made[-1]

    yield make
    for desk in made:
        desk.desk.close()


def test_an_approved_candidate_is_registered_and_offered(make_desk: Callable[..., Desk]) -> None:
    criteria = [
        safety_pb2.CriterionResult(name="sequential_violation_rate", slice=name, figures={"rate_high": bound})
        for name, bound in (("calm", 0.01), ("windy", 0.03))
    ]
    desk = make_desk(lambda data, v: signed_verdict(KEY, artifact_digest(data), version=v, criteria=criteria))
    result = desk.judge_one(DATA)
    assert (result.decided, result.approved, result.release_number, result.version) == (True, True, 1, 7)
    assert result.return_mean == 480.0
    assert result.violation_bound == 0.03
    newest = desk.registry.newest()
    assert newest is not None
    assert newest.digest == artifact_digest(DATA)
    (offer,) = desk.released()
    assert offer.digest == newest.digest


def test_how_far_an_evaluation_has_come_is_told_while_it_lasts(make_desk: Callable[..., Desk]) -> None:
    judging, seen = threading.Event(), threading.Event()

    def judge(data: bytes, version: int) -> common_pb2.SignedStatement:
        judging.set()
        assert seen.wait(20)
        return signed_verdict(KEY, artifact_digest(data), version=version)

    desk = make_desk(judge)
    desk.desk.offer(7, DATA)
    assert judging.wait(20)
    try:
        assert desk.desk.evaluation == Evaluation(version=7, episodes_done=3, episodes_total=10)
    finally:
        seen.set()
    assert desk.desk.wait(20)
    assert desk.desk.evaluation is None


@pytest.mark.parametrize(
    "judge,reason",
    [
        (lambda data, v: signed_verdict(KEY, artifact_digest(data), approved=False, reason="unsafe"), "unsafe"),
        (lambda data, v: signed_verdict(SigningKey.generate(), artifact_digest(data)), ""),
        (lambda data, v: signed_verdict(KEY, b"\1" * 32), ""),
        (lambda data, v: signed_verdict(KEY, artifact_digest(data), run_id="another"), ""),
        (lambda data, v: signed_verdict(KEY, artifact_digest(data), expiry_time_ns=1), ""),
    ],
    ids=["rejected", "another key", "another artifact", "another run", "expired"],
)
def test_nothing_else_becomes_a_release(make_desk: Callable[..., Desk], judge: Judge, reason: str) -> None:
    desk = make_desk(judge)
    result = desk.judge_one(DATA)
    assert result.decided
    assert not result.approved
    assert result.release_number == 0
    assert reason in result.reason
    assert result.reason
    assert desk.registry.newest() is None
    assert desk.released() == []


def test_what_is_refused_decides_nothing_and_the_desk_goes_on(make_desk: Callable[..., Desk]) -> None:
    answers: list[Exception | None] = [None, OfferRefused("another run's")]

    def judge(data: bytes, version: int) -> common_pb2.SignedStatement:
        if (answer := answers.pop()) is not None:
            raise answer
        return signed_verdict(KEY, artifact_digest(data))

    desk = make_desk(judge)
    first = desk.judge_one(DATA)
    assert (first.decided, first.approved, first.reason) == (False, False, "another run's")
    assert desk.kept.read() is None
    assert desk.judge_one(DATA).approved


def test_one_candidate_at_a_time(make_desk: Callable[..., Desk]) -> None:
    release = threading.Event()

    def judge(data: bytes, version: int) -> common_pb2.SignedStatement:
        release.wait(20)
        return signed_verdict(KEY, artifact_digest(data))

    desk = make_desk(judge)
    desk.desk.offer(1, DATA)
    assert not desk.desk.idle
    with pytest.raises(queue.Full):
        desk.desk.offer(2, DATA)
    assert not desk.desk.wait(0.05)
    release.set()
    assert desk.desk.wait(20)
    assert len(desk.desk.results()) == 1


def test_closing_gives_up_the_evaluation_under_way(make_desk: Callable[..., Desk]) -> None:
    """It may take minutes, and whoever closes wants the process to end."""

    def judge(data: bytes, version: int) -> common_pb2.SignedStatement:
        assert desk.gate.closed.wait(20)
        raise SafetyUnavailable("the connection was closed")

    desk = make_desk(judge)
    desk.desk.offer(1, DATA)
    desk.desk.close()
    assert [result.decided for result in desk.desk.results()] == [False]
    assert desk.registry.newest() is None


def test_a_fault_of_the_desk_reaches_the_train_loop(make_desk: Callable[..., Desk]) -> None:
    def judge(data: bytes, version: int) -> common_pb2.SignedStatement:
        raise RuntimeError("a bug")

    desk = make_desk(judge)
    desk.desk.offer(1, DATA)
    assert desk.desk.wait(20)
    with pytest.raises(RuntimeError, match="a bug"):
        desk.desk.results()


def test_what_is_revoked_before_it_is_promoted_is_not(make_desk: Callable[..., Desk]) -> None:
    """The revocation overtakes the verdict on its way from the safety service."""

    def judge(data: bytes, version: int) -> common_pb2.SignedStatement:
        desk.registry.revoke(signed_revocation(KEY, artifact_digest(data)))
        return signed_verdict(KEY, artifact_digest(data), version=version)

    desk = make_desk(judge)
    result = desk.judge_one(DATA)
    assert (result.decided, result.approved, result.release_number) == (True, False, 0)
    assert "was revoked: it learnt from poisoned records" in result.reason
    assert desk.released() == []
    assert desk.registry.newest() is None


def test_the_digest_of_the_lineage_goes_with_the_offer(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(lambda data, v: signed_verdict(KEY, artifact_digest(data), version=v))
    desk.desk.offer(7, DATA, b"l" * 32)
    assert desk.desk.wait(20)
    assert desk.gate.lineage_digests == [b"l" * 32]


def test_a_result_names_the_artifact(make_desk: Callable[..., Desk]) -> None:
    result = make_desk(lambda data, v: signed_verdict(KEY, artifact_digest(data), version=v)).judge_one(DATA)
    assert result.artifact_digest == artifact_digest(DATA)


def test_a_canary_is_released_for_a_share_and_nobody_is_offered_until_it_is_decided(
    make_desk: Callable[..., Desk],
) -> None:
    desk = make_desk(lambda data, v: signed_verdict(KEY, artifact_digest(data), version=v, canary_share=0.25))
    assert desk.desk.released_return == -math.inf
    result = desk.judge_one(DATA)
    assert (result.approved, result.release_number, result.canary_share) == (True, 1, 0.25)
    assert (desk.board.release_number, desk.board.canary_number) == (0, 1)
    # What it achieved counts once it may act everywhere.
    assert (desk.desk.idle, desk.desk.released_return) == (False, -math.inf)
    signed = signed_promotion(KEY, artifact_digest(DATA))
    desk.board.publish_promotion(Promotion.verified(signed, TrustPolicy(KEY.verify_key, RUN_ID)))
    assert (desk.desk.idle, desk.desk.released_return) == (True, 480.0)


def test_after_a_canary_was_revoked_the_next_candidate_is_offered(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(lambda data, v: signed_verdict(KEY, artifact_digest(data), version=v, canary_share=0.25))
    desk.judge_one(DATA)
    signed = signed_revocation(KEY, artifact_digest(DATA))
    desk.board.publish_revocation(Revocation.verified(signed, TrustPolicy(KEY.verify_key, RUN_ID)))
    assert (desk.desk.idle, desk.desk.released_return) == (True, -math.inf)
