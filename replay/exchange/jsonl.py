"""Records as JSON Lines: one object a record, UTF-8, for people, for scripts, and for text.

The fields have the names that filters have (replay.filters) where both have the thing:

    position, actor_id, run_id, sequence, steps, lane, episode, episode_step, task_id, seed, episode_seeds,
    environment, environment_version, environment_digest, config_digest, source_revision, transformation, parents,
    policies [{first_step, version, digest}], start_time_ns, end_time_ns, encoding, payload_digest,
    signals {as the actor wrote them}, marks {written later}, quarantine (its id, 0 for none)

and with steps: columns {name: {dtype, rows}}, rows being nested lists in time order, of T, T + 1 or 1 (common.proto).

Digests are hexadecimal. Numbers are exact: integers in full, floats with as many digits as tell them from every other.
What JSON has no number for is the text "NaN", "Infinity" or "-Infinity", as in the JSON of Protocol Buffers.

Exceptions: ExportRefused; with steps SchemaError for a payload that does not fit its schema; what the iteration raises.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from replay.exchange.errors import ExportRefused
from replay.exchange.output import ExportSummary, TextFile, files_in, new_file
from replay.record import LoggedRecord
from replay.record_fields import FIELDS


def export_jsonl(records: Iterable[LoggedRecord], path: Path, *, with_steps: bool = False) -> ExportSummary:
    """Writes records to a new file.

    Args:
      records: with their payloads if `with_steps`.
      path: of the file.
      with_steps: whether to write what their columns hold.

    Raises:
      ExportRefused: there is something at `path`, there are no records, or the disk does not take them; nothing is left
        there.
    """
    count = steps = 0
    with new_file(path) as unfinished, TextFile(unfinished) as file:
        for record in records:
            file.write(_line({**_described(record), **(_columns(record) if with_steps else {})}))
            count += 1
            steps += record.header.steps
        if not count:
            raise ExportRefused("there is no record to export: nothing was written")
    return ExportSummary(count, steps, *files_in(path))


def _described(record: LoggedRecord) -> dict[str, Any]:
    header, origin, environment = record.header, record.origin, record.origin.environment
    return {
        "position": record.position,
        "actor_id": origin.actor_id,
        "run_id": origin.run_id,
        "sequence": header.sequence,
        "steps": header.steps,
        "lane": header.lane,
        "episode": header.episode,
        "episode_step": header.episode_step,
        "task_id": header.task_id,
        "seed": header.environment_seed,
        "episode_seeds": list(header.episode_seeds),
        "environment": environment.id,
        "environment_version": environment.version,
        "environment_digest": environment.code_digest.hex(),
        "config_digest": origin.config_digest.hex(),
        "source_revision": origin.source_revision,
        "transformation": header.transformation,
        "parents": list(header.parents),
        "policies": [
            {"first_step": each.first_step, "version": each.version, "digest": each.digest.hex()}
            for each in header.policies
        ],
        "start_time_ns": header.start_time_ns,
        "end_time_ns": header.end_time_ns,
        "encoding": FIELDS["encoding"].read(record),
        "payload_digest": header.payload_digest.hex(),
        "signals": dict(sorted(header.signals.items())),
        "marks": dict(sorted(record.marks.signals.items())),
        "quarantine": record.marks.quarantine,
    }


def _columns(record: LoggedRecord) -> dict[str, Any]:
    return {
        "columns": {
            name: {"dtype": values.dtype.str, "rows": values.tolist()} for name, values in record.columns.items()
        }
    }


def _line(value: Mapping[str, Any]) -> str:
    try:
        text = _json(value)
    except ValueError:  # a number that JSON has not: rare, so looked for only then
        text = _json(_named(value))
    return text + "\n"


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _named(value: Any) -> Any:
    """The value with names for what is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {name: _named(each) for name, each in value.items()}
    return [_named(each) for each in value] if isinstance(value, list) else value
