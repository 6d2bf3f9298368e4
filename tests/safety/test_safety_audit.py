"""Audits of real ledgers: what verifies, and that a chosen seed, a cut and a rewriting are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies.signing import SigningKey
from safety.audit import audit_ledger
from safety.docket import Docket
from safety.evidence.file import evidence_path
from safety.keys.history import OPENED
from safety.leases.authority import BREACH
from safety.ledger import Ledger, LedgerError, read_ledger
from safety.statistics.combination import Outcome
from safety.suites.manifest import seed_commitment
from safety.testing import MADE_UP_EPISODES, made_up_assessment, record_made_up
from safety.verdicts import Assessment

RUN = "run-1"
EPISODES = MADE_UP_EPISODES


@pytest.fixture
def docket(tmp_path: Path) -> Docket:
    """One approved, one rejected, one that could not be judged; then a revocation."""
    docket = Docket(tmp_path, RUN)
    record_made_up(docket, RUN, 1, b"good")
    record_made_up(docket, RUN, 1, b"bad", made_up_assessment(docket, Outcome.REJECTED))
    record_made_up(docket, RUN, 1, b"broken", Assessment("it is too large"))
    docket.revoke(RUN, 1, "poisoned")
    docket.close()
    return docket


def test_a_ledger_that_is_as_it_was_written(docket: Docket, tmp_path: Path) -> None:
    entries = read_ledger(tmp_path)
    audit = audit_ledger(entries, docket.verify_key, RUN)
    assert (audit.entries, audit.approved, audit.rejected, audit.revocations) == (7, 1, 2, 1)
    assert (audit.deferred, audit.void, audit.broken_off, audit.under_way, audit.rule_changes) == (0, 0, 0, 0, ())
    assert (audit.evaluations_checked, audit.evidence_checked, audit.evidence_absent) == (2, 0, 2)
    assert [(each.purpose, each.entry) for each in audit.keys] == [("verdict", 0), ("lease", 0)]
    assert audit.keys[0].key.raw == docket.verify_key.raw
    assert (audit.promotions, audit.breaches) == (0, 0)
    assert audit.head == entries[-1].digest
    assert audit_ledger(entries, docket.verify_key, RUN, (2, entries[2].digest)) == audit
    assert audit_ledger((), docket.verify_key, RUN).head == b""


def test_each_key_was_committed_to_before_its_candidate_was_seen(docket: Docket, tmp_path: Path) -> None:
    opened, *entries = read_ledger(tmp_path)
    assert opened.kind == OPENED
    committed = opened.fields["seed_commitment"]
    for entry in (entry for entry in entries if entry.kind == "verdict"):
        assert seed_commitment(bytes.fromhex(entry.fields["seed_key"])).hex() == committed
        committed = entry.fields["next_seed_commitment"]


def test_chosen_seeds_are_found(tmp_path: Path) -> None:
    docket = Docket(tmp_path, RUN)
    record_made_up(docket, RUN, 1, b"good")
    record_made_up(docket, RUN, 1, b"lucky", made_up_assessment(docket, seed_key=b"x" * 32))
    docket.close()
    with pytest.raises(LedgerError, match="on the seeds that follow from its key: they were chosen"):
        audit_ledger(read_ledger(tmp_path), docket.verify_key, RUN)


def test_a_key_that_was_not_committed_to_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a gate that draws keys until the candidate is lucky: it has the signing key, and says what it did."""
    docket = Docket(tmp_path, RUN)
    record_made_up(docket, RUN, 1, b"good")
    chosen = b"x" * 32
    monkeypatch.setattr(Docket, "seed_key", lambda *_: chosen)
    with pytest.raises(LedgerError, match="another key of held-out seeds than was committed to"):
        record_made_up(docket, RUN, 1, b"lucky")
    docket.close()
    monkeypatch.undo()
    with pytest.raises(LedgerError, match="entry 4 reveals another key of held-out seeds"):
        audit_ledger(read_ledger(tmp_path), docket.verify_key, RUN)
    with pytest.raises(LedgerError, match="entry 4 reveals another key"):
        Docket(tmp_path, RUN)


