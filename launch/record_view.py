"""How a record is printed: as JSON for a program, as one line of a list, and in full for a person.

The JSON of a record has the names that filters have where both have the thing, and everything in the header:

    position, actor_id, run_id, sequence, steps, lane, episode, episode_step, task_id, seed, episode_seeds,
    environment, environment_version, environment_digest, config_digest, source_revision, transformation, parents,
    policies [{first_step, version, digest}], start_time, start_time_ns, end_time, end_time_ns, encoding,
    payload_digest, signals {as the actor wrote them}, marks {written later}, quarantine (its id, 0 for none)

Digests are hexadecimal; times are ISO 8601 in UTC, with ns since the epoch beside; numbers as launch.json_output says.

Exceptions: replay.filters.FilterError for a column that is no field.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from launch.json_output import iso_time, local_time, printable
from protos.common.v1 import common_pb2
from replay.filters import field_reader
from replay.record import LoggedRecord
from replay.record_fields import FIELDS, Read, Value, signal

UNKNOWN = "-"

HEADING = (
    f"{'position':>10}  {'ended':<19}  {'actor':<16} {'steps':>6}  {'policy':>13}  {'return':>10} {'cost':>8}  marks"
)

_SIGNALS = "signals."
_WIDTH_LEAST = 8
_EXACT_BELOW = 1e6


def record_json(record: LoggedRecord) -> dict[str, Any]:
    """The record without its payload, for json_line."""
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
        "environment_digest": environment.code_digest,
        "config_digest": origin.config_digest,
        "source_revision": origin.source_revision,
        "transformation": header.transformation,
        "parents": list(header.parents),
        "policies": [
            {"first_step": span.first_step, "version": span.version, "digest": span.digest} for span in header.policies
        ],
        "start_time": iso_time(header.start_time_ns),
        "start_time_ns": header.start_time_ns,
        "end_time": iso_time(header.end_time_ns),
        "end_time_ns": header.end_time_ns,
        "encoding": FIELDS["encoding"].read(record),
        "payload_digest": header.payload_digest,
        "signals": dict(sorted(header.signals.items())),
        "marks": dict(sorted(record.marks.signals.items())),
        "quarantine": record.marks.quarantine,
    }


def record_line(record: LoggedRecord) -> str:
    """The record as one line under HEADING."""
    header, signals = record.header, record.signals
    marks = [f"{printable(name)}={_text(value)}" for name, value in sorted(record.marks.signals.items())]
    if record.quarantined:
        marks.append(f"quarantine {record.marks.quarantine}")
    # Data from elsewhere does not always say when it was made.
    ended = local_time(header.end_time_ns) if header.end_time_ns else UNKNOWN
    return (
        f"{record.position:>10}  {ended:<19}  {record.origin.actor_id:<16} {header.steps:>6}  "
        f"{_versions(header.policies):>13}  {_text(signals.get('return')):>10} {_text(signals.get('cost')):>8}  "
        f"{' '.join(marks) or UNKNOWN}"
    )


class Columns:
    """The fields that somebody chose to see.

    Args:
      names: fields as in a filter, each of the texts one or several with commas between them.

    Raises:
      FilterError: one of them is no field.
    """

    def __init__(self, names: Sequence[str]) -> None:
        each = [name.strip() for text in names for name in text.split(",")]
        self._reads: Mapping[str, Read] = {name: _reader(name) for name in each}

    @property
    def heading(self) -> str:
        """Their names, as wide as the columns are."""
        return self._line(self._reads)

    def values(self, record: LoggedRecord) -> dict[str, Value]:
        """The record's values by name; None where it has none."""
        return {name: read(record) for name, read in self._reads.items()}

    def line(self, record: LoggedRecord) -> str:
        """The record's values as one line under the heading."""
        return self._line(_text(value) for value in self.values(record).values())

    def _line(self, texts: Any) -> str:
        widths = (max(len(name), _WIDTH_LEAST) for name in self._reads)
        return "  ".join(f"{text:>{width}}" for text, width in zip(texts, widths, strict=True))


def record_lines(record: LoggedRecord) -> Iterator[str]:
    """The record in full, without its payload, one thing a line."""
    header, origin, environment = record.header, record.origin, record.origin.environment
    yield f"record       {record.position}, {header.steps} steps, payload {header.payload_digest.hex()}"
    yield f"actor        {origin.actor_id}, run {origin.run_id}, sequence {header.sequence}, lane {header.lane}"
    named = printable(f"{environment.id}, {environment.version}")
    yield f"environment  {named}, {environment.code_digest.hex()}"
    if header.task_id:
        yield f"task         {printable(header.task_id)}"
    yield f"episode      {header.episode} from step {header.episode_step} on, reset with seed {header.environment_seed}"
    if header.episode_seeds:
        yield f"             then reset with {', '.join(str(seed) for seed in header.episode_seeds)}"
    if header.end_time_ns:
        yield f"time         {iso_time(header.start_time_ns)} to {iso_time(header.end_time_ns)}"
    else:
        yield f"time         {UNKNOWN}"
    yield f"source       {printable(origin.source_revision) or UNKNOWN}, configuration {origin.config_digest.hex()}"
    if header.transformation:
        parents = ", ".join(str(parent) for parent in header.parents)
        yield f"derived      {printable(header.transformation)} from {parents}"
    for span in header.policies:
        yield f"policy       from step {span.first_step}: update {span.version}, {span.digest.hex()}"
    for name, value in sorted(header.signals.items()):
        hidden = " (see mark)" if name in record.marks.signals else ""
        yield f"signal       {printable(name)} = {_text(value)}{hidden}"
    for name, value in sorted(record.marks.signals.items()):
        yield f"mark         {printable(name)} = {_text(value)}"
    yield f"quarantine   {record.marks.quarantine if record.quarantined else 'none'}"


def _reader(name: str) -> Read:
    # Any name after the dot: also those that Python, and so a filter, keeps for itself, such as signals.return.
    if name.startswith(_SIGNALS):
        return signal(name.removeprefix(_SIGNALS)).read
    return field_reader(name)


def _versions(policies: Sequence[common_pb2.PolicySpan]) -> str:
    versions = [span.version for span in policies]
    if not versions:
        return UNKNOWN
    low, high = min(versions), max(versions)
    return str(low) if low == high else f"{low}-{high}"


def _text(value: Value) -> str:
    """A value for a person; floats that are no whole numbers to six digits, more where they are large, as times are."""
    if value is None:
        return UNKNOWN
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < _EXACT_BELOW else f"{value:.15g}"
    return printable(str(value))
