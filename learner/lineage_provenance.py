"""Where the records that a policy learnt from came from, in numbers: kept while they are consumed, since the store may
have evicted their headers by the time that somebody asks.

Each record counts once, when it is first learnt from. Everything is bounded: of the streams (one actor run each) those
heard of longest ago are summed up by their environment, of the behaviour policies the oldest are summed up by ranges of
versions, the older the wider. What is summed up loses its names, never its counts.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from learner.lineage import LineageError
from protos.common.v1 import common_pb2

STREAMS_MAX = 512
ENVIRONMENTS_MAX = 256
TRANSFORMATIONS_MAX = 64
BEHAVIOURS_MAX = 512
"""Behaviour policies that are counted apart; when there are more, the older half is summed up."""

RANGES_MAX = 256

OTHERS = "(others)"
"""Name of what is beyond a bound."""

UNKNOWN = "(unknown)"
"""Digest of a policy that a record names by its version alone."""


class Environment(NamedTuple):
    """Which environment, as `common.proto` identifies it; the digest in hexadecimal."""

    id: str
    version: str
    code_digest: str


class Stream(NamedTuple):
    """One start of one actor."""

    actor_id: str
    run_id: str
    environment: Environment


@dataclasses.dataclass
class Counts:
    """Records, and the rows in them (environment steps, boundary rows included)."""

    records: int = 0
    steps: int = 0

    def add(self, records: int, steps: int) -> None:
        """So many more."""
        self.records += records
        self.steps += steps


class Behaviour(NamedTuple):
    """Steps that were chosen by the policies of versions [first, last]; `digest` (hex) where they are one policy."""

    first_version: int
    last_version: int
    digest: str
    steps: int


class ConsumedProvenance:
    """The provenance of a growing set of records. For one thread."""

    def __init__(self) -> None:
        self._streams: OrderedDict[Stream, Counts] = OrderedDict()
        self._others: dict[Environment, Counts] = {}
        self._exact: dict[tuple[int, str], int] = {}
        self._ranges: list[Behaviour] = []
        self._transformations: dict[str, int] = {}

    def add(self, headers: Sequence[common_pb2.RecordHeader], origins: Sequence[common_pb2.Origin]) -> None:
        """Counts records that have not been counted before."""
        # Within a batch most origins are the same few messages.
        known: dict[int, Counts] = {}
        for header, origin in zip(headers, origins, strict=True):
            counts = known.get(id(origin))
            if counts is None:
                counts = known[id(origin)] = self._stream(_stream_of(origin))
            counts.add(1, header.steps)
            self._add_behaviour(header)
            self._add_transformation(header.transformation)
        while len(self._streams) > STREAMS_MAX:
            stream, counts = self._streams.popitem(last=False)
            _environment_counts(self._others, stream.environment).add(counts.records, counts.steps)
        if len(self._exact) > BEHAVIOURS_MAX:
            self._sum_up_behaviours()

    @property
    def streams(self) -> Mapping[Stream, Counts]:
        """Counts of the actor runs heard of last."""
        return self._streams

    @property
    def environments(self) -> Mapping[Environment, Counts]:
        """Counts of every environment."""
        found = {environment: Counts(counts.records, counts.steps) for environment, counts in self._others.items()}
        for stream, counts in self._streams.items():
            _environment_counts(found, stream.environment).add(counts.records, counts.steps)
        return found

    @property
    def behaviours(self) -> Sequence[Behaviour]:
        """Who chose the steps, ascending by version."""
        exact = (Behaviour(version, version, digest, steps) for (version, digest), steps in self._exact.items())
        return sorted([*self._ranges, *exact])

    @property
    def transformations(self) -> Mapping[str, int]:
        """Records by how they were derived; "" straight from an actor."""
        return self._transformations

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON types: "streams", "others", "behaviours" and "transformations"."""
        return {
            "streams": [
                {
                    "actor_id": stream.actor_id,
                    "run_id": stream.run_id,
                    "environment": list(stream.environment),
                    "records": counts.records,
                    "steps": counts.steps,
                }
                for stream, counts in self._streams.items()
            ],
            "others": [
                {"environment": list(environment), "records": counts.records, "steps": counts.steps}
                for environment, counts in self._others.items()
            ],
            "behaviours": [list(behaviour) for behaviour in self.behaviours],
            "transformations": dict(self._transformations),
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> ConsumedProvenance:
        """What `to_json` gave. Raises LineageError."""
        provenance = cls()
        try:
            for each in plain["streams"]:
                stream = Stream(each["actor_id"], each["run_id"], Environment(*each["environment"]))
                provenance._streams[stream] = Counts(each["records"], each["steps"])
            for each in plain["others"]:
                provenance._others[Environment(*each["environment"])] = Counts(each["records"], each["steps"])
            for behaviour in (Behaviour(*each) for each in plain["behaviours"]):
                if behaviour.digest:
                    provenance._exact[behaviour.first_version, behaviour.digest] = behaviour.steps
                else:
                    provenance._ranges.append(behaviour)
            provenance._transformations = dict(plain["transformations"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LineageError(f"this is no provenance of consumed records: {error!r}") from error
        return provenance

    def _stream(self, stream: Stream) -> Counts:
        counts = self._streams.setdefault(stream, Counts())
        self._streams.move_to_end(stream)
        return counts

    def _add_behaviour(self, header: common_pb2.RecordHeader) -> None:
        for span, steps in _spans(header):
            if self._ranges and span.version <= self._ranges[-1].last_version:
                self._add_to_range(span.version, steps)
            else:
                key = span.version, span.digest.hex() or UNKNOWN
                self._exact[key] = self._exact.get(key, 0) + steps

    def _add_to_range(self, version: int, steps: int) -> None:
        """An old policy, come again: it counts to the range that is nearest below, or to the first."""
        index = max(0, bisect.bisect_right(self._ranges, version, key=lambda each: each.first_version) - 1)
        held = self._ranges[index]
        first, last = min(held.first_version, version), max(held.last_version, version)
        self._ranges[index] = Behaviour(first, last, "", held.steps + steps)

    def _sum_up_behaviours(self) -> None:
        # All policies of one version go the same way, so that ranges never overlap.
        by_version: dict[int, int] = {}
        for (version, _), steps in sorted(self._exact.items()):
            by_version[version] = by_version.get(version, 0) + steps
        oldest = list(itertools.islice(by_version.items(), len(by_version) // 2 + 1))
        bound = oldest[-1][0]
        for one, other in itertools.zip_longest(oldest[::2], oldest[1::2]):
            last, more = other or (one[0], 0)
            self._ranges.append(Behaviour(one[0], last, "", one[1] + more))
        self._exact = {key: steps for key, steps in self._exact.items() if key[0] > bound}
        while len(self._ranges) > RANGES_MAX:
            half = len(self._ranges) // 2 & ~1
            self._ranges = [*_joined_in_pairs(self._ranges[:half]), *self._ranges[half:]]

    def _add_transformation(self, name: str) -> None:
        if name not in self._transformations and len(self._transformations) >= TRANSFORMATIONS_MAX:
            name = OTHERS
        self._transformations[name] = self._transformations.get(name, 0) + 1


def _joined_in_pairs(ranges: Sequence[Behaviour]) -> Iterator[Behaviour]:
    for one, other in zip(ranges[::2], ranges[1::2], strict=True):
        yield Behaviour(one.first_version, other.last_version, "", one.steps + other.steps)


def _stream_of(origin: common_pb2.Origin) -> Stream:
    environment = origin.environment
    named = Environment(environment.id, environment.version, environment.code_digest.hex())
    return Stream(origin.actor_id, origin.run_id, named)


def _environment_counts(found: dict[Environment, Counts], environment: Environment) -> Counts:
    if environment not in found and len(found) >= ENVIRONMENTS_MAX:
        environment = Environment(OTHERS, "", "")
    return found.setdefault(environment, Counts())


def _spans(header: common_pb2.RecordHeader) -> Iterator[tuple[common_pb2.PolicySpan, int]]:
    """Each span of one behaviour policy, with its steps."""
    ends = [*(span.first_step for span in header.policies[1:]), header.steps]
    for span, end in zip(header.policies, ends, strict=True):
        yield span, end - span.first_step