def test_a_ledger_that_commits_to_nothing_is_refused(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(OPENED, lambda _: {"run_id": RUN, "key_id": "0" * 16})
    ledger.close()
    with pytest.raises(LedgerError, match="entry 0 commits to no seeds: an older version"):
        audit_ledger(read_ledger(tmp_path), SigningKey.generate().verify_key, RUN)


def test_what_was_cut_off_or_rewritten_is_found_by_a_kept_head(docket: Docket, tmp_path: Path) -> None:
    entries = read_ledger(tmp_path)
    kept = len(entries) - 1, entries[-1].digest
    with pytest.raises(LedgerError, match="kept head is of entry 6, but the ledger ends before 6: it was cut off"):
        audit_ledger(entries[:-1], docket.verify_key, RUN, kept)
    with pytest.raises(LedgerError, match="entry 3 is not what it was"):
        audit_ledger(entries, docket.verify_key, RUN, (3, bytes(32)))


def test_more_episodes_than_anybody_runs_are_not_drawn(
    docket: Docket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safety.audit.EPISODES_MAX", EPISODES - 1)
    entries = read_ledger(tmp_path)
    with pytest.raises(LedgerError, match=f"verdict 1 claims {EPISODES} episodes"):
        audit_ledger(entries, docket.verify_key, RUN)


def test_another_run_or_key_is_refused(docket: Docket, tmp_path: Path) -> None:
    entries = read_ledger(tmp_path)
    with pytest.raises(LedgerError, match="is for run 'run-1', this is run 'run-2'"):
        audit_ledger(entries, docket.verify_key, "run-2")
    with pytest.raises(LedgerError, match="entry 0 does not name keys for which key"):
        audit_ledger(entries, SigningKey.generate().verify_key, RUN)


def evidence_of(directory: Path, number: int) -> Path:
    """The evidence of a verdict, from 1."""
    entry = [entry for entry in read_ledger(directory) if entry.kind == "verdict"][number - 1]
    return evidence_path(directory, bytes.fromhex(entry.fields["evidence_digest"]))


def test_evidence_is_counted_where_it_is_and_no_matter_where_it_is_not(docket: Docket, tmp_path: Path) -> None:
    entries = read_ledger(tmp_path)
    audit = audit_ledger(entries, docket.verify_key, RUN, directory=tmp_path)
    assert (audit.evidence_checked, audit.evidence_absent) == (2, 0)
    evidence_of(tmp_path, 1).unlink()
    audit = audit_ledger(entries, docket.verify_key, RUN, directory=tmp_path)
    assert (audit.evidence_checked, audit.evidence_absent) == (1, 1)
    # What the ledger has to do with a docket is not touched by that.
    Docket(tmp_path, RUN).close()


def test_evidence_that_was_altered_is_found(docket: Docket, tmp_path: Path) -> None:
    path = evidence_of(tmp_path, 2)
    path.write_bytes(path.read_bytes().replace(b'"costs":[0.0,', b'"costs":[1.0,'))
    with pytest.raises(LedgerError, match=r"the evidence of verdict 2 .* is damaged: .* its digest differs"):
        audit_ledger(read_ledger(tmp_path), docket.verify_key, RUN, directory=tmp_path)


def test_a_verdict_that_does_not_follow_from_its_evidence_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a gate that signs other counts than it wrote down: it has the signing key, and says what it did."""
    docket = Docket(tmp_path, RUN)
    monkeypatch.setattr("safety.verdicts.violating_episodes", lambda slices: 3)
    record_made_up(docket, RUN, 1, b"good")
    docket.close()
    monkeypatch.undo()
    with pytest.raises(LedgerError, match=r"the evidence of verdict 1 .* 0 episodes have a cost, the verdict has 3"):
        audit_ledger(read_ledger(tmp_path), docket.verify_key, RUN, directory=tmp_path)


def test_promotions_and_breaches_are_counted(tmp_path: Path) -> None:
    docket = Docket(tmp_path, RUN)
    record_made_up(docket, RUN, 1, b"canary", canary_share=0.5)
    docket.promote(1, episodes=40, violating_episodes=0, why="harmless")
    docket.ledger.append(BREACH, lambda _: {"run_id": RUN, "epoch": 1})
    docket.close()
    audit = audit_ledger(read_ledger(tmp_path), docket.verify_key, RUN)
    assert (audit.approved, audit.promotions, audit.breaches) == (1, 1, 1)
