"""Brings what was found out about the records of an export to where they were imported: signals, and quarantines.

A signal that a record has there under the same name stays: what was found there is newer. One that is a position, as
`duplicate_of`, becomes the position that this record has now, and is left out where it is not among the records
imported. Quarantines come with their filter, reason and time, also those that were lifted, and hold the records that
they were the oldest one in force for; a record that somebody freed there by lifting it stays free. So the same export
again changes nothing, and one that was interrupted is completed.

Exceptions: ImportRefused; what the parts raise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from pyroaring import BitMap64

from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2
from replay.exchange.parquet_import import Finding, ParquetRecords
from replay.exchange.sink import SinkPart
from replay.exchange.whereabouts import RunPositions, Whereabouts
from replay.filters import CHARACTERS_MAX, unshifted_filter
from replay.provenance import SIGNAL_MAX
from replay.sharding import global_position, local_position, shard_of
from replay.store import Store, run_key

POSITION_SIGNALS = frozenset({"duplicate_of", "near_duplicate_of"})
"""Signals that name another record of the log by its position (replay.curation.duplicates)."""

_GROUP_FINDINGS = 4_096
_SHARDS_NS_MAX = 60_000_000_000
"""The shards of one log are put under quarantine one after the other, within so long."""
_ID = re.compile(r"[A-Za-z0-9._-]+")
"""As of every run in a log."""


class MarkSummary(NamedTuple):
    """What came of an export's marks."""

    marked: int
    """Records that signals were written about."""
    quarantined: int
    """Records that came under quarantine."""


def import_marks(
    records: ParquetRecords, parts: Sequence[SinkPart], progress: Callable[[int], object] = lambda _count: None
) -> MarkSummary:
    """Writes the marks of records that were imported.

    Args:
      records: the export.
      parts: the logs that its records are in, by the shard's number. Where one has no `store`, quarantines are left
        out: its records under quarantine were not to be imported either.
      progress: called with how many more findings have been gone through.
    """
    exported, any_marks = RunPositions(), False
    for finding in records.findings():
        exported.add(finding.run, finding.sequence, finding.position)
        any_marks = any_marks or bool(finding.signals or finding.quarantine)
    stores = [part.store for part in parts if part.store is not None]
    held = stores if len(stores) == len(parts) else []
    if not any_marks and not (held and records.quarantines):
        return MarkSummary(0, 0)
    where = Whereabouts(exported, _stored(parts, exported)) if any_marks else Whereabouts(exported, RunPositions())
    quarantined = _bring_quarantines(records, where, held) if held else 0
    marked = 0
    for group in _groups(records.findings()):
        marked += _annotate(group, where, parts)
        progress(len(group))
    return MarkSummary(marked, quarantined)


def _stored(parts: Sequence[SinkPart], exported: RunPositions) -> RunPositions:
    """The positions that records of these runs have."""
    stored = RunPositions()
    filter_text = _runs_filter(exported)
    for shard, part in enumerate(parts):
        for record in part.records(filter_text):
            run = run_key(record.origin)
            if run in exported.runs:
                stored.add(run, record.header.sequence, global_position(shard, record.position))
    return stored


def _runs_filter(exported: RunPositions) -> str:
    """Lets pass the records of these runs; every record where they are too many to be named."""
    names = sorted({name for run in exported.runs if _ID.fullmatch(name := run.decode().partition("\0")[2])})
    text = f"run_id in [{', '.join(map(repr, names))}]"
    return text if len(text) <= CHARACTERS_MAX else ""


def _groups(findings: Iterator[Finding]) -> Iterator[list[Finding]]:
    while group := list(islice(findings, _GROUP_FINDINGS)):
        yield group


def _bring_quarantines(records: ParquetRecords, where: Whereabouts, stores: Sequence[Store]) -> int:
    """Brings every quarantine; returns how many records came under one."""
    positions: dict[int, list[BitMap64]] = {}
    for group in _groups(finding for finding in records.findings() if finding.quarantine):
        for finding, now in zip(group, where.now([finding.position for finding in group]), strict=True):
            if now is not None:
                of_shards = positions.setdefault(finding.quarantine, [BitMap64() for _ in stores])
                of_shards[shard_of(now)].add(local_position(now))
    nameless = sorted(positions.keys() - {entry.id for entry in records.quarantines})
    entries = [*records.quarantines, *map(_nameless, nameless)]
    return sum(_bring(entry, positions.get(entry.id, [BitMap64() for _ in stores]), stores) for entry in entries)


def _bring(entry: replay_pb2.QuarantineEntry, positions: Sequence[BitMap64], stores: Sequence[Store]) -> int:
    """Brings one, as many times to each shard, for shards must have the same; returns how many records it holds now."""
    same = [
        [each for each in store.quarantines() if _is_same(each.entry, entry, shard)]
        for shard, store in enumerate(stores)
    ]
    new = [
        wanted - BitMap64.union(BitMap64(), *(each.positions for each in known))
        for wanted, known in zip(positions, same, strict=True)
    ]
    times = max(1, *(len(known) + bool(part) for known, part in zip(same, new, strict=True)))
    for store, known, part in zip(stores, same, new, strict=True):
        for nth in range(times - len(known)):
            store.quarantine(entry, part if nth == 0 else BitMap64())
    return sum(map(len, new))


def _is_same(there: replay_pb2.QuarantineEntry, entry: replay_pb2.QuarantineEntry, shard: int) -> bool:
    """Whether a quarantine of a shard is one of another log, where it has another id.

    Each shard has the filter with its own positions, and set the time for itself.
    """
    filter_text = unshifted_filter(there.filter, global_position(shard, 0))
    moments_ns = abs(there.time_ns - entry.time_ns)
    return (filter_text, there.why) == (entry.filter, entry.why) and moments_ns <= _SHARDS_NS_MAX


def _nameless(quarantine_id: int) -> replay_pb2.QuarantineEntry:
    """One that the export says nothing about but its number."""
    why = f"under quarantine {quarantine_id} where it was exported"
    return replay_pb2.QuarantineEntry(id=quarantine_id, filter="quarantined", why=why)


def _annotate(group: Sequence[Finding], where: Whereabouts, parts: Sequence[SinkPart]) -> int:
    """Writes the signals of a group that are not there; returns about how many records."""
    marked = [finding for finding in group if finding.signals]
    signals: list[dict[int, Mapping[str, float]]] = [{} for _ in parts]
    for finding, now in zip(marked, where.now([finding.position for finding in marked]), strict=True):
        if now is not None and (moved := _moved(finding.signals, where)):
            signals[shard_of(now)][local_position(now)] = moved
    annotated = 0
    for part, of_part in zip(parts, signals, strict=True):
        there = part.marks(sorted(of_part)) if of_part else {}
        new = {position: _without(of_part[position], there.get(position)) for position in sorted(of_part)}
        new = {position: values for position, values in new.items() if values}
        annotated += part.annotate(new) if new else 0
    return annotated


def _moved(signals: Mapping[str, float], where: Whereabouts) -> Mapping[str, float]:
    """The signals, those that are positions with the positions of today."""
    moved = {}
    for name, value in signals.items():
        if name not in POSITION_SIGNALS:
            moved[name] = value
        elif value >= 0 and value.is_integer():
            now = where.now([int(value)])[0]
            if now is not None and now <= SIGNAL_MAX:
                moved[name] = float(now)
    return moved


def _without(signals: Mapping[str, float], there: common_pb2.RecordMarks | None) -> Mapping[str, float]:
    """The signals under names that are not there yet."""
    return {name: value for name, value in signals.items() if there is None or name not in there.signals}
