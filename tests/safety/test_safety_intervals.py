"""Confidence bounds against SciPy, and their coverage by exact enumeration."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from safety.statistics.intervals import (
    IntervalError,
    clopper_pearson_lower,
    clopper_pearson_upper,
    mean_interval,
    mean_lower,
    student_t_quantile,
)


@pytest.mark.parametrize("trials", [1, 2, 10, 100, 1000])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
def test_clopper_pearson_equals_scipy(trials: int, confidence: float) -> None:
    for events in {0, 1, trials // 3, trials - 1, trials}:
        exact = stats.binomtest(events, trials, alternative="less").proportion_ci(confidence, "exact")
        assert clopper_pearson_upper(events, trials, confidence) == pytest.approx(exact.high, rel=1e-9)
        exact = stats.binomtest(events, trials, alternative="greater").proportion_ci(confidence, "exact")
        assert clopper_pearson_lower(events, trials, confidence) == pytest.approx(exact.low, rel=1e-9)


@pytest.mark.parametrize(("trials", "rate"), [(299, 0.01), (748, 0.004)])
def test_zero_events_need_the_known_number_of_trials(trials: int, rate: float) -> None:
    assert clopper_pearson_upper(0, trials, 0.95) <= rate < clopper_pearson_upper(0, trials - 1, 0.95)
    assert clopper_pearson_upper(0, trials, 0.95) == pytest.approx(1 - 0.05 ** (1 / trials), rel=1e-12)


@pytest.mark.parametrize("trials", [1, 7, 100])
@pytest.mark.parametrize("rate", [0.001, 0.03, 0.1, 0.5, 0.9])
def test_clopper_pearson_covers_whatever_the_rate(trials: int, rate: float) -> None:
    events = np.arange(trials + 1)
    probability = stats.binom.pmf(events, trials, rate)
    upper = np.array([clopper_pearson_upper(int(count), trials, 0.95) for count in events])
    lower = np.array([clopper_pearson_lower(int(count), trials, 0.95) for count in events])
    assert probability[upper < rate].sum() <= 0.05
    assert probability[lower > rate].sum() <= 0.05


@pytest.mark.parametrize(("events", "trials"), [(-1, 10), (11, 10), (0, 0)])
def test_impossible_counts_have_no_bound(events: int, trials: int) -> None:
    for bound in (clopper_pearson_upper, clopper_pearson_lower):
        with pytest.raises(IntervalError, match=f"{events} events in {trials} trials"):
            bound(events, trials, 0.95)


@pytest.mark.parametrize("degrees", [1, 2, 9, 99, 5000])
def test_t_quantile_equals_scipy(degrees: int) -> None:
    for probability in (0.6, 0.95, 0.975, 0.9995):
        assert student_t_quantile(probability, degrees) == pytest.approx(stats.t.ppf(probability, degrees), rel=1e-9)
    with pytest.raises(IntervalError):
        student_t_quantile(0.4, degrees)


def test_mean_interval_equals_scipy() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 50)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    interval = mean_interval(values, 0.95)
    assert interval == pytest.approx((values.mean(), expected.low, expected.high), rel=1e-9)


def test_without_variance_the_bound_is_the_mean() -> None:
    values = np.full(100, 0.1)
    assert mean_lower(values, 0.95) == 0.1
    assert mean_interval(values, 0.95) == (0.1, 0.1, 0.1)


def test_skew_to_the_left_lowers_the_bound_and_skew_to_the_right_does_not_lift_it() -> None:
    left = np.array([0.0] * 95 + [-1.0] * 5)
    plain = stats.ttest_1samp(left, 0.0, alternative="greater").confidence_interval(0.95).low
    assert mean_lower(left, 0.95) < plain - 0.009
    plain = stats.ttest_1samp(-left, 0.0, alternative="greater").confidence_interval(0.95).low
    assert mean_lower(-left, 0.95) == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize(
    "values", [np.array([]), np.array([1.0]), np.array([1.0, np.nan]), np.array([np.inf, 1.0]), np.ones((2, 2))]
)
def test_refuses_values_without_a_bound(values: NDArray[np.float64]) -> None:
    with pytest.raises(IntervalError):
        mean_lower(values, 0.95)
    with pytest.raises(IntervalError):
        mean_interval(values, 0.95)
