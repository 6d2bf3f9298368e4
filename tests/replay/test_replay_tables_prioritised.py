"""Prioritised draws: where priorities come from, how they are changed, kept and stored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyroaring import BitMap64

from protos.replay.v1 import replay_pb2
from replay.provenance import SIGNAL_MAX
from replay.table_spec import parse_spec
from replay.tables.prioritised import PRIORITY_MAX, PrioritisedTable
from replay.tables.testing import FakeLog, append_to, draw, loaded_table

_STEP = st.sampled_from(["append", "append", "update", "evict", "exclude"])


def _table(log: FakeLog, text: str = "prioritised per exponent=1") -> PrioritisedTable:
    table = loaded_table(log, text)
    assert isinstance(table, PrioritisedTable)
    return table


def _update(table: PrioritisedTable, priorities: dict[int, float]) -> int:
    return table.update_priorities(np.array([*priorities], np.uint64), np.array([*priorities.values()], np.float64))


def _probabilities(table: PrioritisedTable, draws: int = 4_000) -> dict[int, float]:
    """What the table tells of the records that it draws."""
    pick = table.pick(draws)
    return dict(sorted(zip(pick.positions.tolist(), pick.probabilities.round(12).tolist(), strict=True)))


def test_new_records_have_the_largest_priority_so_far() -> None:
    log = FakeLog()
    log.append(2)
    table = _table(log)
    assert _probabilities(table) == {0: 0.5, 1: 0.5}
    assert _update(table, {0: 3.0, 1: 0.5}) == 2
    append_to(log, table)
    assert _probabilities(table) == pytest.approx({0: 3 / 6.5, 1: 0.5 / 6.5, 2: 3 / 6.5})
    _update(table, {0: 0.25, 2: 0.25})
    append_to(log, table)
    assert _probabilities(table) == pytest.approx({0: 1 / 16, 1: 2 / 16, 2: 1 / 16, 3: 12 / 16})


def test_a_record_of_priority_0_is_never_drawn() -> None:
    log = FakeLog()
    log.append(3)
    table = _table(log, "prioritised per exponent=0")
    _update(table, {1: 0.0})
    assert table.available() == 2
    assert _probabilities(table) == {0: 0.5, 2: 0.5}
    _update(table, {0: 0.0, 2: 0.0})
    assert table.available() == 0
    assert not table.can_sample(1)
    _update(table, {1: 1e-200})
    assert _probabilities(table) == {1: 1.0}


def test_priorities_of_others_are_passed_over_and_the_last_of_two_holds() -> None:
    log = FakeLog()
    log.append(4)
    log.first_position = 2
    table = _table(log)
    positions = np.array([1, 2, 3, 2, 4, 2**63], np.uint64)
    assert table.update_priorities(positions, np.array([9.0, 5.0, 1.0, 3.0, 9.0, 9.0])) == 3
    assert _probabilities(table) == {2: 0.75, 3: 0.25}
    assert table.update_priorities(np.empty(0, np.uint64), np.empty(0)) == 0


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf, PRIORITY_MAX + 2])
def test_senseless_priorities_change_nothing(wrong: float) -> None:
    log = FakeLog()
    log.append(2)
    table = _table(log)
    with pytest.raises(ValueError, match="must be finite and in"):
        _update(table, {0: 0.5, 1: wrong})
    with pytest.raises(ValueError, match="each must have one"):
        table.update_priorities(np.array([0], np.uint64), np.array([1.0, 2.0]))
    assert _probabilities(table) == {0: 0.5, 1: 0.5}
    assert _update(table, {0: PRIORITY_MAX, 1: SIGNAL_MAX}) == 2, "what a signal can be, a priority can be"


def test_an_excluded_record_keeps_its_priority() -> None:
    log = FakeLog()
    log.append(3)
    table = _table(log)
    _update(table, {0: 1.0, 1: 2.0, 2: 1.0})
    table.exclude(BitMap64([1, 2]))
    _update(table, {2: 5.0})
    assert (table.available(), _probabilities(table)) == (1, {0: 1.0})
    table.exclude(BitMap64([0]))
    assert _probabilities(table) == pytest.approx({1: 2 / 7, 2: 5 / 7})


def test_the_signal_is_the_first_priority_whenever_it_is_written() -> None:
    log = FakeLog()
    log.append(signals={"td_error": -4.0})
    log.append()
    table = _table(log, "prioritised per exponent=1 signal=td_error")
    assert table.needs_headers
    assert _probabilities(table) == {0: 0.5, 1: 0.5}  # without a signal: the largest so far
    append_to(log, table, td_error=2.0)
    assert _probabilities(table) == {0: 0.4, 1: 0.4, 2: 0.2}
    table.on_marked(log.mark(1, td_error=10.0))
    assert _probabilities(table) == {0: 0.25, 1: 0.625, 2: 0.125}
    _update(table, {0: 1.0})
    table.on_marked(log.mark(0, td_error=99.0))  # a client has said what the priority is
    table.on_marked(log.mark(2, novelty=99.0))
    assert _probabilities(table) == pytest.approx({0: 1 / 13, 1: 10 / 13, 2: 2 / 13})


def test_stored_priorities_come_back() -> None:
    log = FakeLog()
    log.append(4, signals={"td_error": 6.0})
    text = "prioritised per exponent=0.5 signal=td_error"
    table = _table(log, text)
    _update(table, {1: 2.0, 3: 0.0})
    stored = table.dirty_priorities()
    assert [array.tolist() for array in stored] == [[1, 3], [2.0, 0.0]]
    assert not len(table.dirty_priorities()[0])
    table.priorities_not_stored(stored[0])
    log.first_position = 2
    table.refresh(2, 4)
    assert table.dirty_priorities()[0].tolist() == [3]
    log.first_position = 0
    again = PrioritisedTable(parse_spec(text), replay_pb2.TableState(), log)
    again.load(log.records(), [stored])
    weights = {0: 6**0.5, 1: 2**0.5, 2: 6**0.5}
    assert _probabilities(again) == pytest.approx(
        {key: value / sum(weights.values()) for key, value in weights.items()}
    )


def test_what_was_never_stored_comes_back_as_if_it_were_new() -> None:
    log = FakeLog()
    log.append(3)
    table = PrioritisedTable(parse_spec("prioritised per exponent=1"), replay_pb2.TableState(), log)
    table.load((), [(np.array([1], np.uint64), np.array([5.0])), (np.array([2], np.uint64), np.array([2.0]))])
    assert _probabilities(table) == pytest.approx({0: 5 / 12, 1: 5 / 12, 2: 2 / 12})


def test_what_a_client_said_during_a_load_holds() -> None:
    log = FakeLog()
    log.append(2)
    table = _table(log)
    _update(table, {0: 7.0})
    table.load((), [(np.array([0, 1], np.uint64), np.array([1.0, 1.0]))])
    assert _probabilities(table) == {0: 0.875, 1: 0.125}


def test_exponent_and_signal_can_be_changed() -> None:
    log = FakeLog()
    log.append(signals={"a": 1.0, "b": 3.0})
    log.append(signals={"a": 4.0, "b": 1.0})
    table = _table(log, "prioritised per exponent=1 signal=a")
    assert _probabilities(table) == {0: 0.2, 1: 0.8}
    assert not table.respec(parse_spec("prioritised per exponent=0.5 signal=a"))
    assert _probabilities(table) == pytest.approx({0: 1 / 3, 1: 2 / 3})
    assert table.respec(parse_spec("prioritised per exponent=1 signal=b"))
    table.load(log.records())
    assert _probabilities(table) == {0: 0.75, 1: 0.25}


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    steps=st.lists(
        st.tuples(_STEP, st.integers(0, 900), st.floats(0.0, 8.0)),
        max_size=30,
    )
)
def test_the_same_as_a_list_of_priorities(steps: list[tuple[str, int, float]]) -> None:
    """Against priorities in a dict, with windows that outgrow the ring and wrap around in it."""
    log, expected, largest, excluded = FakeLog(), dict[int, float](), 1.0, set[int]()
    table = _table(log, "prioritised per exponent=2")
    for step, number, value in steps:
        if step == "append":
            expected.update(dict.fromkeys(range(log.next_position, log.next_position + number), largest))
            append_to(log, table, number)
        elif step == "update":
            chosen = [position for position in expected if position % 37 == number % 37]
            expected.update(dict.fromkeys(chosen, value))
            largest = max(largest, value) if chosen else largest
            _update(table, dict.fromkeys(chosen, value))
        elif step == "evict":
            log.first_position = min(log.next_position, log.first_position + number)
            expected = {key: priority for key, priority in expected.items() if key >= log.first_position}
            table.refresh(log.first_position, log.next_position)
        else:
            excluded = {position for position in range(log.next_position) if position % 41 == number % 41}
            table.exclude(BitMap64(excluded))
    weights = {key: priority**2 for key, priority in expected.items() if priority and key not in excluded}
    assert table.available() == len(weights)
    if weights:
        pick = draw(table, 300)
        told: NDArray[np.float64] = np.array([weights[position] for position in pick.positions.tolist()])
        np.testing.assert_allclose(pick.probabilities, told / sum(weights.values()), rtol=1e-9)
