"""Records as rows: every field of header and origin in a column of its own, and beside them the very bytes.

Names are those that filters have (replay.filters) where both have the thing:

    position, actor_id, run_id, sequence, steps, lane, episode, episode_step, task_id, seed, episode_seeds,
    environment, environment_version, environment_digest, config_digest, source_revision, transformation, parents,
    policies [{first_step, version, digest}], start_time, end_time (UTC, ns), encoding, payload_digest,
    signals {as the actor wrote them}, marks {written later}, quarantine (its id, 0 for none),
    layout (which steps-N.parquet has its steps; null where there is none)
    header, origin (serialized, see common.proto), payload (as stored): the record as it can be imported again

Digests are their 32 bytes.

Exceptions: none of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from replay.exchange.arrow_columns import DIGEST, SIGNALS, file_metadata, signals_array
from replay.record import LoggedRecord
from replay.record_fields import FIELDS

RECORDS_FILE = "records.parquet"

RECORDS = "records"
"""The kind of these files."""

QUARANTINES_KEY = b"temper.quarantines"

_UTC_NS = pa.timestamp("ns", tz="UTC")
_POLICIES = pa.list_(pa.struct([("first_step", pa.uint32()), ("version", pa.uint64()), ("digest", DIGEST)]))

RECORDS_SCHEMA = pa.schema(
    [
        ("position", pa.uint64()),
        ("actor_id", pa.string()),
        ("run_id", pa.string()),
        ("sequence", pa.uint64()),
        ("steps", pa.uint32()),
        ("lane", pa.uint32()),
        ("episode", pa.uint64()),
        ("episode_step", pa.uint32()),
        ("task_id", pa.string()),
        ("seed", pa.uint64()),
        ("episode_seeds", pa.list_(pa.uint64())),
        ("environment", pa.string()),
        ("environment_version", pa.string()),
        ("environment_digest", DIGEST),
        ("config_digest", DIGEST),
        ("source_revision", pa.string()),
        ("transformation", pa.string()),
        ("parents", pa.list_(pa.uint64())),
        ("policies", _POLICIES),
        ("start_time", _UTC_NS),
        ("end_time", _UTC_NS),
        ("encoding", pa.string()),
        ("payload_digest", DIGEST),
        ("signals", SIGNALS),
        ("marks", SIGNALS),
        ("quarantine", pa.uint32()),
        ("layout", pa.uint32()),
        ("header", pa.binary()),
        ("origin", pa.binary()),
        ("payload", pa.binary()),
    ],
    file_metadata(RECORDS),
)

FEW_VALUES = (
    "actor_id",
    "run_id",
    "task_id",
    "environment",
    "environment_version",
    "environment_digest",
    "config_digest",
    "source_revision",
    "transformation",
    "encoding",
    "quarantine",
    "layout",
    "origin",
)


class Row(NamedTuple):
    """A record, and which steps file its steps are in."""

    record: LoggedRecord
    layout: int | None


def records_table(rows: Sequence[Row]) -> Any:
    """The table of these records, in order; with their payloads."""
    records = [row.record for row in rows]
    headers = [record.header for record in records]
    origins = [record.origin for record in records]
    environments = [origin.environment for origin in origins]
    columns: dict[str, Any] = {
        "position": [record.position for record in records],
        "actor_id": [origin.actor_id for origin in origins],
        "run_id": [origin.run_id for origin in origins],
        "sequence": [header.sequence for header in headers],
        "steps": [header.steps for header in headers],
        "lane": [header.lane for header in headers],
        "episode": [header.episode for header in headers],
        "episode_step": [header.episode_step for header in headers],
        "task_id": [header.task_id for header in headers],
        "seed": [header.environment_seed for header in headers],
        "episode_seeds": [list(header.episode_seeds) for header in headers],
        "environment": [environment.id for environment in environments],
        "environment_version": [environment.version for environment in environments],
        "environment_digest": [environment.code_digest for environment in environments],
        "config_digest": [origin.config_digest for origin in origins],
        "source_revision": [origin.source_revision for origin in origins],
        "transformation": [header.transformation for header in headers],
        "parents": [list(header.parents) for header in headers],
        "policies": [[(each.first_step, each.version, each.digest) for each in header.policies] for header in headers],
        "start_time": [header.start_time_ns for header in headers],
        "end_time": [header.end_time_ns for header in headers],
        "encoding": [FIELDS["encoding"].read(record) for record in records],
        "payload_digest": [header.payload_digest for header in headers],
        "quarantine": [record.marks.quarantine for record in records],
        "layout": [row.layout for row in rows],
        "header": [header.SerializeToString(deterministic=True) for header in headers],
        "origin": [origin.SerializeToString(deterministic=True) for origin in origins],
        "payload": [record.payload for record in records],
    }
    arrays = {
        "signals": signals_array([header.signals for header in headers]),
        "marks": signals_array([record.marks.signals for record in records]),
    }
    for field in RECORDS_SCHEMA:
        if field.name not in arrays:
            arrays[field.name] = pa.array(columns[field.name], field.type)
    return pa.table([arrays[field.name] for field in RECORDS_SCHEMA], schema=RECORDS_SCHEMA)
