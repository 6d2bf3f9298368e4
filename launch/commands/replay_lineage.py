"""`temper replay lineage`: which policies learnt from a record.

--json prints one object: position, record (as launch.record_view says; null where the store has it no longer),
last_without (update of the newest policy kept that had not learnt from it, null where none is), policies (as
launch.lineage_report says, ascending), and releases_unknown (numbers of releases whose lineage was not kept).
"""

from __future__ import annotations

from collections.abc import Iterator

from launch.arguments_replay import ReplayLineage
from launch.errors import BadInput
from launch.json_output import json_line
from launch.lineage_report import HEADING, open_index, policy_json, policy_line, require_run
from launch.record_view import HEADING as RECORD_HEADING
from launch.record_view import record_json, record_line
from launch.replay_target import POSITION_MAX, open_source
from learner.lineage_index import LearntPolicy, LineageIndex
from replay.record import LoggedRecord
from replay.source import RecordSource

_PARTS = 3
_DIGITS_MAX = 20
"""Of a 64-bit number."""


def run(arguments: ReplayLineage) -> int:
    """Prints them."""
    paths = require_run(arguments.target, arguments.run_dir)
    with open_source(arguments.target, writable=False) as source:
        position, record = _find(source, str(arguments.record))
    index = open_index(paths)
    touched, without = index.touched_by(position), index.last_without(position)
    if arguments.json:
        shown = {
            "position": position,
            "record": None if record is None else record_json(record),
            "last_without": None if without is None else without.head.version,
            "policies": [policy_json(policy) for policy in touched],
            "releases_unknown": [release.number for release in index.releases_unknown],
        }
        print(json_line(shown))
    else:
        print("\n".join(_lines(position, record, touched, without, index)))
    return 0


def _lines(
    position: int,
    record: LoggedRecord | None,
    touched: list[LearntPolicy],
    without: LearntPolicy | None,
    index: LineageIndex,
) -> Iterator[str]:
    if record is None:
        yield f"record {position} is no longer in the store, or never was"
    else:
        yield RECORD_HEADING
        yield record_line(record)
    yield ""
    if touched:
        since = "by" if without is None else f"after update {without.head.version:,}, by"
        yield f"learnt from {since} update {touched[0].head.version:,}; of the policies kept, {len(touched):,} have:"
        yield HEADING
        yield from map(policy_line, touched)
    else:
        yield f"none of the {len(index.policies):,} policies whose lineage is kept learnt from it"
    unknown = ", ".join(str(release.number) for release in index.releases_unknown)
    if unknown:
        yield f"not known of: release {unknown}"


def _find(source: RecordSource, text: str) -> tuple[int, LoggedRecord | None]:
    """Position of the record that is meant, and the record where it is still there. Raises BadInput."""
    if text.isdecimal():
        if len(text) > _DIGITS_MAX or int(text) > POSITION_MAX:
            raise BadInput(f"record {text[:40]} cannot be: positions are 0 to {POSITION_MAX}")
        position = int(text)
        found = source.get([position], with_payload=False)
        return position, found[0] if found else None
    parts = text.split("/")
    if len(parts) != _PARTS or not parts[2].isdecimal() or '"' in text or "\\" in text:
        raise BadInput(f"record {text!r} must be its position, or ACTOR/RUN/SEQUENCE")
    chosen = f'actor_id == "{parts[0]}" and run_id == "{parts[1]}" and sequence == {parts[2]}'
    record = next(iter(source.records(filter_text=chosen, limit=1)), None)
    if record is None:
        raise BadInput(f"no record {text} is in the store (any more): give its position")
    return record.position, record
