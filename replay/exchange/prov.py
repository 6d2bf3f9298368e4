"""Where records came from, as W3C PROV-JSON (member submission of 24 April 2013).

    entity     record:POSITION              a record
               environment:DIGEST           the environment that it comes from
               policy:VERSION-DIGEST        a behaviour policy
               dataset:DIGEST               the data set that an imported record was read from
               configuration:DIGEST         of an actor run (prov:Plan)
    activity   run:ACTOR/RUN                an actor run (temper:ActorRun), or an import (temper:Import)
               transformation:ACTOR/RUN/NAME    in which records were derived from others
    agent      actor:ACTOR                  who acted
               software:REVISION            the code that it ran
    wasGeneratedBy       record by run or transformation, at the time of its last step
    used                 run its environment, each of its policies or its data set
    wasAssociatedWith    run or transformation with actor, by configuration, and with software
    wasDerivedFrom       record from its parents, in a transformation

A record's attributes are its idempotency key (temper:actor, temper:run, temper:sequence), its digest, steps, seed and
task. Positions are those of the store exported from. Parents that are not exported are entities without attributes.
A text in a name is percent-encoded. Times are in UTC to the ns; a time of 0, not known, is left out.

Memory is that of the runs, policies and environments; records take a bit each.

Exceptions: ExportRefused; what the iteration raises.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from pyroaring import BitMap64

from protos.common.v1 import common_pb2
from replay.exchange.dataset_origin import is_import, software_of
from replay.exchange.errors import ExportRefused
from replay.exchange.output import ExportSummary, files_in, new_file
from replay.exchange.prov_document import ProvDocument, Value, qualified_name, typed
from replay.record import LoggedRecord

_NAMES = ("record", "environment", "policy", "dataset", "configuration", "run", "transformation", "actor", "software")
PREFIXES = {"temper": "urn:temper:provenance:", **{name: f"urn:temper:{name}:" for name in _NAMES}}

_NS_IN_S = 1_000_000_000


def export_prov(records: Iterable[LoggedRecord], path: Path) -> ExportSummary:
    """Writes the provenance of records, which need no payloads, to a new file.

    Raises:
      ExportRefused: there is something at `path`, there are no records, or the disk does not take it; nothing is left
        there.
    """
    count = steps = 0
    with new_file(path) as unfinished, ProvDocument(unfinished, PREFIXES) as document:
        provenance = _Provenance(document)
        for record in records:
            provenance.add(record)
            count += 1
            steps += record.header.steps
        if not count:
            raise ExportRefused("there is no record to export: nothing was written")
        provenance.finish()
    return ExportSummary(count, steps, *files_in(path))


class _Activity:
    """A run or a transformation: all of it is known only once every record has been seen."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._first_ns = self._last_ns = 0

    def span(self, header: common_pb2.RecordHeader) -> None:
        """Takes in when a record was made."""
        if header.start_time_ns:
            self._first_ns = min(self._first_ns or header.start_time_ns, header.start_time_ns)
            self._last_ns = max(self._last_ns, header.end_time_ns)

    def attributes(self) -> dict[str, Value]:
        """What is stated about it."""
        times = {"prov:startTime": self._first_ns, "prov:endTime": self._last_ns}
        return {
            **{name: _date_time(time_ns) for name, time_ns in times.items() if time_ns},
            "prov:type": qualified_name(f"temper:{self._kind}"),
        }


