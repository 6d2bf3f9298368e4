"""What the rules that come with Temper say of records made for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from replay.curation.catalog import choose_rules
from replay.curation.context import CurationContext
from replay.provenance import SIGNAL_MAX
from replay.record import LoggedRecord
from replay.sharding import SHARD_BITS, global_position
from tests.replay.listed_source import record_of, unroll_columns


class Running:
    """A rule with its memory."""

    def __init__(self, text: str, seed: int = 0) -> None:
        (chosen,) = choose_rules([text])
        self._function = chosen.rule.function
        self._context = CurationContext(chosen.parameters, seed)

    def __call__(self, record: LoggedRecord) -> Mapping[str, float]:
        return self._function(record, self._context)


def ended(episodes: float, total: float, environment: str = "cartpole", **more: Any) -> LoggedRecord:
    signals = {"episodes": episodes, "return": total}
    return record_of(unroll_columns(2), environment=environment, signals=signals, **more)


@pytest.mark.parametrize(
    ("text", "record", "expected"),
    [
        ("success", ended(1, 475), {"success": 1.0}),
        ("success", ended(1, 474), {"success": 0.0}),
        ("success", ended(2, 900), {"success": 0.0}),
        ("success", ended(0, 0), {}),
        ("success", ended(1, 1, "catch"), {"success": 1.0}),
        ("success", ended(1, 1e9, "unheard of"), {}),
        ("success:threshold=10", ended(1, 10, "unheard of"), {"success": 1.0}),
        ("success:threshold=500", ended(1, 480), {"success": 0.0}),
        ("success", record_of(unroll_columns(2), environment="cartpole"), {}),
    ],
)
def test_success(text: str, record: LoggedRecord, expected: Mapping[str, float]) -> None:
    assert Running(text)(record) == expected


def test_violations() -> None:
    columns = unroll_columns(4)
    assert Running("violations")(record_of(columns)) == {"violations": 0.0, "violation_rate": 0.0}
    columns["cost"][:] = [0.0, 0.5, 0.0, 2.0]
    columns["mask"][2] = False
    assert Running("violations")(record_of(columns)) == {"violations": 2.0, "violation_rate": 2 / 3}
    del columns["cost"]
    assert Running("violations")(record_of(columns)) == {}


def test_reward_verified_believes_marks_alone() -> None:
    columns = unroll_columns(2)
    said = Running("reward_verified")
    assert said(record_of(columns, marks={"verified": 1.0, "mismatch": 0.0})) == {"reward_verified": 1.0}
    assert said(record_of(columns, marks={"verified": 0.0, "mismatch": 1.0})) == {"reward_verified": 0.0}
    assert said(record_of(columns)) == {}
    assert said(record_of(columns, signals={"verified": 1.0})) == {}, "an actor's own word is no verification"


def test_an_exact_duplicate_names_the_first() -> None:
    said = Running("duplicate_of")
    columns = [unroll_columns(3, seed=seed) for seed in (0, 1, 0, 1, 0)]
    given = [said(record_of(each, position=position)) for position, each in enumerate(columns, 10)]
    assert given == [{}, {}, {"duplicate_of": 10.0}, {"duplicate_of": 11.0}, {"duplicate_of": 10.0}]


def test_a_record_is_no_duplicate_of_itself_or_of_a_later_one() -> None:
    said = Running("duplicate_of")
    record, later = record_of(unroll_columns(3), position=4), record_of(unroll_columns(3), position=9)
    assert [said(each) for each in (later, record, record, later)] == [{}, {}, {}, {"duplicate_of": 4.0}]


@pytest.mark.parametrize("name", ["duplicate_of", "near_duplicate_of"])
def test_duplicates_in_a_late_shard_are_named_to_the_last_digit(name: str) -> None:
    said, columns, last = Running(name), unroll_columns(4), global_position(31, 2**SHARD_BITS - 2)
    given = [said(record_of(columns, position=position)) for position in (last, last + 1)]
    assert given == [{}, {name: float(last)}]
    assert int(given[1][name]) == last
    assert float(last) <= SIGNAL_MAX


@pytest.mark.parametrize("name", ["duplicate_of", "near_duplicate_of"])
def test_what_no_signal_can_hold_is_not_written_as_something_else(name: str) -> None:
    said, columns, first = Running(name), unroll_columns(4), global_position(32, 1)
    assert int(float(first)) != first
    said(record_of(columns, position=first))
    with pytest.raises(ValueError, match=f"position {first} is above 9007199254740992"):
        said(record_of(columns, position=first + 1))


def test_near_duplicates() -> None:
    said = Running("near_duplicate_of:quantum=0.1")
    columns = unroll_columns(3)
    columns["observation"] = np.round(columns["observation"], 1)
    close = {**columns, "observation": columns["observation"] + np.float32(0.01), "reward": columns["reward"] + 1}
    far = {**columns, "observation": columns["observation"] + np.float32(0.2)}
    acted = {**columns, "action": 1 - columns["action"]}
    given = [said(record_of(each, position=at)) for at, each in enumerate((columns, close, far, acted, close), 20)]
    assert given == [{}, {"near_duplicate_of": 20.0}, {}, {}, {"near_duplicate_of": 20.0}]


def test_what_was_seen_is_remembered_long_but_not_for_ever() -> None:
    """Memory is fixed: a million keys later most of the oldest have been written over, and nothing else happens."""
    context = CurationContext()
    first = [context.first_seen(key.to_bytes(4, "little"), key) for key in range(2000)]
    assert first == list(range(2000))
    again = [context.first_seen(key.to_bytes(4, "little"), 5000) for key in range(2000)]
    assert sum(one == other for one, other in zip(first, again, strict=True)) > 1980


def test_novelty_falls_as_states_are_seen_again() -> None:
    said = Running("novelty")
    one, other = unroll_columns(8, seed=1), unroll_columns(8, seed=2)
    record = record_of(one)
    values = [said(record)["novelty"] for _ in range(4)]
    assert values == pytest.approx([1.0, 2**-0.5, 3**-0.5, 0.5], abs=0.03)
    assert said(record_of(other))["novelty"] > 0.8
    assert said(record_of(one, environment="another"))["novelty"] < 0.5, "the same code of the same environment digest"


def test_novelty_counts_environments_apart_and_boundary_rows_not_at_all() -> None:
    said = Running("novelty")
    columns = unroll_columns(4)
    record = record_of(columns)
    said(record)
    elsewhere = record_of(columns)
    elsewhere.origin.environment.code_digest = bytes(31) + b"x"
    assert said(elsewhere) == {"novelty": 1.0}
    columns["mask"][:] = False
    assert said(record_of(columns)) == {}


def test_novelty_is_the_paper_s_bonus() -> None:
    """Against the count of signs of random projections, written down slowly (Tang et al., algorithm 1)."""
    context, said = CurationContext({"bits": 3.0}, seed=5), Running("novelty:bits=3", seed=5)
    counts: dict[int, int] = {}
    for seed in range(5):
        columns = unroll_columns(6, seed=seed)
        codes = context.simhash(columns["observation"][:6], 3).tolist()
        expected = np.mean([(1 + counts.get(code, 0)) ** -0.5 for code in codes])
        assert said(record_of(columns))["novelty"] == pytest.approx(expected)
        for code in codes:
            counts[code] = counts.get(code, 0) + 1


def test_simhash_is_the_sign_of_projections_and_bounded_in_memory() -> None:
    context = CurationContext(seed=1)
    values = np.random.default_rng(0).standard_normal((100, 6))
    codes = context.simhash(values, 16)
    assert codes.max() < 2**16
    np.testing.assert_array_equal(codes, context.simhash(3.0 * values, 16))
    np.testing.assert_array_equal(context.simhash(-values, 16), codes ^ np.uint64(2**16 - 1))
    assert len(set(codes.tolist())) > 30
    assert (CurationContext(seed=2).simhash(values, 16) != codes).any()
    assert context.simhash(np.ones((2, 300_000), np.float32)).shape == (2,)
    with pytest.raises(ValueError, match="bits = 65"):
        context.simhash(values, 65)


def sound(columns: Mapping[str, Any], **header: Any) -> float:
    return Running("fidelity")(record_of(columns, **header))["fidelity"]


def test_a_faithful_record() -> None:
    assert sound(unroll_columns(8)) == 1.0


@pytest.mark.parametrize(
    ("column", "row", "value", "fidelity"),
    [
        ("observation", 2, np.nan, 0.875),
        ("observation", 8, np.inf, 0.875),
        ("reward", 7, np.nan, 0.875),
        ("cost", 1, -1.0, 0.875),
        ("discount", 3, 1.5, 0.875),
        ("discount", 3, -0.5, 0.875),
        ("action", 4, 2, 0.875),
        ("action", 4, -1, 0.875),
        ("log_prob", 5, 0.5, 0.875),
        ("log_prob", 5, -9.0, 0.875),
        ("log_prob", 5, np.nan, 0.875),
        ("logits", 6, 30.0, 1.0),
        ("logits", (6, 0), 30.0, 0.875),
    ],
)
def test_one_row_that_cannot_be(column: str, row: int, value: float, fidelity: float) -> None:
    columns = unroll_columns(8)
    columns[column][row] = value
    if (column, row) == ("logits", 6):
        # All logits of a row are equal then, so each action has probability 1/2.
        columns["log_prob"][6] = np.log(0.5)
    assert sound(columns) == fidelity


def boundary(columns: dict[str, Any], row: int) -> dict[str, Any]:
    for name, column in columns.items():
        if name != "observation":
            column[row] = 0
    return columns


def test_boundary_rows_are_sound_where_they_can_be() -> None:
    assert sound(boundary(unroll_columns(8), 4)) == 1.0
    assert sound(boundary(unroll_columns(8), 0), episode_step=3) == 1.0
    assert sound(boundary(unroll_columns(8), 0), episode_step=0) == 0.0
    assert sound(boundary(boundary(unroll_columns(8), 4), 5)) == 0.625
    held = boundary(unroll_columns(8), 4)
    held["reward"][4] = 1.0
    assert sound(held) == 0.875


def test_fidelity_of_records_with_other_columns() -> None:
    columns = unroll_columns(4)
    assert sound({name: columns[name] for name in ("observation", "action", "reward")}) == 1.0
    continuous = {**columns, "action": np.zeros((4, 3), np.float32)}
    assert sound(continuous) == 1.0
    # What is said of real numbers is a density, which may be above 1.
    assert sound({**continuous, "log_prob": np.full(4, 2.5, np.float32)}) == 1.0


@pytest.mark.parametrize("quantum", ["0", "-1"])
def test_a_quantum_that_is_none(quantum: str) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        Running(f"near_duplicate_of:quantum={quantum}")(record_of(unroll_columns(2)))
