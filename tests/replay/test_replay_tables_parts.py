"""What tables are made of: exclusions, rings and sets of positions, and which specification is in force."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap64

from protos.replay.v1 import replay_pb2
from replay.table_spec import parse_spec
from replay.tables.exclusion import Exclusion
from replay.tables.making import effective_spec, make_table
from replay.tables.position_ring import PositionRing
from replay.tables.position_set import PositionSet
from replay.tables.testing import FakeLog

_positions = st.sets(st.integers(0, 40), max_size=30)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(excluded=_positions, first=st.integers(0, 45), length=st.integers(0, 45), offset=st.sampled_from([0, 2**40]))
def test_an_exclusion_is_as_if_the_positions_were_not_there(
    excluded: set[int], first: int, length: int, offset: int
) -> None:
    exclusion = Exclusion(BitMap64(position + offset for position in excluded))
    low, high = first + offset, first + length + offset
    allowed = [position for position in range(low, high) if position - offset not in excluded]
    assert exclusion.count(low, high) == length - len(allowed)
    assert exclusion.within(low, high).tolist() == [each for each in range(low, high) if each not in allowed]
    assert exclusion.allowed(low, np.arange(len(allowed))).tolist() == allowed
    backwards = np.arange(len(allowed))[::-1]
    assert exclusion.allowed(low, backwards).tolist() == allowed[::-1]


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(moves=st.lists(st.tuples(st.integers(-900, 1_500), st.integers(0, 1_500)), max_size=12))
def test_a_ring_is_as_if_it_had_a_place_for_each_position(moves: list[tuple[int, int]]) -> None:
    ring, expected, first = PositionRing(np.int64), dict[int, int](), 0
    for shift, length in moves:
        first = max(0, first + shift)
        ring.move(first, first + length)
        expected = {position: expected.get(position, 0) for position in range(first, first + length)}
        positions = np.arange(first, first + length)
        assert ring.values[ring.slots(positions)].tolist() == [*expected.values()]
        assert np.array_equal(ring.slots(positions), ring.slots_between(first, first + length))
        assert np.count_nonzero(ring.values) == np.count_nonzero([*expected.values()])
        ring.values[ring.slots(positions)] = positions + 1
        expected = {position: position + 1 for position in expected}
    assert ring.capacity <= max(1_024, 2 * 1_500)
    assert ring.slot(first) == ring.slots(np.array([first]))[0]


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["add", "discard", "before", "exclude"]), st.lists(st.integers(0, 40), min_size=1))
    )
)
def test_a_set_draws_from_what_is_not_excluded(steps: list[tuple[str, list[int]]]) -> None:
    positions, expected, excluded = PositionSet(), set[int](), set[int]()
    for step, numbers in steps:
        if step == "add":
            positions.add(numbers, BitMap64(excluded))
            expected.update(numbers)
        elif step == "discard":
            positions.discard(numbers[0])
            expected.discard(numbers[0])
        elif step == "before":
            positions.discard_before(numbers[0] // 4)
            expected = {position for position in expected if position >= numbers[0] // 4}
        else:
            excluded = set(numbers)
            positions.exclude(BitMap64(excluded))
        drawable = sorted(expected - excluded)
        assert positions.at(np.arange(len(drawable))).tolist() == drawable
        assert len(positions) == len(drawable)
        assert positions.is_empty == (not expected)
        assert all((position in positions) == (position in expected) for position in range(42))


def test_a_live_change_outlives_a_restart_unless_the_configuration_changes() -> None:
    configured, live, other = (parse_spec(f"uniform old min_size={size}") for size in (1, 2, 3))
    state = replay_pb2.TableState(spec=live, configured=configured)
    assert effective_spec(state, configured) == live
    assert effective_spec(state, other) == other
    assert effective_spec(replay_pb2.TableState(), configured) == configured
    assert effective_spec(replay_pb2.TableState(spec=live), configured) == configured


def test_the_state_of_another_kind_of_table_counts_for_nothing() -> None:
    log = FakeLog()
    log.append(10)
    state = replay_pb2.TableState(cursor=7, samples=7, spec=parse_spec("fresh table"))
    assert make_table(parse_spec("fresh table"), state, log).available() == 3
    uniform = make_table(parse_spec("uniform table"), state, log)
    assert (uniform.state.samples, uniform.available(), uniform.state.spec.kind) == (0, 10, "uniform")
    assert state.samples == 7
