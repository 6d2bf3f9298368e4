"""The alarm for a lag that only climbs: when it comes, when it does not, and that it warns once each time."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from learner.lag_alarm import LagAlarm, climbs


def observed(alarm: LagAlarm, values: list[float]) -> list[bool]:
    states = []
    for value in values:
        alarm.observe(value)
        states.append(alarm.is_on)
    return states


def test_a_lag_that_rises_from_line_to_line_raises_it_when_the_window_is_full() -> None:
    assert observed(LagAlarm(4), [1.0, 2.0, 2.5, 4.0, 4.5]) == [False, False, False, True, True]


def test_it_ends_when_the_lag_falls_and_warns_once_each_time(caplog: pytest.LogCaptureFixture) -> None:
    alarm = LagAlarm(3)
    with caplog.at_level(logging.WARNING, "learner.lag_alarm"):
        states = observed(alarm, [1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0])
    assert states == [False, False, True, True, False, False, True]
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "from a mean of 1.0 to 3.0 updates over the last 3 lines" in caplog.messages[0]


def test_a_trend_beneath_noise_raises_it() -> None:
    rng = np.random.default_rng(0)
    assert climbs((0.5 * np.arange(30) + rng.normal(size=30)).tolist())
    assert climbs(np.arange(30.0).tolist())


@pytest.mark.parametrize("lines", [14, 15, 30])
def test_noise_alone_does_not(lines: int) -> None:
    rng = np.random.default_rng(1)
    assert not any(climbs((5 + rng.normal(size=lines)).tolist()) for _ in range(500))


def test_neither_does_a_climb_that_is_over_or_too_small() -> None:
    rng = np.random.default_rng(2)
    start = np.minimum(np.arange(30), 8.0)
    assert not any(climbs((start + 0.3 * rng.normal(size=30)).tolist()) for _ in range(200))
    assert not climbs((0.01 * np.arange(30)).tolist())
    assert not climbs((-np.arange(30.0)).tolist())
    assert not climbs([2.0] * 30)


def test_without_a_window_there_is_never_an_alarm() -> None:
    assert not any(observed(LagAlarm(0), [1.0, 5.0, 9.0]))
