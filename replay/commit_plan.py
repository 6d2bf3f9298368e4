"""What a group commit will change, worked out before anything is written; shared by every store.

Pure: takes the counters, sequences and origins as they are and returns them as they will be, so that a store whose
transaction fails simply keeps the old ones. Eviction is not planned here: it depends on how a store keeps its records.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from replay.chain import next_link
from replay.sequences import RunSequences
from replay.store import Append, AppendOutcome, PendingRecord, RecordInvalid, StoreCounters, StoreSettings

FAMILY_NAMES_MAX = 2_048
"""Most signals that are totalled because a name such as "lease.*" is configured; further ones are not."""

FAMILY_NAME_CHARACTERS_MAX = 64
"""Nor are those with longer names: an actor chooses names, and all of them are written with each commit."""


class PlannedRecord(NamedTuple):
    """A record that will be stored: under which origin, itself, and its link. Positions are consecutive."""

    origin_id: int
    record: PendingRecord
    chain: bytes


@dataclass(frozen=True, slots=True)
class CommitPlan:
    """The state after a commit: new records from `first_position` on, changed runs, new origins, counters, outcomes."""

    first_position: int
    counters: StoreCounters
    outcomes: list[AppendOutcome] = field(default_factory=list)
    records: list[PlannedRecord] = field(default_factory=list)
    runs: dict[bytes, RunSequences] = field(default_factory=dict)
    origins: dict[bytes, bytes] = field(default_factory=dict)
    """Serialized, by digest, in the order of their ids, which follow those of the origins known before."""


def plan_commit(
    appends: Sequence[Append],
    counters: StoreCounters,
    sequences_of: Callable[[bytes], RunSequences],
    origin_ids: Mapping[bytes, int],
    settings: StoreSettings,
) -> CommitPlan:
    """Plans the commit of `appends`, deduplicated by run and sequence, on top of `counters`.

    Args:
      appends: in the order in which they arrived.
      counters: after the newest commit.
      sequences_of: what is stored of a run; never changed, copied first.
      origin_ids: ids of the origins known, by digest: 0, 1, 2, ...
      settings: which signals to total, and whether watermarks follow `acknowledged_below`.
    """
    plan = CommitPlan(counters.next_position, counters)
    chain = counters.chain_head
    for append in appends:
        sequences = plan.runs.get(append.run) or sequences_of(append.run).copy()
        if settings.durability == "async":
            sequences.raise_to(append.acknowledged_below)
        try:
            new = sequences.admit([record.sequence for record in append.records]) if append.records else ()
        except RecordInvalid as refusal:
            plan.outcomes.append(AppendOutcome(0, 0, refusal))
            continue
        plan.runs[append.run] = sequences
        if not new:
            plan.outcomes.append(AppendOutcome(0, len(append.records)))
            continue
        origin_id = origin_ids.get(append.origin_digest, -1)
        if origin_id < 0:
            plan.origins.setdefault(append.origin_digest, append.origin)
            origin_id = len(origin_ids) + list(plan.origins).index(append.origin_digest)
        first_position = plan.first_position + len(plan.records)
        for index in new:
            record = append.records[index]
            chain = next_link(chain, append.origin_digest, record.header, record.payload_digest)
            plan.records.append(PlannedRecord(origin_id, record, chain))
        duplicates = len(append.records) - len(new)
        plan.outcomes.append(AppendOutcome(len(new), duplicates, None, first_position, new, origin_id))
    return dataclasses.replace(plan, counters=_counters_after(plan, chain, settings.signal_names))


def _counters_after(plan: CommitPlan, chain_head: bytes, signal_names: tuple[str, ...]) -> StoreCounters:
    before = plan.counters
    totals = {
        # One no longer totalled is dropped: it would stand still and look like the others.
        name: before.signal_totals.get(name, 0.0) + sum(item.record.signals.get(name, 0.0) for item in plan.records)
        for name in signal_names
        if not name.endswith("*")
    }
    totals |= _family_totals(plan, totals.keys(), tuple(name[:-1] for name in signal_names if name.endswith("*")))
    return dataclasses.replace(
        before,
        next_position=before.next_position + len(plan.records),
        payload_bytes=before.payload_bytes + sum(len(item.record.payload) for item in plan.records),
        appended_steps=before.appended_steps + sum(item.record.steps for item in plan.records),
        duplicate_records=before.duplicate_records + sum(outcome.duplicates for outcome in plan.outcomes),
        chain_head=chain_head,
        signal_totals=totals,
    )


def _family_totals(plan: CommitPlan, named: Collection[str], prefixes: tuple[str, ...]) -> dict[str, float]:
    """Totals of the signals whose names begin with one of `prefixes`, but for those that are `named` themselves."""
    if not prefixes:
        return {}
    before = plan.counters.signal_totals
    totals = {name: total for name, total in before.items() if name.startswith(prefixes) and name not in named}
    for item in plan.records:
        for name, value in item.record.signals.items():
            if not name.startswith(prefixes) or name in named:
                continue
            if name in totals or (len(totals) < FAMILY_NAMES_MAX and len(name) <= FAMILY_NAME_CHARACTERS_MAX):
                totals[name] = totals.get(name, 0.0) + value
    return totals
