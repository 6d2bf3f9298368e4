"""Both questions about lineage, asked of a run that went back once: which policies, and what did they learn from."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyroaring import BitMap64

from learner.lineage import LineageError
from learner.lineage_archive import LineageArchive
from learner.lineage_index import LearntPolicy, LineageIndex
from policies.artifact import artifact_digest
from policies.registry import PolicyRegistry
from policies.signing import SigningKey
from policies.testing import RUN_ID, make_artifact, signed_revocation, signed_verdict
from policies.trust import TrustPolicy
from protos.safety.v1 import safety_pb2
from tests.learner.test_learner_lineage_archive import digest_of, lineage

KEY = SigningKey.generate()
GOOD = make_artifact().to_bytes()


@pytest.fixture
def index(tmp_path: Path) -> LineageIndex:
    """Update 2 and 4, then a crash: back to 2, and on to 4 again with other records, and to 6, which is released.

    Release 2 has no lineage; release 1, of update 6, is revoked.
    """
    archive = LineageArchive(tmp_path / "lineage")
    archive.write(lineage(2, checkpoint=True, records=range(20)))
    archive.write(lineage(4, digest=digest_of(4), records=range(40)))
    again = [*range(20), *range(40, 60)]
    for version, positions in ((4, again), (6, [*again, *range(60, 80)])):
        one = lineage(version, digest=artifact_digest(GOOD) if version == 6 else digest_of(40))
        one.consumed.__init__(positions)  # type: ignore[misc]
        archive.write(one)
    registry = PolicyRegistry(tmp_path / "policies", TrustPolicy(KEY.verify_key, RUN_ID))
    registry.promote(GOOD, signed_verdict(KEY, artifact_digest(GOOD), version=6))
    other = make_artifact(seed=5).to_bytes()
    registry.promote(other, signed_verdict(KEY, artifact_digest(other), version=9, release_number=2))
    registry.revoke(signed_revocation(KEY, artifact_digest(GOOD)))
    rejected = safety_pb2.VerdictStatement(reason="unsafe")
    return LineageIndex(tmp_path / "lineage", registry.releases(), {digest_of(4): rejected}, {2})


def names(policies: list[LearntPolicy]) -> list[tuple[int, bytes]]:
    return [(policy.head.version, policy.head.artifact_digest[-1:]) for policy in policies]


def test_which_policies_learnt_from_a_record(index: LineageIndex) -> None:
    assert [policy.head.version for policy in index.touched_by(5)] == [2, 4, 4, 6]
    assert names(index.touched_by(25)) == [(4, b"\4")]
    assert [policy.head.version for policy in index.touched_by(45)] == [4, 6]
    assert [policy.head.version for policy in index.touched_by(70)] == [6]
    assert index.touched_by(80) == []


def test_when_it_was_learnt_from(index: LineageIndex) -> None:
    assert index.last_without(5) is None
    for position, version in ((25, 2), (45, 2), (70, 4)):
        without = index.last_without(position)
        assert without is not None
        assert without.head.version == version
    assert index.last_without(99) is None


def test_what_became_of_each(index: LineageIndex) -> None:
    checkpoint, rejected, _, released = index.policies
    assert (checkpoint.checkpoint_there, checkpoint.releases, checkpoint.verdict) == (True, (), None)
    assert rejected.verdict is not None
    assert rejected.verdict.reason == "unsafe"
    (release,) = released.releases
    assert release.number == 1
    assert release.revocation is not None
    assert [release.number for release in index.releases_unknown] == [2]


def test_which_policies_any_of_many_records_reached(index: LineageIndex) -> None:
    found = index.overlapping(BitMap64([19, 20, 41, 42, 999]))
    assert [(policy.head.version, count) for policy, count in found] == [(2, 1), (4, 2), (4, 3), (6, 3)]


def test_a_policy_by_update_or_by_release(index: LineageIndex) -> None:
    assert index.of_version(6) is index.policies[3]
    # The last one that reached it, and where none was kept, the newest before it.
    assert index.of_version(4) is index.of_version(5) is index.policies[2]
    assert index.of_release(1) is index.policies[3]
    with pytest.raises(LineageError, match="the first kept is of update 2"):
        index.of_version(1)
    with pytest.raises(LineageError, match=r"no lineage of release 2 in .*: 1$"):
        index.of_release(2)


def test_what_was_abandoned_is_no_ancestor(index: LineageIndex) -> None:
    assert index.ancestors(index.policies[3]) == [index.policies[0], index.policies[2]]


def test_damage_is_left_out_and_named(tmp_path: Path) -> None:
    archive = LineageArchive(tmp_path)
    for version in (1, 2, 3):
        path = archive.write(lineage(version, checkpoint=True))
        if version == 2:
            path.write_bytes(path.read_bytes()[:-1])
    index = LineageIndex(tmp_path)
    assert [policy.head.version for policy in index.policies] == [1, 3]
    (problem,) = index.damaged
    assert "000000000002.lineage is not what was written" in problem


def test_of_a_run_that_kept_none(tmp_path: Path) -> None:
    index = LineageIndex(tmp_path / "missing")
    assert (index.policies, index.touched_by(0)) == ([], [])
    with pytest.raises(LineageError, match="none is kept"):
        index.of_version(1)


def test_the_checkpoint_that_is_there_is_that_of_the_last_time(tmp_path: Path) -> None:
    """A crash after the lineage and before the checkpoint was whole; then the same count again, with other records."""
    LineageArchive(tmp_path).write(lineage(5, checkpoint=True))
    archive = LineageArchive(tmp_path)
    archive.write(lineage(5, checkpoint=True, records=range(1, 51)))
    archive.write(lineage(6, checkpoint=True))
    index = LineageIndex(tmp_path, checkpoints={5, 7})
    assert [(policy.head.version, policy.checkpoint_there) for policy in index.policies] == [
        (5, False),
        (5, True),
        (6, False),
    ]
