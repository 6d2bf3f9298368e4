"""The counters of several replay servers as if they were one's. Adds up only; whom to ask is not known here."""

from __future__ import annotations

from collections.abc import Iterable

from protos.replay.v1 import replay_pb2

_SUMMED = (
    "records", "payload_bytes", "appended_records", "appended_steps", "evicted_records", "duplicate_records",
    "refused_records", "file_bytes", "live_bytes", "commits", "append_streams", "quarantined_records",
    "damaged_records", "segments", "disk_wait_s", "pending_bytes",
)  # fmt: skip
_SUMMED_OF_TABLES = (
    "available", "inserts", "samples", "insert_wait_s", "sample_wait_s", "min_size", "min_diff", "max_diff",
)  # fmt: skip


def summed_stats(each: Iterable[replay_pb2.StatsResponse]) -> replay_pb2.StatsResponse:
    """The sum of the shards' counters: of tables by name, of commit times the mean over all commits.

    What belongs to one log only is left out: the head of its chain, the first position of a table.
    """
    each = list(each)
    totals = replay_pb2.StatsResponse(
        **{name: sum(getattr(stats, name) for stats in each) for name in _SUMMED},
        durability=", ".join(sorted({stats.durability for stats in each if stats.durability})),
    )
    if totals.commits:
        totals.commit_ms_mean = sum(stats.commits * stats.commit_ms_mean for stats in each) / totals.commits
    tables: dict[str, replay_pb2.TableStats] = {}
    for stats in each:
        for name, value in stats.signal_totals.items():
            totals.signal_totals[name] += value
        for table in stats.tables:
            _add_table(tables, table)
    totals.tables.extend(tables.values())
    return totals


def _add_table(tables: dict[str, replay_pb2.TableStats], table: replay_pb2.TableStats) -> None:
    total = tables.get(table.name)
    if total is None:
        total = tables[table.name] = replay_pb2.TableStats()
        total.CopyFrom(table)
        total.first_position = 0
        return
    for name in _SUMMED_OF_TABLES:
        setattr(total, name, getattr(total, name) + getattr(table, name))
    for stratum, records in table.strata.items():
        total.strata[stratum] += records
