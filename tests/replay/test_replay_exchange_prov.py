"""PROV-JSON: valid by the structure that the W3C member submission lays down, complete, and always the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from protos.common.v1 import common_pb2
from replay.exchange.dataset_origin import Dataset, origin_of
from replay.exchange.errors import ExportRefused
from replay.exchange.prov import export_prov
from replay.record import LoggedRecord
from replay.testing import DIGEST
from tests.replay.exchanged_records import lane_records, left_in, logged, made_episodes

RELATIONS: dict[str, dict[str, tuple[str, bool]]] = {
    "wasGeneratedBy": {"prov:entity": ("entity", True), "prov:activity": ("activity", False)},
    "used": {"prov:activity": ("activity", True), "prov:entity": ("entity", False)},
    "wasAssociatedWith": {
        "prov:activity": ("activity", True),
        "prov:agent": ("agent", False),
        "prov:plan": ("entity", False),
    },
    "wasDerivedFrom": {
        "prov:generatedEntity": ("entity", True),
        "prov:usedEntity": ("entity", True),
        "prov:activity": ("activity", False),
    },
}
"""Of each kind of relation: what its attributes refer to, and which it must have (PROV-DM, and the submission)."""

ELEMENTS = ("entity", "activity", "agent")
BUILT_IN = {"prov", "xsd"}
LOCAL = re.compile(r"(?:[A-Za-z0-9_/@~&+*?#$!.-]|%[0-9A-F]{2})*(?:[A-Za-z0-9_/@~&+*?#$!-]|%[0-9A-F]{2})")
"""PN_LOCAL of PROV-N, without what it lets one escape."""
DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")
TIMES = {"prov:time", "prov:startTime", "prov:endTime"}


def check_structure(document: dict[str, Any]) -> None:
    """Fails unless a document is what the submission allows, and refers to nothing that it does not hold."""
    assert set(document) <= {"prefix", *ELEMENTS, *RELATIONS}
    prefixes = set(document["prefix"]) | BUILT_IN
    assert all(isinstance(uri, str) and ":" in uri for uri in document["prefix"].values())
    for kind in (*ELEMENTS, *RELATIONS):
        for name, attributes in document.get(kind, {}).items():
            if kind in ELEMENTS:
                _check_name(name, prefixes)
            else:
                assert re.fullmatch(r"_:\w+", name)
                _check_references(document, kind, attributes)
            for attribute, value in attributes.items():
                _check_name(attribute, prefixes)
                if attribute not in RELATIONS.get(kind, {}):
                    _check_value(attribute, value, prefixes)


def _check_references(document: dict[str, Any], kind: str, attributes: dict[str, Any]) -> None:
    for attribute, (target, required) in RELATIONS[kind].items():
        if attribute in attributes:
            assert attributes[attribute] in document[target], (kind, attributes)
        assert attribute in attributes or not required, (kind, attributes)


def _check_name(name: str, prefixes: set[str]) -> None:
    prefix, colon, local = name.partition(":")
    assert colon
    assert prefix in prefixes
    assert LOCAL.fullmatch(local), name


def _check_value(attribute: str, value: Any, prefixes: set[str]) -> None:
    if attribute in TIMES:
        assert DATE_TIME.fullmatch(value)
    elif isinstance(value, dict):
        assert set(value) == {"$", "type"}
        assert isinstance(value["$"], str)
        _check_name(value["type"], prefixes)
        if value["type"] == "xsd:QName":
            _check_name(value["$"], prefixes)
    else:
        assert isinstance(value, str)


def exported(records: list[LoggedRecord], path: Path) -> dict[str, Any]:
    export_prov(records, path)
    # Twice the same name in an object would hide one of them.
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    check_structure(document)
    return document


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def made() -> list[LoggedRecord]:
    episodes = made_episodes([5, 3, 6, 9])
    runs = [
        logged(lane_records(episodes, 4), actor_id=f"actor-{index}", run_id="run.", first_position=100 * index)
        for index in range(2)
    ]
    return list(chain(*zip(*runs, strict=True)))


def relations(document: dict[str, Any], kind: str) -> set[tuple[str, ...]]:
    return {tuple(value for name, value in each.items() if name not in TIMES) for each in document[kind].values()}


def test_records_come_from_runs_that_used_policies_and_environments(tmp_path: Path) -> None:
    records = made()
    document = exported(records, tmp_path / "out.json")
    runs = {index: f"run:actor-{index}/run%2E" for index in range(2)}
    assert set(document["activity"]) == set(runs.values())
    generated = {(f"record:{record.position}", runs[record.position // 100]) for record in records}
    assert relations(document, "wasGeneratedBy") == generated
    environment = f"environment:{DIGEST.hex()}"
    assert document["entity"][environment]["prov:label"] == "Test-v0"
    policies = {
        (runs[record.position // 100], f"policy:{span.version}-{span.digest.hex()}")
        for record in records
        for span in record.header.policies
    }
    assert relations(document, "used") == policies | {(run, environment) for run in runs.values()}
    assert len(document["used"]) == len(policies) + 2
    assert relations(document, "wasAssociatedWith") == {
        *((run, f"actor:actor-{index}", f"configuration:{DIGEST.hex()}") for index, run in runs.items()),
        *((run, "software:test") for run in runs.values()),
    }
    assert "wasDerivedFrom" not in document


def test_a_record_says_what_it_is_and_a_run_how_long_it_took(tmp_path: Path) -> None:
    records = made()[::2]
    document = exported(records, tmp_path / "out.json")
    assert document["entity"]["record:1"] == {
        "prov:type": {"$": "temper:Record", "type": "xsd:QName"},
        "temper:actor": "actor-0",
        "temper:run": "run.",
        "temper:sequence": {"$": "1", "type": "xsd:unsignedLong"},
        "temper:steps": {"$": "4", "type": "xsd:unsignedInt"},
        "temper:environmentSeed": {"$": "0", "type": "xsd:unsignedLong"},
        "temper:payloadDigest": records[1].header.payload_digest.hex(),
    }
    (run,) = document["activity"].values()
    last = records[-1].header.end_time_ns % 10**9
    assert run["prov:startTime"] == "2023-11-14T22:13:20.123456789Z"
    assert run["prov:endTime"] == f"2023-11-14T22:13:20.{last}Z"
    times = {each["prov:entity"]: each["prov:time"] for each in document["wasGeneratedBy"].values()}
    assert times["record:0"] == "2023-11-14T22:13:20.123456793Z"


def test_a_derived_record_names_its_parents(tmp_path: Path) -> None:
    records = made()[:3]
    records[2].header.transformation = "re labelled: 見."
    records[2].header.parents.extend([0, 999])
    records[2].header.task_id = "täsk"
    document = exported(records, tmp_path / "out.json")
    derived = f"record:{records[2].position}"
    made_in = "transformation:actor-0/run%2E/re%20labelled%3A%20%E8%A6%8B%2E"
    assert relations(document, "wasDerivedFrom") == {
        (derived, "record:0", made_in),
        (derived, "record:999", made_in),
    }
    assert (derived, made_in) in relations(document, "wasGeneratedBy")
    assert document["entity"][derived]["temper:task"] == "täsk"
    # One that is not exported is there, for it is referred to; nothing is known of it.
    assert document["entity"]["record:999"] == {"prov:type": {"$": "temper:Record", "type": "xsd:QName"}}
    assert document["activity"][made_in]["prov:type"]["$"] == "temper:Transformation"


def test_an_import_used_a_data_set(tmp_path: Path) -> None:
    (record, *_) = made()
    environment = common_pb2.EnvironmentIdentity(id="Maze-v1", version="maze 1", code_digest=DIGEST)
    dataset = Dataset("maze/human-v2", b"d" * 32, "0.5.4", environment)
    origin = origin_of(dataset, record.origin.schema, actor_id="minari", steps_per_record=0)
    header = common_pb2.RecordHeader(steps=4, policies=[common_pb2.PolicySpan(digest=dataset.digest)])
    document = exported([LoggedRecord(0, header, origin)], tmp_path / "out.json")
    run = f"run:minari/{origin.run_id}"
    assert document["activity"] == {run: {"prov:type": {"$": "temper:Import", "type": "xsd:QName"}}}
    assert (run, f"dataset:{(b'd' * 32).hex()}") in relations(document, "used")
    assert document["entity"][f"dataset:{(b'd' * 32).hex()}"]["prov:label"] == "minari 0.5.4 maze/human-v2"
    assert set(document["agent"]) == {"actor:minari", "software:minari%200.5.4"}
    # A time that is not known is not stated.
    assert document["wasGeneratedBy"] == {"_:r5": {"prov:entity": "record:0", "prov:activity": run}}


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        export_prov(made(), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_no_record_and_an_existing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportRefused, match="no record"):
        export_prov([], tmp_path / "out.json")
    assert left_in(tmp_path) == []
    (tmp_path / "out.json").write_text("mine")
    with pytest.raises(ExportRefused, match="exists already"):
        export_prov(made(), tmp_path / "out.json")
    assert left_in(tmp_path) == ["out.json"]


def test_an_interrupted_export_leaves_nothing(tmp_path: Path) -> None:
    def records() -> Iterator[LoggedRecord]:
        yield from made()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_prov(records(), tmp_path / "out.json")
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    "broken",
    [
        {"prefix": {}, "entity": {"no prefix": {}}},
        {"prefix": {"a": "urn:a:"}, "entity": {"a:x.": {}}},
        {"prefix": {"a": "urn:a:"}, "entity": {"b:x": {}}},
        {"prefix": {"a": "urn:a:"}, "entity": {"a:x": {"prov:type": {"$": 1, "type": "xsd:int"}}}},
        {"prefix": {"a": "urn:a:"}, "entity": {"a:x": {}}, "used": {"_:r": {"prov:entity": "a:x"}}},
        {"prefix": {}, "wasInventedBy": {}},
    ],
)
def test_the_checker_can_fail(broken: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        check_structure(broken)
