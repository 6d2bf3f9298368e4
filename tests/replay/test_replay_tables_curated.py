"""Curated tables: membership follows the filter, and what counts as an insert."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap64

from protos.replay.v1 import replay_pb2
from replay.table_spec import parse_spec
from replay.tables.making import make_table
from replay.tables.table import Table
from replay.tables.testing import FakeLog, append_to, draw, loaded_table

_SPEC = "curated good filter='signals.success == 1 and not quarantined'"

_STEP = st.sampled_from(["append", "append", "mark", "evict", "exclude"])


def _members(table: Table, draws: int = 400) -> set[int]:
    return set(table.pick(draws).positions.tolist())


def test_membership_follows_the_marks() -> None:
    log = FakeLog()
    log.append(4)
    table = loaded_table(log, _SPEC)
    assert (table.available(), table.inserts, table.needs_headers) == (0, 0, True)
    assert not table.can_sample(1)
    table.on_marked(log.mark(1, success=1.0))
    table.on_marked(log.mark(2, success=1.0))
    assert _members(table) == {1, 2}
    table.on_marked(log.mark(1, success=0.0))
    assert _members(table) == {2}
    append_to(log, table, 1, success=1.0)
    assert _members(table) == {2, 4}
    assert table.inserts == 3


def test_on_a_shard_positions_in_the_filter_are_global_ones() -> None:
    log = FakeLog()
    spec = parse_spec(
        f"curated some filter='position == {2**48 + 1} or (position >= {2**48} and signals.success == 1)'"
    )
    table = make_table(spec, replay_pb2.TableState(), log, shard=1)
    table.load(log.append(3))
    assert _members(table) == {1}
    table.on_marked(log.mark(2, success=1.0))
    assert _members(table) == {1, 2}


def test_quarantine_is_left_to_exclusion() -> None:
    log = FakeLog()
    log.append(2, signals={"success": 1.0})
    table = loaded_table(log, _SPEC)
    table.exclude(BitMap64([0]))
    table.on_marked(log.mark(0, quarantine=1))
    assert _members(table) == {1}
    table.exclude(BitMap64())
    assert _members(table) == {0, 1}
    assert table.inserts == 2


def test_a_ratio_is_one_to_the_records_that_passed() -> None:
    log = FakeLog()
    table = loaded_table(log, _SPEC + " samples_per_insert=1 min_size=2 error_buffer=3")
    append_to(log, table, 50, success=0.0)
    assert table.insertable(9) == 5
    append_to(log, table, 2, success=1.0)
    assert table.insertable(9) == 3
    assert table.can_sample(3)
    assert not table.can_sample(4)


def test_inserts_are_counted_once_over_restarts() -> None:
    log = FakeLog()
    log.append(5, signals={"success": 1.0})
    table = loaded_table(log, _SPEC)
    draw(table, 1)
    append_to(log, table, 3, success=1.0)  # not in the state that was committed last
    log.first_position = 4
    again = loaded_table(log, _SPEC, table.state)
    assert (again.inserts, again.available()) == (8, 4)
    changed = loaded_table(log, _SPEC.replace("== 1", ">= 1"), table.state)
    assert (changed.inserts, changed.available()) == (4, 4)


def test_another_filter_needs_the_records_again() -> None:
    log = FakeLog()
    log.append(3, signals={"success": 1.0})
    log.append(3, signals={"success": 2.0})
    table = loaded_table(log, _SPEC)
    draw(table, 100)
    spec = parse_spec("curated good filter='signals.success == 2' samples_per_insert=1 min_size=1 error_buffer=4")
    assert table.respec(spec)
    assert table.available() == 0
    table.on_marked(log.mark(0, success=2.0))
    table.load(log.records()[:3], complete=False)
    table.load(log.records()[3:])
    assert (_members(table), table.inserts) == ({0, 3, 4, 5}, 4)
    assert table.can_sample(7)
    assert table.insertable(9) == 1
    assert not table.respec(parse_spec("curated good filter='signals.success == 2' min_size=9"))
    assert not table.can_sample(1)


def test_a_mark_during_a_load_holds_against_what_is_loaded() -> None:
    log = FakeLog()
    log.append(3, signals={"success": 1.0})
    table = make_table(parse_spec(_SPEC), replay_pb2.TableState(), log)
    before = log.records()
    table.load(before[:1], complete=False)
    table.on_marked(log.mark(0, success=0.0))
    table.on_marked(log.mark(1, success=0.0))
    table.load(before[1:])
    assert _members(table) == {2}
    append_to(log, table, 1, success=1.0)
    table.load(log.records())
    assert _members(table) == {2, 3}
    assert table.inserts == 3


def test_what_a_wider_window_gives_back_is_not_counted_again() -> None:
    log = FakeLog()
    log.append(6, signals={"success": 1.0})
    table = loaded_table(log, _SPEC)
    assert not table.respec(parse_spec(_SPEC + " records_max=2"))
    assert table.respec(parse_spec(_SPEC + " records_max=4"))
    table.load(log.records())
    assert (table.available(), table.inserts) == (4, 6)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    steps=st.lists(
        st.tuples(_STEP, st.integers(0, 300), st.booleans()),
        max_size=30,
    )
)
def test_the_same_as_a_list(steps: list[tuple[str, int, bool]]) -> None:
    log, success, excluded = FakeLog(), dict[int, bool](), set[int]()
    table = loaded_table(log, _SPEC)
    for step, number, good in steps:
        if step == "append":
            success.update(dict.fromkeys(range(log.next_position, log.next_position + number), good))
            append_to(log, table, number, success=float(good))
        elif step == "mark" and number in success:
            success[number] = good
            table.on_marked(log.mark(number, success=float(good)))
        elif step == "evict":
            log.first_position = min(log.next_position, log.first_position + number)
            success = {position: value for position, value in success.items() if position >= log.first_position}
            table.refresh(log.first_position, log.next_position)
        elif step == "exclude":
            excluded = {position for position in range(log.next_position) if position % 5 == number % 5}
            table.exclude(BitMap64(excluded))
    left = {position for position, good in success.items() if good and position not in excluded}
    assert table.available() == len(left)
    for made in (table, loaded_table(log, _SPEC, replay_pb2.TableState())):
        made.exclude(BitMap64(excluded))
        assert made.available() == len(left)
        if left:
            pick = made.pick(100)
            assert set(pick.positions.tolist()) <= left
            assert set(pick.probabilities.tolist()) == {1 / len(left)}
