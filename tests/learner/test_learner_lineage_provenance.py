"""Provenance of consumed records against plain counting, and what its bounds sum up but never lose."""

from __future__ import annotations

import collections
import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner import lineage_provenance
from learner.lineage import LineageError
from learner.lineage_provenance import OTHERS, ConsumedProvenance, Environment
from protos.common.v1 import common_pb2
from replay.testing import make_header, make_origin


def spans(*versions_and_steps: tuple[int, int]) -> common_pb2.RecordHeader:
    """A record of several behaviour policies."""
    header = make_header(steps=sum(steps for _, steps in versions_and_steps))
    del header.policies[:]
    first = 0
    for version, steps in versions_and_steps:
        header.policies.add(first_step=first, version=version, digest=bytes([version % 256]) * 32)
        first += steps
    return header


def of(actor: str, run: str = "run-1", environment: str = "cartpole") -> common_pb2.Origin:
    origin = make_origin(actor, run)
    origin.environment.id = environment
    return origin


def total(provenance: ConsumedProvenance) -> tuple[int, int]:
    counts = provenance.environments.values()
    return sum(each.records for each in counts), sum(each.steps for each in counts)


def test_counts_by_stream_environment_and_transformation() -> None:
    provenance = ConsumedProvenance()
    derived = make_header(steps=3)
    derived.transformation = "relabelled"
    provenance.add([make_header(steps=5), make_header(steps=5), derived], [of("a"), of("b"), of("a", "run-2")])
    provenance.add([make_header(steps=7)], [of("c", environment="catch")])
    named = {(stream.actor_id, stream.run_id): counts for stream, counts in provenance.streams.items()}
    assert {key: (counts.records, counts.steps) for key, counts in named.items()} == {
        ("a", "run-1"): (1, 5),
        ("b", "run-1"): (1, 5),
        ("a", "run-2"): (1, 3),
        ("c", "run-1"): (1, 7),
    }
    environments = {environment.id: counts for environment, counts in provenance.environments.items()}
    assert {name: (counts.records, counts.steps) for name, counts in environments.items()} == {
        "cartpole": (3, 13),
        "catch": (1, 7),
    }
    assert provenance.transformations == {"": 3, "relabelled": 1}


def test_steps_count_to_the_policy_that_chose_them() -> None:
    provenance = ConsumedProvenance()
    provenance.add([spans((3, 2), (4, 5)), spans((4, 1), (9, 1))], [of("a"), of("a")])
    assert [(each.first_version, each.last_version, each.steps) for each in provenance.behaviours] == [
        (3, 3, 2),
        (4, 4, 6),
        (9, 9, 1),
    ]
    assert provenance.behaviours[0].digest == (b"\3" * 32).hex()


def test_two_policies_of_one_version_are_told_apart() -> None:
    """As after a crash, when the learner reaches the same update count with other weights."""
    provenance = ConsumedProvenance()
    one, other = spans((3, 2)), spans((3, 4))
    other.policies[0].digest = b"x" * 32
    provenance.add([one, other], [of("a"), of("a")])
    assert [(each.digest, each.steps) for each in provenance.behaviours] == [
        ((b"\3" * 32).hex(), 2),
        ((b"x" * 32).hex(), 4),
    ]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, bound in {"STREAMS": 4, "ENVIRONMENTS": 3, "TRANSFORMATIONS": 3, "BEHAVIOURS": 8, "RANGES": 4}.items():
        monkeypatch.setattr(lineage_provenance, f"{name}_MAX", bound)


@pytest.mark.usefixtures("narrow")
def test_streams_not_heard_of_for_long_are_summed_up_by_their_environment() -> None:
    provenance = ConsumedProvenance()
    for start in range(20):
        # One actor lives on, the other is started again and again.
        origins = [of("lives"), of("dies", f"run-{start}", f"environment-{start % 2}")]
        provenance.add([make_header(steps=2), make_header(steps=2)], origins)
    assert len(provenance.streams) == 4
    lives = next(counts for stream, counts in provenance.streams.items() if stream.actor_id == "lives")
    assert (lives.records, lives.steps) == (20, 40)
    assert total(provenance) == (40, 80)
    assert {environment.id for environment in provenance.environments} == {
        "cartpole",
        "environment-0",
        "environment-1",
    }


@pytest.mark.usefixtures("narrow")
def test_names_without_end_are_bounded() -> None:
    provenance = ConsumedProvenance()
    for number in range(50):
        header = make_header(steps=2)
        header.transformation = f"transformation-{number}"
        provenance.add([header], [of(f"actor-{number}", environment=f"environment-{number}")])
    assert len(json.dumps(provenance.to_json())) < 3_000
    assert provenance.transformations[OTHERS] == 47
    assert Environment(OTHERS, "", "") in provenance.environments
    assert total(provenance) == (50, 100)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 5)), max_size=200))
def test_behaviour_policies_are_bounded_and_no_step_is_lost(records: list[tuple[int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lineage_provenance, "BEHAVIOURS_MAX", 8)
        patch.setattr(lineage_provenance, "RANGES_MAX", 4)
        provenance, oracle = ConsumedProvenance(), collections.Counter[int]()
        for version, steps in records:
            provenance.add([spans((version, steps))], [of("a")])
            oracle[version] += steps
        behaviours = provenance.behaviours
        assert len(behaviours) <= 8 + 4
        assert sum(each.steps for each in behaviours) == oracle.total()
        # Ranges are disjoint, and each says where its steps came from as exactly as it can.
        for one, other in itertools.pairwise(behaviours):
            assert one.last_version < other.first_version or (one.digest and one.last_version == other.first_version)
        for each in behaviours:
            if each.digest:
                assert oracle[each.first_version] >= each.steps


@pytest.mark.usefixtures("narrow")
def test_the_newest_policies_stay_exact() -> None:
    provenance = ConsumedProvenance()
    for version in range(1_000):
        provenance.add([spans((version, 3))], [of("a")])
    newest = [each for each in provenance.behaviours if each.digest]
    assert [each.first_version for each in newest] == list(range(1_000 - len(newest), 1_000))
    assert len(newest) >= 3
    summed_up = [each for each in provenance.behaviours if not each.digest]
    widths = [each.last_version - each.first_version for each in summed_up]
    assert widths[0] > widths[-1]
    assert summed_up[0].first_version == 0


def test_round_trip_through_json_and_on() -> None:
    provenance = ConsumedProvenance()
    provenance.add([spans((3, 2), (4, 5))], [of("a")])
    again = ConsumedProvenance.from_json(json.loads(json.dumps(provenance.to_json())))
    for each in (provenance, again):
        each.add([spans((4, 5))], [of("a")])
    assert again.to_json() == provenance.to_json()


@pytest.mark.parametrize(
    "plain",
    [{}, {"streams": 1, "others": [], "behaviours": [], "transformations": {}}, {"streams": [{}]}, None],
)
def test_what_is_none_is_refused(plain: Any) -> None:
    with pytest.raises(LineageError, match="no provenance"):
        ConsumedProvenance.from_json(plain)
