"""Lineages on a real disk: what is kept for ever, what is thinned, what is told apart, and what damage does."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
from pathlib import Path

import pytest

from learner.lineage import ConsumedRecords, LineageError
from learner.lineage_archive import NEWEST_KEPT, LineageArchive, lineage_paths
from learner.lineage_file import (
    MAGIC,
    Lineage,
    LineageHead,
    decode_lineage,
    encode_lineage,
    lineage_digest,
    read_lineage,
)
from learner.lineage_provenance import ConsumedProvenance
from replay.testing import make_header, make_origin


def lineage(
    version: int, *, checkpoint: bool = False, digest: bytes = b"", records: range | None = None, time_ns: int = 0
) -> Lineage:
    """One of a run that learns from ten records in each update, unless `records` says which."""
    records = range(10 * version) if records is None else records
    provenance = ConsumedProvenance()
    provenance.add([make_header()], [make_origin()])
    head = LineageHead(version, "run", 20 * len(records), time_ns or version + 1, checkpoint, digest)
    return Lineage(head, ConsumedRecords(records), provenance)


def digest_of(version: int) -> bytes:
    return version.to_bytes(32, "big")


def versions(directory: Path) -> list[int]:
    return [read_lineage(path).head.version for path in lineage_paths(directory)]


def test_a_file_says_all_and_shows_it_to_a_person(tmp_path: Path) -> None:
    path = LineageArchive(tmp_path).write(lineage(7, checkpoint=True, digest=digest_of(7)))
    assert path.name == "000000000007.lineage"
    again = read_lineage(path)
    assert again.head == LineageHead(7, "run", 1400, 8, True, digest_of(7))
    assert again.head.kinds == ("checkpoint", "candidate")
    assert again.consumed == ConsumedRecords(range(70))
    assert again.provenance.to_json() == lineage(7).provenance.to_json()
    first, second, third = path.read_bytes().split(b"\n")[:3]
    assert first + b"\n" == MAGIC
    assert b'"version":7' in second
    assert b'"records":70' in second
    assert b'"streams"' in third


def test_every_flipped_byte_and_every_cut_is_found() -> None:
    data = encode_lineage(lineage(3, checkpoint=True))
    for index in range(len(data)):
        with pytest.raises(LineageError):
            decode_lineage(data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :], "it")
        with pytest.raises(LineageError):
            decode_lineage(data[:index], "it")


def test_checkpoint_and_candidate_of_one_policy_are_one_file(tmp_path: Path) -> None:
    archive = LineageArchive(tmp_path)
    archive.write(lineage(5, checkpoint=True))
    archive.write(lineage(5, digest=digest_of(5)))
    archive.write(lineage(5, checkpoint=True))
    (path,) = lineage_paths(tmp_path)
    assert read_lineage(path).head.kinds == ("checkpoint", "candidate")


def test_the_same_count_reached_again_with_other_records_is_another_policy(tmp_path: Path) -> None:
    LineageArchive(tmp_path).write(lineage(5, digest=digest_of(1)))
    # A learner that went back to an older checkpoint, and was then given other records.
    again = LineageArchive(tmp_path)
    other = range(1, 51)
    again.write(lineage(5, digest=digest_of(2), records=other))
    again.write(lineage(5, checkpoint=True, records=other))
    again.write(lineage(5, digest=digest_of(3), records=other))
    assert [path.name for path in lineage_paths(tmp_path)] == [
        "000000000005.lineage",
        "000000000005-2.lineage",
        "000000000005-3.lineage",
    ]
    heads = [read_lineage(path).head for path in lineage_paths(tmp_path)]
    assert [head.artifact_digest for head in heads] == [digest_of(1), digest_of(2), digest_of(3)]
    assert [head.checkpoint for head in heads] == [False, True, False]


def test_the_newest_of_each_kind_stay_and_older_ones_ever_fewer(tmp_path: Path) -> None:
    archive = LineageArchive(tmp_path)
    for version in range(1, 2_001):
        is_checkpoint = version % 10 == 0
        digest = b"" if is_checkpoint else digest_of(version)
        archive.write(lineage(version, checkpoint=is_checkpoint, digest=digest, records=range(version)))
    kept = versions(tmp_path)
    heads = [read_lineage(path).head for path in lineage_paths(tmp_path)]
    assert [head.version for head in heads if head.checkpoint][-NEWEST_KEPT:] == list(range(1_370, 2_001, 10))
    assert {head.version for head in heads if head.artifact_digest} >= {v for v in range(1_930, 2_000) if v % 10}
    assert kept[0] <= 2_000 / 8
    for one, other in itertools.pairwise(kept):
        assert other - one <= max(16, (2_000 - one) / 4)
    assert len(kept) <= 2 * NEWEST_KEPT + 16 * math.log(2_000)


def test_those_of_releases_stay_for_ever(tmp_path: Path) -> None:
    archive = LineageArchive(tmp_path, [digest_of(3)])
    for version in range(1, 400):
        archive.write(lineage(version, digest=digest_of(version), records=range(version)))
        if version == 5:
            archive.keep(digest_of(5))
        if version == 200:
            # As after a restart, which hears of the releases from the registry.
            archive = LineageArchive(tmp_path, [digest_of(3), digest_of(5)])
    kept = versions(tmp_path)
    assert {3, 5} <= set(kept)
    assert not {2, 4, 6} & set(kept)


def test_after_going_back_the_newest_are_those_written_last(tmp_path: Path) -> None:
    """The candidate at the gate must not be thinned because an abandoned future had higher counts."""
    archive = LineageArchive(tmp_path)
    for version in range(1_000, 1_200):
        archive.write(lineage(version, digest=digest_of(version), records=range(version), time_ns=version))
    again = LineageArchive(tmp_path)
    for version in range(900, 930):
        records = range(5_000, 5_000 + version)
        again.write(lineage(version, digest=digest_of(version), records=records, time_ns=10_000 + version))
        assert version in versions(tmp_path)
    assert set(range(900, 930)) <= set(versions(tmp_path))


def test_unfinished_writes_are_cleared_and_damage_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = LineageArchive(tmp_path).write(lineage(5, checkpoint=True))
    path.write_bytes(b"nonsense")
    (tmp_path / ".000000000006.lineage.123").write_bytes(b"half")
    with caplog.at_level(logging.WARNING):
        archive = LineageArchive(tmp_path)
    assert "does not begin with temper.lineage.v1" in caplog.text
    archive.write(lineage(5, checkpoint=True))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["000000000005-2.lineage", "000000000005.lineage"]
    assert path.read_bytes() == b"nonsense"


def test_what_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(LineageError, match="cannot be kept"):
        LineageArchive(tmp_path / "file")
    archive = LineageArchive(tmp_path / "archive")
    (tmp_path / "archive").rmdir()
    with pytest.raises(LineageError, match="cannot be written"):
        archive.write(lineage(1, checkpoint=True))


def test_the_digest_stays_when_a_checkpoint_joins_and_changes_with_what_was_learnt(tmp_path: Path) -> None:
    archive = LineageArchive(tmp_path)
    # Scattered and dense ones: arrays, bitmaps and runs of the set.
    records = [*range(0, 40_000, 3), *range(70_000, 90_000), *range(200_000, 200_500, 7)]
    candidate = dataclasses.replace(lineage(7, digest=digest_of(7)), consumed=ConsumedRecords(records))
    digest = lineage_digest(candidate)
    path = archive.write(candidate)
    assert lineage_digest(read_lineage(path)) == digest
    archive.write(
        dataclasses.replace(
            lineage(7, checkpoint=True, time_ns=99),
            head=LineageHead(7, "run", candidate.head.env_steps, 99, True),
            consumed=ConsumedRecords(records),
        )
    )
    assert read_lineage(path).head.kinds == ("checkpoint", "candidate")
    assert lineage_digest(read_lineage(path)) == digest
    others = [
        dataclasses.replace(candidate, consumed=ConsumedRecords(records[1:])),
        dataclasses.replace(candidate, provenance=ConsumedProvenance()),
        dataclasses.replace(candidate, head=dataclasses.replace(candidate.head, env_steps=1)),
        dataclasses.replace(candidate, head=dataclasses.replace(candidate.head, artifact_digest=digest_of(8))),
    ]
    assert len({digest, *map(lineage_digest, others)}) == 5


def test_teachers_are_part_of_what_a_verdict_binds_and_nobody_of_what_it_bound_before(tmp_path: Path) -> None:
    plain = lineage(7, digest=digest_of(7))
    assert b"teachers" not in encode_lineage(plain)
    assert decode_lineage(encode_lineage(plain), "x").head.teachers == ()
    taught = dataclasses.replace(plain, head=dataclasses.replace(plain.head, teachers=("run-t@3:00ff",)))
    path = LineageArchive(tmp_path).write(taught)
    assert read_lineage(path).head.teachers == ("run-t@3:00ff",)
    assert lineage_digest(read_lineage(path)) == lineage_digest(taught)
    other = dataclasses.replace(plain, head=dataclasses.replace(plain.head, teachers=("run-t@4:00ff",)))
    assert len({lineage_digest(each) for each in (plain, taught, other)}) == 3
