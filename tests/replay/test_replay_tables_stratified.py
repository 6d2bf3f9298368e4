"""Strata: which there are, how records move between them, and what happens when there are too many."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap64

from protos.replay.v1 import replay_pb2
from replay.table_spec import parse_spec
from replay.tables.stratified import MISSING, OTHERS, STRATA_MAX, StratifiedTable
from replay.tables.testing import FakeLog, append_to, draw, loaded_table

_STEP = st.sampled_from(["append", "append", "mark", "evict", "exclude", "draw"])


def _table(log: FakeLog, by: str) -> StratifiedTable:
    table = loaded_table(log, f"stratified by-it by={by}")
    assert isinstance(table, StratifiedTable)
    return table


def _told(table: StratifiedTable) -> dict[int, float]:
    pick = table.pick(2_000)
    return dict(zip(pick.positions.tolist(), pick.probabilities.tolist(), strict=True))


def test_what_is_rare_is_drawn_as_often_as_what_is_common() -> None:
    log = FakeLog()
    log.append(98, task_id="common")
    log.append(2, task_id="rare")
    table = _table(log, "task_id")
    drawn = Counter(position >= 98 for position in draw(table, 10_000).positions.tolist())
    assert 4_800 < drawn[True] < 5_200  # four standard deviations
    assert _told(table)[98] == 0.25
    assert _told(table)[0] == pytest.approx(0.5 / 98)
    assert table.strata() == {"common": 98, "rare": 2}


def test_records_without_a_value_are_a_stratum() -> None:
    log = FakeLog()
    log.append(3)
    log.append(signals={"level": 2.0})
    table = _table(log, "signals.level")
    assert table.strata() == {MISSING: 3, "2.0": 1}
    append_to(log, table, level=float("nan"))
    assert table.strata() == {MISSING: 4, "2.0": 1}


def test_a_record_moves_when_it_is_marked() -> None:
    log = FakeLog()
    log.append(3)
    table = _table(log, "signals.success")
    table.on_marked(log.mark(1, success=1.0))
    assert table.strata() == {MISSING: 2, "1.0": 1}
    assert _told(table) == {0: 0.25, 1: 0.5, 2: 0.25}
    table.on_marked(log.mark(1, success=0.0, other=1.0))
    table.on_marked(log.mark(1, quarantine=4))
    assert table.strata() == {MISSING: 2, "0.0": 1}
    table.on_marked(log.mark(0, success=0.0))
    table.on_marked(log.mark(2, success=0.0))
    assert table.strata() == {"0.0": 3}
    log.first_position = 2
    table.refresh(2, 3)
    table.on_marked(log.mark(1, success=1.0))  # is not there any more
    assert table.strata() == {"0.0": 1}


def test_a_stratum_with_nothing_to_draw_is_not_drawn() -> None:
    log = FakeLog()
    for task in "abc":
        log.append(2, task_id=task)
    table = _table(log, "task_id")
    table.exclude(BitMap64([2, 3, 4]))
    assert table.strata() == {"a": 2, "b": 0, "c": 1}
    assert _told(table) == {0: 0.25, 1: 0.25, 5: 0.5}


def test_further_values_share_a_stratum_until_others_are_gone() -> None:
    log = FakeLog()
    for index in range(STRATA_MAX):
        log.append(task_id=f"task-{index}")
    table = _table(log, "task_id")
    append_to(log, table, 2, task_id="late")
    append_to(log, table, 1, task_id="later")
    assert table.strata()[OTHERS] == 3
    assert len(table.strata()) == STRATA_MAX + 1
    log.first_position = 10
    append_to(log, table, 1, task_id="later")
    assert (table.strata()["later"], table.strata()[OTHERS]) == (1, 3)
    log.first_position = log.next_position - 1
    table.refresh(log.first_position, log.next_position)
    assert table.strata() == {"later": 1}


def test_other_strata_need_the_records_again() -> None:
    log = FakeLog()
    log.append(2, task_id="a", signals={"level": 1.0})
    log.append(2, task_id="a", signals={"level": 2.0})
    table = _table(log, "task_id")
    assert table.respec(parse_spec("stratified by-it by=signals.level"))
    assert table.available() == 0
    append_to(log, table, level=2.0)
    table.on_marked(log.mark(0, level=2.0))
    table.load(log.records()[:2], complete=False)
    table.load([record._replace(header=log.append()[0].header) for record in log.records()[:1]], complete=False)
    table.load(log.records()[2:5])
    assert table.strata() == {"1.0": 1, "2.0": 4}


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    steps=st.lists(
        st.tuples(_STEP, st.integers(0, 700), st.integers(0, 4)),
        max_size=30,
    )
)
def test_the_same_as_a_list_of_values(steps: list[tuple[str, int, Any]]) -> None:
    log, values, excluded = FakeLog(), dict[int, float](), set[int]()
    table = _table(log, "signals.level")
    for step, number, level in steps:
        if step == "append":
            values.update(dict.fromkeys(range(log.next_position, log.next_position + number), level))
            append_to(log, table, number, level=level)
        elif step == "mark" and number in values:
            values[number] = level
            table.on_marked(log.mark(number, level=level))
        elif step == "evict":
            log.first_position = min(log.next_position, log.first_position + number)
            values = {position: value for position, value in values.items() if position >= log.first_position}
            table.refresh(log.first_position, log.next_position)
        elif step == "exclude":
            excluded = {position for position in range(log.next_position) if position % 5 == level}
            table.exclude(BitMap64(excluded))
        elif table.available():
            assert set(table.pick(9).positions.tolist()) <= values.keys() - excluded
    left = {position: float(value) for position, value in values.items() if position not in excluded}
    sizes = Counter(left.values())
    assert {label: size for label, size in table.strata().items() if size} == {str(key): sizes[key] for key in sizes}
    assert table.available() == len(left)
    for made in (table, loaded_table(log, "stratified by-it by=signals.level", replay_pb2.TableState())):
        made.exclude(BitMap64(excluded))
        if left:
            pick = made.pick(200)
            expected = [1 / len(sizes) / sizes[left[position]] for position in pick.positions.tolist()]
            assert pick.probabilities.tolist() == pytest.approx(expected)
