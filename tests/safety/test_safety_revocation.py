"""Taking releases back at the gate: signed, in the chain, for good; and what the gate compares with afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from policies.artifact import artifact_digest
from policies.signing import REVOCATION_TYPE, SigningKey, sign
from policies.trust import TrustPolicy, UntrustedError
from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2
from safety import docket
from safety.docket import Docket
from safety.history import REVOCATION, VERDICT
from safety.keys import custody
from safety.keys.custody import CustodyError
from safety.ledger import LedgerError, LedgerInUse, read_ledger
from safety.revocations import WHY_CHARACTERS_MAX, RevocationRefused, UnknownRelease
from safety.verdicts import statement_in
from tests.safety.made_up_trials import MadeUpPolicy
from tests.safety.scripted_pool import BETTER, GOOD, UNSAFE, ScriptedPool
from tests.safety.test_safety_gate import RUN, Bench, offer, rewrite

BEST = b"best"
WHY = "it learnt from poisoned records"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A gate with releases 1 (GOOD) and 2 (BETTER)."""
    monkeypatch.setattr("safety.gate.EvaluatorPool", ScriptedPool)
    monkeypatch.setattr(ScriptedPool, "script", {**ScriptedPool.script, BEST: MadeUpPolicy(500.0)})
    bench = Bench(tmp_path / "safety")
    try:
        assert [bench.offer(artifact).release_number for artifact in (GOOD, BETTER)] == [1, 2]
        yield bench
    finally:
        bench.gate.close()


def said(signed: common_pb2.SignedStatement) -> safety_pb2.RevocationStatement:
    return safety_pb2.RevocationStatement.FromString(signed.payload)


def kinds(bench: Bench) -> list[str]:
    return [entry.kind for entry in read_ledger(bench.directory)]


def test_a_revocation_says_everything_and_is_trusted(bench: Bench) -> None:
    signed = bench.gate.revoke(RUN, 2, f"  {WHY} ")
    revocation = TrustPolicy(bench.gate.verify_key, RUN).check_revocation(signed)
    assert (revocation.run_id, revocation.revocation_number, revocation.release_number) == (RUN, 1, 2)
    assert (revocation.artifact_digest, revocation.why) == (artifact_digest(BETTER), WHY)
    assert revocation.issue_time_ns == bench.now_ns
    *_, before, entry = read_ledger(bench.directory)
    assert entry.kind == REVOCATION
    assert revocation.previous_entry_digest == before.digest
    assert statement_in(entry.fields) == signed
    assert entry.fields["why"] == WHY
    with pytest.raises(UntrustedError):
        TrustPolicy(bench.gate.verify_key, "run-2").check_revocation(signed)
    with pytest.raises(UntrustedError):
        TrustPolicy(SigningKey.generate().verify_key, RUN).check_revocation(signed)


def test_revoking_again_gives_the_same_statement_also_after_a_restart(bench: Bench) -> None:
    signed = bench.gate.revoke(RUN, 2, WHY)
    assert bench.gate.revoke(RUN, 2, "another reason") == signed
    bench.restart()
    assert bench.gate.revoke(RUN, 2, "yet another") == signed
    assert kinds(bench).count(REVOCATION) == 1
    assert said(bench.gate.revoke(RUN, 1, WHY)).revocation_number == 2


@pytest.mark.parametrize(
    ("run", "number", "why", "kind", "message"),
    [
        ("run-2", 1, WHY, RevocationRefused, "releases of run 'run-1' only"),
        (RUN, 3, WHY, UnknownRelease, "no release 3; releases there are: 1 to 2"),
        (RUN, 0, WHY, UnknownRelease, "no release 0"),
        (RUN, -1, WHY, UnknownRelease, "no release -1"),
        (RUN, 1, "  ", RevocationRefused, "0 characters"),
        (RUN, 1, "x" * (WHY_CHARACTERS_MAX + 1), RevocationRefused, "1001 characters"),
    ],
)
def test_what_cannot_be_revoked_leaves_no_trace(
    bench: Bench, run: str, number: int, why: str, kind: type[Exception], message: str
) -> None:
    before = kinds(bench)
    with pytest.raises(kind, match=message):
        bench.gate.revoke(run, number, why)
    assert kinds(bench) == before


