"""`temper replay stats`: the counters of a store and of its tables.

--json prints one object: the fields of StatsResponse in replay.proto under their names, the chain head in hexadecimal,
and "file_per_live", the bytes on disk for each byte of a record (null where there is no record). Of a directory that
nobody serves, what only a service counts is 0, and a curated table has available all that it chooses from.
"""

from __future__ import annotations

from collections.abc import Iterator

from launch.arguments_replay import ReplayStats
from launch.json_output import json_line, message_json, printable
from launch.replay_target import open_source
from protos.replay.v1 import replay_pb2

_HEADING = (
    f"{'table':<16} {'kind':<12} {'available':>11} {'inserts':>12} {'samples':>12} {'per insert':>10} {'min size':>9}  "
    f"{'inserts waited':>14}  {'samples waited':>14}"
)


def run(arguments: ReplayStats) -> int:
    """Prints them."""
    with open_source(arguments.target, writable=False) as source:
        stats = source.stats()
    if arguments.json:
        print(json_line({**message_json(stats), "file_per_live": _file_per_live(stats)}))
    else:
        print("\n".join(_lines(stats)))
    return 0


def _lines(stats: replay_pb2.StatsResponse) -> Iterator[str]:
    yield (
        f"records     {stats.records:,} with {stats.payload_bytes:,} payload bytes; "
        f"{stats.quarantined_records:,} in quarantine, {stats.damaged_records:,} found damaged"
    )
    yield (
        f"ever        {stats.appended_records:,} records with {stats.appended_steps:,} steps appended, "
        f"{stats.evicted_records:,} evicted, {stats.duplicate_records:,} sent again, {stats.refused_records:,} refused"
    )
    ratio = _file_per_live(stats)
    spread = "" if ratio is None else f", {ratio:.2f} for each byte of a record"
    yield f"disk        {stats.file_bytes:,} bytes in {stats.segments} segments{spread}"
    if stats.durability:
        yield (
            f"commits     {stats.commits:,} since the start, {stats.commit_ms_mean:.1f} ms on average, "
            f"durability {stats.durability}"
        )
        yield (
            f"appending   {stats.append_streams} streams, {stats.pending_bytes:,} bytes on the way, "
            f"{stats.disk_wait_s:.1f} s waited for the disk"
        )
    for name, total in sorted(stats.signal_totals.items()):
        yield f"total       {printable(name)} = {total:,.6g}"
    yield f"chain head  {stats.chain_head.hex()}"
    yield ""
    yield _HEADING
    for table in stats.tables:
        # Which records pass its filter, only a service knows.
        at_most = "<=" if table.kind == "curated" and not stats.durability else ""
        available = f"{at_most}{table.available:,}"
        yield (
            f"{table.name:<16} {table.kind:<12} {available:>11} {table.inserts:>12,} {table.samples:>12,} "
            f"{table.samples_per_insert:>10.4g} {table.min_size:>9,}  {table.insert_wait_s:>12.1f} s  "
            f"{table.sample_wait_s:>12.1f} s"
        )


def _file_per_live(stats: replay_pb2.StatsResponse) -> float | None:
    return stats.file_bytes / stats.live_bytes if stats.live_bytes else None
