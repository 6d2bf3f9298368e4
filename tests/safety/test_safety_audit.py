"""Audits of real ledgers: what verifies, and that a chosen seed, a cut and a rewriting are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from policies.artifact import artifact_digest
from policies.signing import SigningKey
from protos.safety.v1 import safety_pb2
from safety.audit import audit_ledger
from safety.docket import Docket
from safety.evaluation import EpisodeOutcomes
from safety.key_history import OPENED
from safety.ledger import Ledger, LedgerError, read_ledger
from safety.suite import draw_seeds, seed_commitment, seed_manifest_digest
from safety.verdicts import Assessment, Offer, Rule

RUN = "run-1"
EPISODES = 20
OUTCOMES = EpisodeOutcomes(np.ones(EPISODES), np.zeros(EPISODES), np.ones(EPISODES, np.int64))
PASSED = safety_pb2.CriterionResult(name="violation_rate", passed=True)
FAILED = safety_pb2.CriterionResult(name="violation_rate", passed=False)


def decide(docket: Docket, artifact: bytes, assessment: Assessment, seed_key: bytes | None = None) -> None:
    """A verdict as the gate gives it, on the seeds of a key: by default the one that was committed to."""
    key = seed_key or docket.seed_key(docket.evaluations + 1)
    rule = Rule(bytes(32), bytes(32), seed_manifest_digest(draw_seeds(key, EPISODES)))
    docket.record(Offer(RUN, 1, artifact_digest(artifact), len(artifact)), artifact, assessment, rule, 60.0)


@pytest.fixture
def docket(tmp_path: Path) -> Docket:
    """One approved, one rejected, one that could not be judged; then a revocation."""
    docket = Docket(tmp_path, RUN)
    decide(docket, b"good", Assessment("", (PASSED,), OUTCOMES))
    decide(docket, b"bad", Assessment("", (FAILED,), OUTCOMES))
    decide(docket, b"broken", Assessment("it crashed"))
    docket.revoke(RUN, 1, "poisoned")
    docket.close()
    return docket


def test_a_ledger_that_is_as_it_was_written(docket: Docket, tmp_path: Path) -> None:
    entries = read_ledger(tmp_path)
    audit = audit_ledger(entries, docket.verify_key, RUN)
    assert (audit.entries, audit.approved, audit.rejected, audit.revocations) == (5, 1, 2, 1)
    assert [(each.purpose, each.entry) for each in audit.keys] == [("verdict", 0), ("lease", 0)]
    assert audit.keys[0].key.raw == docket.verify_key.raw
    assert audit.evaluations_checked == 2
    assert audit.head == entries[-1].digest
    assert audit_ledger(entries, docket.verify_key, RUN, (2, entries[2].digest)) == audit
    assert audit_ledger((), docket.verify_key, RUN).head == b""


def test_each_key_was_committed_to_before_its_candidate_was_seen(docket: Docket, tmp_path: Path) -> None:
    opened, *entries = read_ledger(tmp_path)
    assert opened.kind == OPENED
    committed = opened.fields["seed_commitment"]
    for entry in entries[:3]:
        assert seed_commitment(bytes.fromhex(entry.fields["seed_key"])).hex() == committed
        committed = entry.fields["next_seed_commitment"]


def test_chosen_seeds_are_found(tmp_path: Path) -> None:
    docket = Docket(tmp_path, RUN)
    decide(docket, b"good", Assessment("", (PASSED,), OUTCOMES))
    decide(docket, b"lucky", Assessment("", (PASSED,), OUTCOMES), seed_key=b"x" * 32)
    docket.close()
    with pytest.raises(LedgerError, match="on the seeds that follow from its key: they were chosen"):
        audit_ledger(read_ledger(tmp_path), docket.verify_key, RUN)


def test_a_key_that_was_not_committed_to_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a gate that draws keys until the candidate is lucky: it has the signing key, and says what it did."""
    docket = Docket(tmp_path, RUN)
    decide(docket, b"good", Assessment("", (PASSED,), OUTCOMES))
    chosen = b"x" * 32
    monkeypatch.setattr(Docket, "seed_key", lambda *_: chosen)
    with pytest.raises(LedgerError, match="another key of held-out seeds than was committed to"):
        decide(docket, b"lucky", Assessment("", (PASSED,), OUTCOMES))
    docket.close()
    monkeypatch.undo()
    with pytest.raises(LedgerError, match="entry 2 reveals another key of held-out seeds"):
        audit_ledger(read_ledger(tmp_path), docket.verify_key, RUN)
    with pytest.raises(LedgerError, match="entry 2 reveals another key"):
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
    with pytest.raises(LedgerError, match="kept head is of entry 4, but the ledger ends before 4: it was cut off"):
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