def test_there_is_an_end_to_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docket, "REVOCATIONS_MAX", 1)
    bench.gate.revoke(RUN, 1, WHY)
    with pytest.raises(RevocationRefused, match="end the run"):
        bench.gate.revoke(RUN, 2, WHY)


@pytest.mark.parametrize("restarted", [False, True])
def test_the_newest_release_that_stands_is_the_incumbent_and_numbers_go_on(bench: Bench, restarted: bool) -> None:
    bench.gate.revoke(RUN, 2, WHY)
    if restarted:
        bench.restart()
    verdict = bench.offer(BEST)
    assert verdict.incumbent_digest == artifact_digest(GOOD)
    assert (verdict.approved, verdict.release_number) == (True, 3)
    assert bench.gate.counts == (3, 0, 0, 0)
    # What passed is the incumbent of the next one.
    assert bench.offer(UNSAFE).incumbent_digest == artifact_digest(BEST)


def test_revoking_an_older_release_leaves_the_incumbent(bench: Bench) -> None:
    bench.gate.revoke(RUN, 1, WHY)
    assert bench.offer(BEST).incumbent_digest == artifact_digest(BETTER)


def test_with_every_release_revoked_the_next_one_still_gets_in(bench: Bench) -> None:
    for number in (1, 2):
        bench.gate.revoke(RUN, number, WHY)
    bench.restart()
    verdict = bench.offer(BEST)
    assert (verdict.incumbent_digest, verdict.release_number) == (b"", 3)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_revoked_artifact_is_never_approved_again(bench: Bench, restarted: bool) -> None:
    approved = bench.gate.newest_verdicts(1)[0]
    bench.gate.revoke(RUN, 2, WHY)
    if restarted:
        bench.restart()
    asked = len(bench.pool.asked)
    verdict = bench.offer(BETTER)
    assert not verdict.approved
    assert verdict.reason == f"release 2 of this artifact was revoked: {WHY}"
    assert bench.gate.newest_verdicts(1)[0] != approved
    assert len(bench.pool.asked) == asked
    # Not even once its approval has expired, when others may be offered again.
    bench.now_ns = safety_pb2.VerdictStatement.FromString(approved.payload).expiry_time_ns
    assert not bench.offer(BETTER).approved


def test_an_artifact_released_twice_is_revoked_as_a_whole(bench: Bench) -> None:
    bench.now_ns = safety_pb2.VerdictStatement.FromString(bench.gate.newest_verdicts(1)[0].payload).expiry_time_ns
    assert bench.offer(BETTER).release_number == 3
    signed = bench.gate.revoke(RUN, 2, WHY)
    assert bench.gate.revoke(RUN, 3, WHY) == signed
    assert bench.offer(BEST).incumbent_digest == artifact_digest(GOOD)


def test_a_revocation_waits_for_no_evaluation(bench: Bench) -> None:
    bench.pool.may_answer.clear()
    future = bench.gate.submit(offer(BEST), BEST, lambda ended, total: None)
    while not any(job.artifact == BEST for job in bench.pool.asked):
        pass
    bench.gate.revoke(RUN, 2, WHY)
    bench.pool.may_answer.set()
    verdict = safety_pb2.VerdictStatement.FromString(future.result(30).payload)
    assert verdict.release_number == 3
    assert kinds(bench)[-2:] == [REVOCATION, VERDICT]
    bench.restart()


def test_what_is_revoked_while_it_is_evaluated_once_more_does_not_pass(bench: Bench) -> None:
    bench.now_ns = safety_pb2.VerdictStatement.FromString(bench.gate.newest_verdicts(1)[0].payload).expiry_time_ns
    bench.pool.asked.clear()
    bench.pool.may_answer.clear()
    future = bench.gate.submit(offer(BETTER), BETTER, lambda ended, total: None)
    while not bench.pool.asked:
        pass
    bench.gate.revoke(RUN, 2, WHY)
    bench.pool.may_answer.set()
    verdict = safety_pb2.VerdictStatement.FromString(future.result(30).payload)
    assert not verdict.approved
    assert "was revoked" in verdict.reason


