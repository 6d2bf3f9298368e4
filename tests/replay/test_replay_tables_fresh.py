"""The queue: order, at most once, and what becomes of records that are gone before their turn."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap64

from protos.replay.v1 import replay_pb2
from replay.table_spec import parse_spec
from replay.tables.fresh import FreshTable
from replay.tables.making import make_table, new_state
from replay.tables.testing import FakeLog, append_to, draw

_STEP = st.sampled_from(["append", "draw", "evict", "exclude", "restart"])


def _table(log: FakeLog, error_buffer: int = 100, state: replay_pb2.TableState | None = None) -> FreshTable:
    spec = parse_spec(f"fresh fresh error_buffer={error_buffer}")
    table = make_table(spec, state or replay_pb2.TableState(), log)
    assert isinstance(table, FreshTable)
    return table


def test_records_come_in_log_order_without_repeating() -> None:
    log = FakeLog()
    log.append(10)
    table, taken = _table(log), list[int]()
    for count in (3, 1, 6):
        assert table.can_sample(count)
        pick = draw(table, count)
        taken += pick.positions.tolist()
        assert pick.probabilities.tolist() == [1.0] * count
    assert taken == list(range(10))
    assert not table.can_sample(1)
    assert (table.state.cursor, table.state.samples, table.state.inserts, table.skipped) == (10, 10, 10, 0)


def test_what_was_evicted_is_passed_over() -> None:
    log = FakeLog()
    log.append(10)
    log.first_position = 6
    table = _table(log, error_buffer=5, state=replay_pb2.TableState(cursor=2, samples=2))
    assert table.available() == 4
    assert table.insertable(5) == 1
    pick = draw(table, 2)
    assert pick.positions.tolist() == [6, 7]
    assert (table.state.cursor, table.state.samples) == (8, 4)
    assert table.skipped == 4


def test_what_is_excluded_is_passed_over_and_holds_no_insert_up() -> None:
    log = FakeLog()
    log.append(10)
    table = _table(log, error_buffer=10)
    assert table.insertable(5) == 0
    table.exclude(BitMap64([0, 1, 4, 9, 12]))
    assert table.insertable(5) == 4
    assert draw(table, 4).positions.tolist() == [2, 3, 5, 6]
    table.exclude(BitMap64())
    assert draw(table, 3).positions.tolist() == [7, 8, 9]
    assert (table.available(), table.skipped) == (0, 3)
    append_to(log, table, 3)
    assert table.available() == 3


def test_inserts_go_on_where_all_that_waits_is_excluded() -> None:
    log = FakeLog()
    log.append(4)
    table = _table(log, error_buffer=4)
    table.exclude(BitMap64(range(4)))
    assert table.insertable(9) == 4
    assert not table.can_sample(1)


def test_failed_draws_are_taken_back_once_none_is_under_way() -> None:
    log = FakeLog()
    log.append(10)
    table = _table(log)
    for last_committed, cursor in ((False, 0), (True, 5)):
        first = table.pick(3)
        table.begin_draw(first.state)
        second = table.pick(2)
        table.begin_draw(second.state)
        table.end_draw(first.state, committed=False)
        assert (table.state.cursor, second.positions.tolist()) == (5, [3, 4])
        table.end_draw(second.state, committed=last_committed)
        assert table.state.cursor == cursor  # where one was committed the first three are skipped, never repeated


def test_a_queue_made_live_begins_with_the_next_record() -> None:
    log = FakeLog()
    log.append(1_000)
    table = _table(log, error_buffer=5, state=new_state(parse_spec("fresh fresh error_buffer=5"), log.next_position))
    assert (table.available(), table.insertable(9)) == (0, 5)
    append_to(log, table, 2)
    assert draw(table, 2).positions.tolist() == [1_000, 1_001]
    assert new_state(parse_spec("uniform old"), 1_000).cursor == 0


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(steps=st.lists(st.tuples(_STEP, st.integers(0, 9))))
def test_each_record_once_in_order_whatever_happens(steps: list[tuple[str, int]]) -> None:
    """Against a plain list of what waits."""
    log, waiting, excluded = FakeLog(), list[int](), set[int]()
    table = _table(log)
    for step, number in steps:
        if step == "append":
            waiting += range(log.next_position, log.next_position + number)
            append_to(log, table, number)
        elif step == "draw":
            allowed = [position for position in waiting if position not in excluded]
            assert table.can_sample(number or 1) == (len(allowed) >= (number or 1))
            if number and len(allowed) >= number:
                assert draw(table, number).positions.tolist() == allowed[:number]
                waiting = [position for position in waiting if position > allowed[number - 1]]
        elif step == "evict":
            log.first_position = min(log.next_position, log.first_position + number)
            waiting = [position for position in waiting if position >= log.first_position]
            table.refresh(log.first_position, log.next_position)
        elif step == "exclude":
            excluded = {position for position in range(log.next_position + 9) if position % 10 == number}
            table.exclude(BitMap64(excluded))
        else:
            table = _table(log, state=table.state)
            table.exclude(BitMap64(excluded))
        assert table.available() == len([position for position in waiting if position not in excluded])
        assert table.insertable(200) == 100 - table.available()
