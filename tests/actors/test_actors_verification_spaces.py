"""Records of dict observations and of actions of several choices or real numbers: verified, and every forgery found."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from actors.auditor import Auditor, AuditorJob
from actors.config import EnvironmentConfig
from actors.environment import Environment
from actors.environments.gymnasium_adapter import GymnasiumEnvironment
from actors.testing import EnvironmentContract
from actors.verification import verify
from replay.record import LoggedRecord
from tests.actors.recorded_runs import record_run, with_column, with_header
from tests.actors.spaces_environment import STEERED, SWITCHED
from tests.replay.listed_source import ListedSource

PENDULUM = EnvironmentConfig("gym:Pendulum-v1", episode_steps_max=11)
BLACKJACK = EnvironmentConfig("gym:Blackjack-v1")


class TestSteered(EnvironmentContract):
    def make(self) -> Environment:
        return GymnasiumEnvironment("tests.actors.spaces_environment:Steered-v0", STEERED)


class TestSwitched(EnvironmentContract):
    def make(self) -> Environment:
        return GymnasiumEnvironment("tests.actors.spaces_environment:Switched-v0", SWITCHED)


@pytest.mark.parametrize("length", [1, 2, 7, 20])
@pytest.mark.parametrize("config", [STEERED, SWITCHED, PENDULUM, BLACKJACK], ids=lambda config: config.name[-12:])
@pytest.mark.parametrize("state_size", [0, 3])
def test_untouched_records_are_verified(config: EnvironmentConfig, length: int, state_size: int) -> None:
    """Also those of a policy that keeps a state, wherever boundary rows lie in them."""
    records = record_run(config, lanes=2, length=length, unrolls=max(4, 50 // length), state_size=state_size)
    kept = [record.columns["state"].any() for record in records if "state" in record.columns]
    assert any(kept) == (state_size > 0)
    report = verify(ListedSource(records), config)
    assert (report.verified, report.mismatched, report.unverifiable) == (len(records), 0, 0), report
    assert report.error_max == 0.0


def _altered(name: str, row: Any, change: Callable[[Any], Any]) -> Callable[[LoggedRecord], LoggedRecord]:
    return lambda record: with_column(record, name, row, change(record.columns[name][row]))


FORGERIES = (
    ("a pixel", STEERED, _altered("observation/image", (3, 2, 2, 0), lambda old: old ^ 1), "observation/image", 3),
    (
        "a speed, a little",
        STEERED,
        _altered("observation/inner/speed", (4, 1), lambda old: old + 1e-3),
        "observation/inner/speed",
        4,
    ),
    (
        "a truth value",
        STEERED,
        _altered("observation/inner/edge", (5, 0), lambda old: not old),
        "observation/inner/edge",
        5,
    ),
    (
        "the last row of a part",
        STEERED,
        _altered("observation/inner/speed", (7, 0), lambda old: old + 0.5),
        "observation/inner/speed",
        7,
    ),
    (
        "the first row of a part",
        SWITCHED,
        _altered("observation/inner/speed", (0, 0), lambda old: old - 0.5),
        "observation/inner/speed",
        0,
    ),
    (
        "one number of an action, within its bounds",
        STEERED,
        _altered("action", (2, 1), lambda old: np.float32(-0.3) if old > 0 else np.float32(0.3)),
        "reward",
        2,
    ),
    ("an action that is no number", STEERED, _altered("action", (2, 0), lambda _: np.nan), "action", 2),
    ("one choice of several", SWITCHED, _altered("action", (2, 1), lambda old: 1 - old), "reward", 2),
    ("a choice that there is none of", SWITCHED, _altered("action", (2, 1), lambda _: 2), "action", 2),
    ("a torque", PENDULUM, _altered("action", (1, 0), lambda old: np.sign(old) * -0.5), "reward", 1),
    ("a reward", PENDULUM, _altered("reward", 3, lambda old: old + 0.01), "reward", 3),
    ("a cost", STEERED, _altered("cost", 1, lambda old: old + 0.5), "cost", 1),
    ("the seed", STEERED, lambda record: with_header(record, environment_seed=5), "observation/image", 0),
)


@pytest.mark.parametrize(
    ("what", "config", "forge", "found", "row"), FORGERIES, ids=[forgery[0] for forgery in FORGERIES]
)
def test_a_forged_record_is_found_and_no_other_is_blamed(
    what: str, config: EnvironmentConfig, forge: Callable[[LoggedRecord], LoggedRecord], found: str, row: int
) -> None:
    records = record_run(config, lanes=3, length=7, unrolls=8)
    index = next(
        each.position
        for each in records[3:]
        if 0 < each.header.episode_step < 3 and each.columns["mask"].all() and each.columns["discount"].all()
    )
    records[index] = forge(records[index])
    report = verify(ListedSource(records), config)
    assert list(report.mismatches) == [index], (what, report)
    assert (report.mismatches[index].what, report.mismatches[index].step) == (found, row)
    assert report.verified + report.unverifiable == len(records) - 1


def test_a_last_row_that_begins_an_episode_is_compared_part_by_part() -> None:
    records = record_run(BLACKJACK, lanes=1, length=3, unrolls=30)
    index = next(each.position for each in records[:-1] if each.columns["discount"][2] == 0)
    before = records[index].columns["observation/0"][3].copy()
    records[index] = with_column(records[index], "observation/0", 3, np.roll(before, 1))
    report = verify(ListedSource(records), BLACKJACK)
    assert {position: each[1:3] for position, each in report.mismatches.items()} == {index: ("observation/0", 3)}


def test_a_boundary_row_whose_action_is_not_empty_is_found() -> None:
    records = record_run(PENDULUM, lanes=1, length=7, unrolls=4)
    index, row = next((r.position, int(np.argmin(r.columns["mask"]))) for r in records if not r.columns["mask"].all())
    records[index] = with_column(records[index], "action", (row, 0), 0.25)
    report = verify(ListedSource(records), PENDULUM)
    assert {position: each[1:3] for position, each in report.mismatches.items()} == {index: ("action", row)}


def test_a_schema_that_stores_what_every_step_has_once_is_no_unroll_s() -> None:
    records = record_run(PENDULUM, lanes=1, length=1, unrolls=2)
    for record in records:
        next(column for column in record.origin.schema.columns if column.name == "reward").once = True
    report = verify(ListedSource(records), PENDULUM)
    assert report.reasons == {"its column reward is not that of an unroll in this environment": 2}


def test_the_auditor_finds_the_same_as_records_arrive(caplog: pytest.LogCaptureFixture) -> None:
    records = record_run(STEERED, lanes=2, length=5, unrolls=12, state_size=2)
    index = next(r.position for r in records[8:] if r.columns["mask"].all() and r.columns["discount"].all())
    records[index] = with_column(records[index], "observation/inner/speed", (3, 0), 4.0)
    source = ListedSource(records[:10])
    auditor = Auditor(source, AuditorJob(STEERED, "unix:/nowhere", 1.0, 0, 1e9))
    for _ in range(3):
        auditor.audit()
    source.append(records[10:])
    for _ in range(3):
        auditor.audit()
    auditor.close()
    assert (auditor.report.verified, auditor.report.mismatched) == (len(records) - 1, 1)
    (error,) = [entry.getMessage() for entry in caplog.records if entry.levelno == logging.ERROR]
    assert error.startswith(f"record {index} is not what happened: observation/inner/speed is wrong from row 3 on")
