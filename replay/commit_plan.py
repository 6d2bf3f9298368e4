"""What a group commit will change, worked out before anything is written; shared by every store.

Pure: takes the counters and sequences as they are and returns them as they will be, so that a store whose
transaction fails simply keeps the old ones. Eviction is not planned here: it depends on how a store keeps its records.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from replay.chain import next_link
from replay.sequences import RunSequences
from replay.store import Append, AppendOutcome, PendingRecord, RecordInvalid, StoreCounters


class PlannedRecord(NamedTuple):
    """A record that will be stored: the append it came in, itself, and its link. Positions are consecutive."""

    append: Append
    record: PendingRecord
    chain: bytes


@dataclass(frozen=True, slots=True)
class CommitPlan:
    """The state after a commit: new records from `first_position` on, changed runs, counters, and outcomes."""

    first_position: int
    counters: StoreCounters
    outcomes: list[AppendOutcome] = field(default_factory=list)
    records: list[PlannedRecord] = field(default_factory=list)
    runs: dict[bytes, RunSequences] = field(default_factory=dict)


def plan_commit(
    appends: Sequence[Append],
    counters: StoreCounters,
    sequences_of: Callable[[bytes], RunSequences],
    signal_names: tuple[str, ...],
) -> CommitPlan:
    """Plans the commit of `appends`, deduplicated by run and sequence, on top of `counters`.

    Args:
      appends: in the order in which they arrived.
      counters: after the newest commit.
      sequences_of: what is stored of a run; never changed, copied first.
      signal_names: header signals to add to the totals.
    """
    outcomes: list[AppendOutcome] = []
    records: list[PlannedRecord] = []
    runs: dict[bytes, RunSequences] = {}
    chain = counters.chain_head
    duplicates = 0
    for append in appends:
        sequences = runs.get(append.run) or sequences_of(append.run).copy()
        try:
            new = sequences.admit([record.sequence for record in append.records])
        except RecordInvalid as refusal:
            outcomes.append(AppendOutcome(0, 0, refusal))
            continue
        runs[append.run] = sequences
        for index in new:
            record = append.records[index]
            chain = next_link(chain, append.origin_digest, record.header, record.payload_digest)
            records.append(PlannedRecord(append, record, chain))
        outcomes.append(AppendOutcome(len(new), len(append.records) - len(new)))
        duplicates += len(append.records) - len(new)
    before = counters.signal_totals
    totals = {
        # One no longer totalled is dropped: it would stand still and look like the others.
        name: before.get(name, 0.0) + sum(item.record.signals.get(name, 0.0) for item in records)
        for name in signal_names
    }
    after = dataclasses.replace(
        counters,
        next_position=counters.next_position + len(records),
        payload_bytes=counters.payload_bytes + sum(len(item.record.payload) for item in records),
        appended_steps=counters.appended_steps + sum(item.record.steps for item in records),
        duplicate_records=counters.duplicate_records + duplicates,
        chain_head=chain,
        signal_totals=totals,
    )
    return CommitPlan(counters.next_position, after, outcomes, records, runs)


def eviction_budget(plan: CommitPlan) -> int:
    """Most records to evict with this commit: twice what came in, so that an excess drains, but in small batches."""
    return max(256, 2 * len(plan.records))
