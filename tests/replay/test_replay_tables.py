"""What holds for every kind of table: how likely each record is, what counts and what does not, and restarts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pyroaring import BitMap64

from protos.replay.v1 import replay_pb2
from replay.table_spec import TableSpecError, parse_spec
from replay.tables.making import make_table
from replay.tables.table import Table
from replay.tables.testing import FakeLog, append_to, draw, loaded_table

SPECS = {
    "fresh": "fresh table error_buffer=1000",
    "uniform": "uniform table",
    "prioritised": "prioritised table exponent=0.5 signal=weight",
    "stratified": "stratified table by=task_id",
    "curated": "curated table filter='signals.weight > 0'",
}

each_kind = pytest.mark.parametrize("kind", SPECS)
each_random_kind = pytest.mark.parametrize("kind", [kind for kind in SPECS if kind != "fresh"])


def _log(count: int = 24) -> FakeLog:
    """Records of three tasks with the weights 1 to 4."""
    log = FakeLog()
    for index in range(count):
        log.append(task_id="abbbcc"[index % 6], signals={"weight": 1 + index % 4})
    return log


def _expected(kind: str, log: FakeLog, allowed: Callable[[int], bool] = lambda position: True) -> dict[int, float]:
    """The probabilities by position, from the definitions, one record at a time."""
    records = [record for record in log.records() if allowed(record.position)]
    if kind == "prioritised":
        powers = {record.position: record.header.signals["weight"] ** 0.5 for record in records}
        return {position: power / sum(powers.values()) for position, power in powers.items()}
    if kind == "stratified":
        tasks = [record.header.task_id for record in records]
        return {record.position: 1 / len(set(tasks)) / tasks.count(record.header.task_id) for record in records}
    return {record.position: 1 / len(records) for record in records}


def _chi_squared(positions: np.ndarray, expected: dict[int, float]) -> float:
    counts = np.bincount(positions.astype(np.int64), minlength=max(expected) + 1)
    assert counts.sum() == sum(counts[position] for position in expected), "a record that may not be drawn was"
    drawn = len(positions)
    return float(sum((counts[position] - drawn * p) ** 2 / (drawn * p) for position, p in expected.items()))


@each_random_kind
def test_records_are_drawn_with_the_probabilities_that_are_told(kind: str) -> None:
    """Chi-squared over 20 records: 19 degrees of freedom, 99.9% quantile 43.8."""
    log = _log()
    log.first_position = 4
    table = loaded_table(log, SPECS[kind], seed=3)
    expected = _expected(kind, log)
    picks = [draw(table, 256) for _ in range(40)]
    positions = np.concatenate([pick.positions for pick in picks])
    assert _chi_squared(positions, expected) < 43.8
    told = np.concatenate([pick.probabilities for pick in picks])
    np.testing.assert_allclose(told, [expected[int(position)] for position in positions], rtol=1e-12)
    assert {pick.available for pick in picks} == {20} == {table.available()}
    assert table.state.samples == 40 * 256


@each_random_kind
def test_a_draw_is_wrong_where_the_oracle_says_so(kind: str) -> None:
    """The test above can fail: the oracle of another table does not accept these draws."""
    log = _log()
    positions = np.concatenate([draw(loaded_table(log, SPECS[kind]), 4096).positions for _ in range(2)])
    other = "uniform" if kind in ("prioritised", "stratified") else "stratified"
    assert _chi_squared(positions, _expected(other, log)) > 43.8


@each_kind
def test_what_is_excluded_is_never_drawn(kind: str) -> None:
    """Chi-squared over the 16 that are left: 15 degrees of freedom, 99.9% quantile 37.7."""
    log, excluded = _log(), BitMap64([0, 5, 6, 7, 8, 11, 22, 23, 99])
    table = loaded_table(log, SPECS[kind])
    table.exclude(excluded)
    assert table.available() == 16
    expected = _expected(kind, log, lambda position: position not in excluded)
    if kind == "fresh":
        assert draw(table, 16).positions.tolist() == sorted(expected)
        return
    pick = draw(table, 5_000)
    assert _chi_squared(pick.positions, expected) < 37.7
    np.testing.assert_allclose(pick.probabilities, [expected[int(position)] for position in pick.positions])


@each_kind
def test_what_is_no_longer_excluded_is_as_before(kind: str) -> None:
    log = _log()
    table, untouched = loaded_table(log, SPECS[kind]), loaded_table(log, SPECS[kind])
    table.exclude(BitMap64(range(24)))
    assert table.available() == 0
    assert not table.can_sample(1)
    table.exclude(BitMap64())
    assert table.available() == 24
    assert table.pick(20).positions.tolist() == untouched.pick(20).positions.tolist()


@each_kind
def test_what_is_excluded_before_it_is_inserted_is_not_drawn(kind: str) -> None:
    log = _log(0)
    table = loaded_table(log, SPECS[kind])
    table.exclude(BitMap64([1, 3]))
    append_to(log, table, 5, weight=1.0)
    assert table.available() == 3
    assert set(draw(table, 3 if kind == "fresh" else 100).positions.tolist()) == {0, 2, 4}


@each_kind
def test_an_empty_table_gives_nothing(kind: str) -> None:
    table = loaded_table(FakeLog(), SPECS[kind])
    assert table.available() == table.first_position() == table.inserts == 0
    assert not table.can_sample(1)
    assert table.insertable(10) == 10


@each_kind
def test_a_table_follows_the_log(kind: str) -> None:
    """What was inserted one by one, and what was loaded, make the same table."""
    log = _log(0)
    table = loaded_table(log, SPECS[kind], seed=5)
    for index in range(3_000):
        append_to(log, table, task_id="abbbcc"[index % 6], weight=1.0 + index % 4)
        if index % 7 == 0:
            log.first_position = index // 2
            table.refresh(log.first_position, log.next_position)
    assert table.first_position() == log.first_position == 1498
    assert table.available() == 3_000 - 1498
    assert table.inserts == 3_000
    made = loaded_table(log, SPECS[kind], seed=5)
    assert table.pick(200).positions.tolist() == made.pick(200).positions.tolist()
    np.testing.assert_allclose(table.pick(200).probabilities, made.pick(200).probabilities, rtol=1e-12)


@pytest.mark.parametrize("kind", ["prioritised", "stratified", "curated"])
def test_a_log_that_grows_during_a_load_is_loaded_to_its_end(kind: str) -> None:
    log = _log()
    table = make_table(parse_spec(SPECS[kind]), replay_pb2.TableState(), log)
    table.load(log.records(), complete=False)
    log.append(6, signals={"weight": 1.0})
    table.load(log.records()[24:])
    assert (table.available(), table.inserts) == (30, 30)
    table.refresh(0, 30)
    table.on_inserted(log.records()[26:])  # heard of twice
    assert (table.available(), table.inserts) == (30, 30)


@each_kind
def test_a_restart_goes_on_as_if_there_had_been_none(kind: str) -> None:
    log = _log(400)
    unbroken = loaded_table(log, SPECS[kind], seed=1)
    expected = [draw(unbroken, 8).positions.tolist() for _ in range(4)]
    first = loaded_table(log, SPECS[kind], seed=1)
    before = [draw(first, 8).positions.tolist() for _ in range(2)]
    second = loaded_table(log, SPECS[kind], replay_pb2.TableState.FromString(first.state.SerializeToString()), seed=1)
    assert before + [draw(second, 8).positions.tolist() for _ in range(2)] == expected
    assert len({tuple(positions) for positions in expected}) == 4


@each_random_kind
def test_draws_are_seeded(kind: str) -> None:
    log = _log()
    draws = [loaded_table(log, SPECS[kind], seed=seed).pick(16).positions.tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    other_name = loaded_table(log, SPECS[kind].replace(" table", " other"), seed=1).pick(16).positions.tolist()
    assert other_name != draws[0]


@each_kind
def test_a_table_keeps_to_a_number_of_records(kind: str) -> None:
    log = _log()
    table = loaded_table(log, SPECS[kind].replace("=1000", "=5") + " records_max=5")
    assert (table.first_position(), table.available()) == (19, 5)
    append_to(log, table, 3, weight=1.0)
    assert (table.first_position(), table.available()) == (22, 5)
    assert set(draw(table, 5 if kind == "fresh" else 200).positions.tolist()) == set(range(22, 27))


@each_kind
def test_a_table_keeps_to_a_number_of_bytes(kind: str) -> None:
    log = FakeLog()
    log.append(10, payload_bytes=100, signals={"weight": 1.0})
    table = loaded_table(log, SPECS[kind] + " payload_bytes_max=350")
    assert (table.first_position(), table.available()) == (7, 3)


@each_kind
def test_a_table_keeps_to_an_age_and_a_clock_that_is_set_back_changes_nothing(kind: str) -> None:
    log, now_ns = FakeLog(), 20 * 10**9
    for second in range(20):
        log.append(signals={"weight": 1.0}, time_ns=second * 10**9)
    table = make_table(parse_spec(SPECS[kind] + " age_s_max=4"), replay_pb2.TableState(), log, clock_ns=lambda: now_ns)
    table.load(log.records())
    assert (table.first_position(), table.available()) == (16, 4)
    now_ns = 22 * 10**9
    table.refresh(0, 20)
    assert (table.first_position(), table.available()) == (18, 2)
    now_ns = 5 * 10**9
    table.refresh(0, 20)
    assert (table.first_position(), table.available()) == (18, 2)
    now_ns = 99 * 10**9
    table.refresh(0, 20)
    assert (table.first_position(), table.available()) == (20, 0)


@each_kind
def test_reservations_count_until_they_settle(kind: str) -> None:
    settings = " error_buffer=6" if kind == "fresh" else " samples_per_insert=1 min_size=2 error_buffer=4"
    table = loaded_table(FakeLog(), SPECS[kind].replace(" error_buffer=1000", "") + settings)
    assert table.insertable(9) == 6
    table.reserve(6)
    assert table.insertable(9) == 0
    table.settle(6)
    assert table.insertable(9) == 6


@each_random_kind
def test_a_ratio_of_samples_to_inserts_is_kept(kind: str) -> None:
    log = FakeLog()
    table = loaded_table(log, SPECS[kind] + " samples_per_insert=2 min_size=3 error_buffer=4")
    append_to(log, table, 2, weight=1.0)
    assert not table.can_sample(1)
    append_to(log, table, 1, weight=1.0)
    assert table.can_sample(4)
    assert not table.can_sample(5)
    assert table.insertable(9) == 2  # diff = 3 * 2 may rise to 10
    draw(table, 4)
    assert not table.can_sample(1)
    assert table.insertable(9) == 4


@each_kind
def test_a_changed_limiter_holds_nobody_up(kind: str) -> None:
    log = _log(200)
    table = loaded_table(log, SPECS[kind])
    draw(table, 50)
    if kind == "fresh":
        assert not table.respec(parse_spec("fresh table error_buffer=200"))
        assert (table.insertable(99), table.can_sample(150), table.can_sample(151)) == (50, True, False)
        return
    for ratio in (2, 0.5, 8):
        spec = parse_spec(f"{SPECS[kind]} samples_per_insert={ratio} min_size=10 error_buffer=64")
        assert not table.respec(spec)
        assert table.insertable(99) > 0
        assert table.can_sample(32)
        assert table.state.samples == 50
        assert table.spec == table.state.spec == spec


@each_kind
def test_a_change_is_not_lost_with_a_draw_that_was_under_way(kind: str) -> None:
    table = loaded_table(_log(), SPECS[kind])
    pick = table.pick(2)
    changed = parse_spec(SPECS[kind] + " records_max=2000")
    table.respec(changed)
    table.begin_draw(pick.state)
    assert pick.state.spec == changed
    table.end_draw(pick.state, committed=False)
    assert table.state.spec == changed


@each_kind
def test_a_change_of_retention_takes_and_gives_back_records(kind: str) -> None:
    log = _log()
    spec = SPECS[kind].replace("=1000", "=5")
    table = loaded_table(log, spec)
    assert not table.respec(parse_spec(spec + " records_max=6"))
    assert (table.first_position(), table.available()) == (18, 6)
    reload = table.respec(parse_spec(spec + " records_max=20"))
    assert reload == (kind not in ("fresh", "uniform"))
    if reload:
        table.load(log.records())
    assert (table.first_position(), table.available(), table.inserts) == (4, 20, 24)
    if kind != "fresh":
        log.first_position = 4
        assert _chi_squared(draw(table, 10_000).positions, _expected(kind, log)) < 43.8


@each_kind
def test_name_and_kind_are_fixed(kind: str) -> None:
    table = loaded_table(_log(), SPECS[kind])
    before = table.spec
    for other in ("uniform other", "fresh table" if kind != "fresh" else "uniform table"):
        with pytest.raises(TableSpecError, match="name and kind are fixed"):
            table.respec(parse_spec(other))
    assert table.spec == before


def test_only_a_table_that_draws_once_takes_failed_draws_back() -> None:
    fresh, uniform = (loaded_table(_log(), SPECS[kind]) for kind in ("fresh", "uniform"))
    for table, expected in ((fresh, 0), (uniform, 2)):
        first, second = table.pick(1), None
        table.begin_draw(first.state)
        second = table.pick(1)
        table.begin_draw(second.state)
        table.end_draw(first.state, committed=False)
        assert table.state.samples == 2
        table.end_draw(second.state, committed=False)
        assert table.state.samples == expected
    assert fresh.draws_once
    assert not uniform.draws_once


@each_kind
def test_tables_without_priorities_take_none(kind: str) -> None:
    table: Table = loaded_table(_log(), SPECS[kind])
    updated = table.update_priorities(np.array([1, 2], np.uint64), np.array([1.0, 2.0]))
    positions, priorities = table.dirty_priorities()
    assert updated == len(positions) == len(priorities) == (2 if kind == "prioritised" else 0)
