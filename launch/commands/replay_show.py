"""`temper replay show`: one record in full.

--json prints one object: the record as launch.record_view says, "payload_bytes" (as stored), "columns" [{name, dtype,
shape, min, max, mean, nan}], and with --steps "first_steps" [{step, and each column's row by its name}]. What is stored
once per record has the shape [1, ...] whatever T is, and is in no step.
"""

from __future__ import annotations

from collections.abc import Sequence

from launch.arguments_replay import ReplayShow
from launch.errors import BadInput
from launch.json_output import json_line
from launch.record_columns import column_json, column_lines, step_json, step_lines
from launch.record_view import record_json, record_lines
from launch.replay_target import POSITION_MAX, locate, open_source
from replay.record import LoggedRecord
from replay.source import RecordSource


def run(arguments: ReplayShow) -> int:
    """Prints it."""
    if arguments.steps < 0:
        raise BadInput(f"--steps {arguments.steps} is negative: write how many steps to print")
    if not 0 <= arguments.record <= POSITION_MAX:
        raise BadInput(f"record {arguments.record} cannot be: positions are 0 to {POSITION_MAX}")
    with open_source(arguments.target, writable=False) as source:
        record = _find(source, arguments.record, arguments.target)
    columns, steps = record.columns, min(arguments.steps, record.header.steps)
    if arguments.json:
        shown = {**record_json(record), "payload_bytes": len(record.payload), "columns": column_json(columns)}
        print(json_line(shown | ({"first_steps": step_json(record.step_columns, steps)} if steps else {})))
        return 0
    lines: Sequence[str] = [*record_lines(record), f"payload      {len(record.payload):,} bytes", ""]
    lines = [*lines, *column_lines(columns)]
    if steps:
        lines = [*lines, "", *step_lines(record.step_columns, steps)]
    print("\n".join(lines))
    return 0


def _find(source: RecordSource, position: int, target: str) -> LoggedRecord:
    """The record with its payload. Raises BadInput, which says why there is none."""
    found = source.get([position])
    if found:
        return found[0]
    if source.get([position], with_payload=False):
        raise BadInput(f"record {position} in {target} is damaged: its payload is not what was appended")
    if locate(target).shards > 1:
        raise BadInput(f"there is no record {position} in {target}")
    stats = source.stats()
    first, end = stats.evicted_records, stats.appended_records
    if position < first:
        raise BadInput(f"record {position} in {target} was evicted: the oldest that is left is {first}")
    if first == end:
        raise BadInput(f"there is no record {position} in {target}, nor any other")
    raise BadInput(f"there is no record {position} in {target}: there are {first} to {end - 1}")