class _Provenance:
    """What records say, as statements of a document; what several of them say, once."""

    def __init__(self, document: ProvDocument) -> None:
        self._document = document
        self._activities: dict[str, _Activity] = {}
        self._stated: set[tuple[str, ...]] = set()
        self._records = BitMap64()
        self._parents = BitMap64()

    def add(self, record: LoggedRecord) -> None:
        """States everything about a record."""
        header, origin = record.header, record.origin
        run = f"run:{_local(origin.actor_id)}/{_local(origin.run_id)}"
        self._activity(run, "Import" if is_import(origin) else "ActorRun", origin).span(header)
        self._uses(run, record)
        made_in = run
        if header.transformation:
            made_in = f"transformation:{run.removeprefix('run:')}/{_local(header.transformation)}"
            self._activity(made_in, "Transformation", origin).span(header)
        name = f"record:{record.position}"
        self._records.add(record.position)
        self._document.element("entity", name, _record_attributes(record))
        generation: dict[str, Value] = {"prov:entity": name, "prov:activity": made_in}
        if header.end_time_ns:
            generation["prov:time"] = _date_time(header.end_time_ns)
        self._document.relation("wasGeneratedBy", generation)
        for parent in header.parents:
            self._parents.add(parent)
            derivation = {
                "prov:generatedEntity": name,
                "prov:usedEntity": f"record:{parent}",
                "prov:activity": made_in,
            }
            self._document.relation("wasDerivedFrom", derivation)

    def finish(self) -> None:
        """States what only the end tells."""
        for name, activity in self._activities.items():
            self._document.element("activity", name, activity.attributes())
        for position in self._parents - self._records:
            self._document.element("entity", f"record:{position}", {"prov:type": qualified_name("temper:Record")})

    def _activity(self, name: str, kind: str, origin: common_pb2.Origin) -> _Activity:
        """The activity of this name; where it is new, or its origin is, with those who are responsible for it."""
        if name not in self._activities:
            self._activities[name] = _Activity(kind)
        configuration = f"configuration:{origin.config_digest.hex()}"
        self._once("entity", configuration, {"prov:type": qualified_name("prov:Plan")})
        actor = f"actor:{_local(origin.actor_id)}"
        self._once("agent", actor, {"prov:type": qualified_name("prov:SoftwareAgent"), "prov:label": origin.actor_id})
        self._once_related(
            "wasAssociatedWith", {"prov:activity": name, "prov:agent": actor, "prov:plan": configuration}
        )
        if code := software_of(origin):
            software = f"software:{_local(code)}"
            self._once("agent", software, {"prov:type": qualified_name("prov:SoftwareAgent"), "prov:label": code})
            self._once_related("wasAssociatedWith", {"prov:activity": name, "prov:agent": software})
        return self._activities[name]

    def _uses(self, run: str, record: LoggedRecord) -> None:
        """States what the run made the record with."""
        origin, environment = record.origin, record.origin.environment
        used = {
            f"environment:{environment.code_digest.hex()}": {
                "prov:type": qualified_name("temper:Environment"),
                "prov:label": environment.id,
                "temper:version": environment.version,
            }
        }
        for span in record.header.policies:
            if is_import(origin):
                attributes = {"prov:type": qualified_name("temper:Dataset"), "prov:label": origin.source_revision}
                used[f"dataset:{span.digest.hex()}"] = attributes
            else:
                used[f"policy:{span.version}-{span.digest.hex()}"] = {
                    "prov:type": qualified_name("temper:Policy"),
                    "temper:version": typed(span.version, "unsignedLong"),
                }
        for name, attributes in used.items():
            self._once("entity", name, attributes)
            self._once_related("used", {"prov:activity": run, "prov:entity": name})

    def _once(self, kind: str, name: str, attributes: Mapping[str, Value]) -> None:
        if (kind, name) not in self._stated:
            self._stated.add((kind, name))
            self._document.element(kind, name, attributes)

    def _once_related(self, kind: str, attributes: Mapping[str, str]) -> None:
        key = (kind, *attributes.values())
        if key not in self._stated:
            self._stated.add(key)
            self._document.relation(kind, attributes)


def _record_attributes(record: LoggedRecord) -> dict[str, Value]:
    header, origin = record.header, record.origin
    attributes: dict[str, Value] = {
        "prov:type": qualified_name("temper:Record"),
        "temper:actor": origin.actor_id,
        "temper:run": origin.run_id,
        "temper:sequence": typed(header.sequence, "unsignedLong"),
        "temper:steps": typed(header.steps, "unsignedInt"),
        "temper:environmentSeed": typed(header.environment_seed, "unsignedLong"),
        "temper:payloadDigest": header.payload_digest.hex(),
    }
    return {**attributes, "temper:task": header.task_id} if header.task_id else attributes


def _date_time(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, _NS_IN_S)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z"


def _local(text: str) -> str:
    """Text as (a part of) the local part of a qualified name, which may not end in a dot."""
    quoted = quote(text, safe="")
    return f"{quoted[:-1]}%2E" if quoted.endswith(".") else quoted
