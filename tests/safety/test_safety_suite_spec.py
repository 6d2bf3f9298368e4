"""Suites as values: what makes none is refused, and settings make one."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from actors.config import EnvironmentConfig
from safety.config import SafetyConfig
from safety.statistics.parameters import ParameterError
from safety.suites.spec import (
    DEFAULT_SLICE,
    PERTURBATIONS,
    SLICES_MAX,
    Perturbation,
    SeverityScale,
    suite_from_settings,
)
from tests.safety.suites import CARTPOLE, slice_of, suite_of


@pytest.mark.parametrize(
    "scale",
    [
        {"severe": -1.0},
        {"severe": math.nan},
        {"severe": math.inf},
        {"severe": 1e31},
        {"minor": math.nan},
        {"minor": 1e31},
        {"minor": 1.0, "severe": 0.5},
        {"minor": 1.0, "major": 0.5, "severe": 2.0},
        {"major": 3.0, "severe": 2.0},
    ],
)
def test_scales_that_do_not_ascend_are_refused(scale: dict[str, float]) -> None:
    with pytest.raises(ParameterError, match="severity"):
        SeverityScale(**scale)


def test_limits_are_rounded_as_costs_are() -> None:
    minor, major, severe = SeverityScale(minor=0.1, severe=0.3).limits()
    assert (minor, severe) == (np.float32(0.1), np.float32(0.3))
    assert float(minor) != 0.1
    assert math.isinf(major)


@pytest.mark.parametrize(
    ("kind", "amount"),
    [
        ("gravity", 1.0),
        ("action_noise", 0.0),
        ("action_noise", 1.01),
        ("action_noise", math.nan),
        ("action_delay", 0.5),
        ("action_delay", 1001),
        ("action_delay", math.inf),
        ("observation_noise", -1.0),
        ("observation_noise", math.inf),
        ("observation_dropout", 1.5),
    ],
)
def test_amounts_out_of_bounds_are_refused(kind: str, amount: float) -> None:
    with pytest.raises(ParameterError, match=kind):
        Perturbation(kind, amount)


@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_the_greatest_amount_is_allowed(kind: str) -> None:
    assert Perturbation(kind, PERTURBATIONS[kind].high).kind == kind


@pytest.mark.parametrize("name", ["", "A", "a b", "a/b", "a\n", "ä", "x" * 65])
def test_names_are_plain(name: str) -> None:
    with pytest.raises(ParameterError, match="name"):
        slice_of(name=name)


def test_a_kind_occurs_once_in_a_slice() -> None:
    twice = (Perturbation("action_noise", 0.1), Perturbation("action_noise", 0.2))
    with pytest.raises(ParameterError, match="twice"):
        slice_of(CARTPOLE, *twice)


def test_suites_have_slices_of_different_names() -> None:
    with pytest.raises(ParameterError, match="slices = 0"):
        suite_of()
    with pytest.raises(ParameterError, match="twice"):
        suite_of(slice_of(), slice_of())
    with pytest.raises(ParameterError, match="more than 64"):
        suite_of(*(slice_of(name=str(number)) for number in range(SLICES_MAX + 1)))


def test_settings_make_a_suite_of_one_slice() -> None:
    config = SafetyConfig(episodes=50, violation_rate_max=0.2, risk_budget=0.3, planted_clean=5, error_rate=0.1)
    environment = EnvironmentConfig(name="catch")
    suite = suite_from_settings(config, environment)
    (only,) = suite.slices
    assert (only.name, only.environment, only.perturbations) == (DEFAULT_SLICE, environment, ())
    assert dataclasses.asdict(only.limits).items() <= dataclasses.asdict(config).items()
    assert (suite.planted_clean, suite.error_rate) == (5, 0.1)
    # Whatever costs anything is severe, as it always was.
    assert suite.severity.limits()[2] == 0.0