def test_without_the_artifact_to_fall_back_on_nothing_is_approved(bench: Bench) -> None:
    path = bench.directory / "incumbents" / artifact_digest(GOOD).hex()
    path.unlink()
    bench.gate.revoke(RUN, 2, WHY)
    verdict = bench.offer(BEST)
    assert not verdict.approved
    assert "restore it from the policy registry" in verdict.reason
    bench.gate.close()
    with pytest.raises(CustodyError, match="restore it from the policy registry"):
        bench.open()
    path.write_bytes(GOOD)
    bench.open()
    assert bench.offer(BEST).release_number == 3


def test_artifacts_of_earlier_releases_are_kept_as_far_as_there_is_room(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept() -> set[str]:
        return {path.name for path in (bench.directory / "incumbents").iterdir()}

    assert kept() == {artifact_digest(artifact).hex() for artifact in (GOOD, BETTER)}
    monkeypatch.setattr(custody, "INCUMBENTS_BYTES_MAX", len(BEST) + len(BETTER))
    bench.offer(BEST)
    assert kept() == {artifact_digest(artifact).hex() for artifact in (BETTER, BEST)}
    monkeypatch.setattr(custody, "INCUMBENTS_BYTES_MAX", 1)
    bench.restart()
    assert kept() == {artifact_digest(BEST).hex()}


def test_offline_the_same_is_decided_in_the_services_place(bench: Bench) -> None:
    with pytest.raises(LedgerInUse):
        Docket(bench.directory, RUN)
    bench.gate.close()
    desk = Docket(bench.directory, RUN)
    signed = desk.revoke(RUN, 2, WHY)
    desk.close()
    with pytest.raises(CustodyError, match="belongs to"):
        Docket(bench.directory, "run-2")
    bench.open()
    assert bench.gate.revoke(RUN, 2, WHY) == signed
    assert bench.offer(BEST).incumbent_digest == artifact_digest(GOOD)


def forge(tree: dict[str, object]) -> None:
    statement = said(statement_in(tree))
    statement.why = "forged"
    signed = sign(SigningKey.generate(), REVOCATION_TYPE, statement.SerializeToString(deterministic=True))
    tree["statement"] = signed.SerializeToString().hex()


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree.update(why="told otherwise"),
        lambda tree: tree.update(release_number=1),
        lambda tree: tree.update(statement=""),
        lambda tree: tree.update(kind="something else"),
        lambda tree: tree.update(kind=VERDICT),
        forge,
    ],
)
def test_a_revocation_edited_in_the_ledger_is_detected(
    bench: Bench, change: Callable[[dict[str, object]], None]
) -> None:
    bench.gate.revoke(RUN, 2, WHY)
    bench.offer(BEST)
    bench.gate.close()
    rewrite(bench.directory, 5, change)
    with pytest.raises(LedgerError, match=r"entry [0-9]"):
        bench.open()


def test_a_revocation_that_is_not_in_the_ledger_is_not_returned(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("safety.ledger.os.write", fail)
        with pytest.raises(LedgerError, match="No space left"):
            bench.gate.revoke(RUN, 2, WHY)
    bench.restart()
    assert REVOCATION not in kinds(bench)
    assert bench.offer(BEST).incumbent_digest == artifact_digest(BETTER)


def test_a_verdict_stands_also_where_what_is_old_cannot_be_removed(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    stray = bench.directory / "incumbents" / "stray"
    stray.mkdir()
    # It is in the ledger by then: whoever heard of an error would take it for undecided.
    assert bench.offer(BEST).release_number == 3
    assert "cannot be removed: Is a directory; the next verdict tries again" in caplog.text
    assert bench.gate.counts == (3, 0, 0, 0)
    with pytest.raises(CustodyError, match=r"incumbents cannot be removed: Is a directory"):
        bench.gate.docket.forget_what_no_verdict_needs(1 << 30)
    stray.rmdir()
