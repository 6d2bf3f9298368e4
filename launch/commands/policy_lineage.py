"""`temper policy lineage`: what a policy learnt from.

--json prints one object: the policy as launch.lineage_report says, and
    ranges [[first, last]] of the records' positions, the first 1,000 of them, and ranges_left_out;
    environments [{id, version, code_digest, records, steps}], streams [{actor_id, run_id, records, steps}] of the actor
    runs heard of last, behaviours [{first_version, last_version, digest, steps}] (digest "" for several policies),
    transformations {how they were derived, "" straight from an actor: records}
    ancestors: the policies kept that it grew out of
    positions: with --records, from --from on, at most --limit of them, and next_position (null: there are no more)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from launch.arguments_replay import PolicyLineage
from launch.errors import BadInput
from launch.json_output import json_line, local_time, printable
from launch.lineage_report import HEADING, open_index, policy_json, policy_line, policy_words
from launch.replay_target import check_range
from launch.run_paths import RunPaths, require_run_directory
from launch.summary import last_word
from learner.lineage import LineageError
from learner.lineage_index import LearntPolicy, LineageIndex
from learner.lineage_provenance import Behaviour, ConsumedProvenance

_RANGES_SHOWN, _RANGES_LISTED = 5, 1_000
_BARS = 12
_BAR_WIDTH = 30
_ANCESTORS_SHOWN = 10
_RELEASE = "release:"
_DIGITS_MAX = 20
"""Of a 64-bit number."""


def run(arguments: PolicyLineage) -> int:
    """Prints it."""
    check_range(arguments.from_position, arguments.limit)
    paths = require_run_directory(arguments.run_dir)
    index = open_index(paths)
    policy = _find(index, str(arguments.version), _newest_update(paths, index))
    ancestors = index.ancestors(policy)
    positions, following = _page(policy, arguments.from_position, arguments.limit) if arguments.records else ([], None)
    if arguments.json:
        shown = _as_json(policy) | {"ancestors": [policy_json(each) for each in ancestors]}
        if arguments.records:
            shown |= {"positions": positions, "next_position": following}
        print(json_line(shown))
        return 0
    if not arguments.records:
        print("\n".join(_lines(policy, ancestors)))
        return 0
    for position in positions:
        print(position)
    if following is not None:
        print(f"next: --from {following}")
    return 0


def _newest_update(paths: RunPaths, index: LineageIndex) -> int:
    """The newest update that is known of, kept or not."""
    known = [policy.head.version for policy in index.policies]
    known.append(last_word(paths).get("updates") or 0)
    return max(known)


def _find(index: LineageIndex, text: str, newest: int) -> LearntPolicy:
    number = text.removeprefix(_RELEASE)
    if not number.isdecimal() or len(number) > _DIGITS_MAX:
        raise BadInput(f"version {text[:40]!r} must be the learner's update, or {_RELEASE}NUMBER")
    if not text.startswith(_RELEASE) and int(number) > newest:
        raise BadInput(f"there is no update {number} yet: the newest that is known of is update {newest}")
    try:
        return index.of_release(int(number)) if text.startswith(_RELEASE) else index.of_version(int(number))
    except LineageError as error:
        raise BadInput(str(error)) from error


def _page(policy: LearntPolicy, from_position: int, limit: int) -> tuple[list[int], int | None]:
    """Positions, and the one after them."""
    positions = policy.consumed.positions(from_position)
    return list(islice(positions, limit or None)), next(positions, None)


def _as_json(policy: LearntPolicy) -> dict[str, Any]:
    ranges = policy.consumed.ranges()
    listed = list(islice(ranges, _RANGES_LISTED))
    provenance = policy.provenance
    return policy_json(policy) | {
        "ranges": listed,
        "ranges_left_out": sum(1 for _ in ranges),
        "environments": [
            {**environment._asdict(), "records": counts.records, "steps": counts.steps}
            for environment, counts in provenance.environments.items()
        ],
        "streams": [
            {"actor_id": stream.actor_id, "run_id": stream.run_id, "records": counts.records, "steps": counts.steps}
            for stream, counts in provenance.streams.items()
        ],
        "behaviours": [behaviour._asdict() for behaviour in provenance.behaviours],
        "transformations": dict(provenance.transformations),
    }


def _lines(policy: LearntPolicy, ancestors: Sequence[LearntPolicy]) -> Iterator[str]:
    head, provenance = policy.head, policy.provenance
    yield f"policy        update {head.version:,}, {local_time(head.time_ns)}: {policy_words(policy)}"
    if head.artifact_digest:
        yield f"artifact      {head.artifact_digest.hex()}"
    if policy.bound is not None:
        yield "verdict       " + (
            "binds this lineage" if policy.bound else "BINDS ANOTHER LINEAGE: this one was altered or exchanged"
        )
    yield f"learnt from   {len(policy.consumed):,} records, {head.env_steps:,} environment steps"
    for teacher in head.teachers:
        yield f"taught by     {printable(teacher)}"
    yield f"positions     {_ranges(policy)}"
    for environment, counts in provenance.environments.items():
        named = printable(f"{environment.id}, {environment.version}")
        yield f"environment   {counts.records:,} records of {named}, {environment.code_digest}"
    yield from _actor_lines(provenance)
    for name, count in sorted(provenance.transformations.items()):
        if name:
            yield f"derived       {count:,} records: {printable(name)}"
    yield from _behaviour_lines(provenance.behaviours)
    yield ""
    yield f"grew out of {len(ancestors):,} of the policies kept" + (", the newest:" if ancestors else "")
    if ancestors:
        yield HEADING
        yield from map(policy_line, ancestors[-_ANCESTORS_SHOWN:])


def _ranges(policy: LearntPolicy) -> str:
    ranges = policy.consumed.ranges()
    shown = [f"{first}-{last}" if first < last else str(first) for first, last in islice(ranges, _RANGES_SHOWN)]
    left = sum(1 for _ in ranges)
    return (", ".join(shown) or "none") + (f", and {left:,} more ranges" if left else "")


def _actor_lines(provenance: ConsumedProvenance) -> Iterator[str]:
    actors: dict[str, list[int]] = {}
    for stream, counts in provenance.streams.items():
        runs_and_records = actors.setdefault(stream.actor_id, [0, 0])
        runs_and_records[0] += 1
        runs_and_records[1] += counts.records
    for actor_id, (runs, records) in sorted(actors.items()):
        yield f"actor         {records:,} records of {actor_id} in {runs:,} {'run' if runs == 1 else 'runs'}"


def _behaviour_lines(behaviours: Sequence[Behaviour]) -> Iterator[str]:
    """A histogram of at most _BARS bars: steps by the version of the policy that chose them."""
    if not behaviours:
        return
    first, last = behaviours[0].first_version, max(each.last_version for each in behaviours)
    width = max(1, -(-(last - first + 1) // _BARS))
    steps = [0] * _BARS
    for each in behaviours:
        steps[(each.first_version - first) // width] += each.steps
    total = sum(steps) or 1
    for bar, count in enumerate(steps):
        low, high = first + bar * width, min(last, first + (bar + 1) * width - 1)
        if low <= last:
            versions = f"{low:,}" if low == high else f"{low:,}-{high:,}"
            yield f"acted by      {versions:>21}  {count / total:>6.1%}  {'#' * round(_BAR_WIDTH * count / max(steps))}"
