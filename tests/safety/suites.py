"""Suites for tests: small ones, whose limits nobody looks at."""

from __future__ import annotations

from actors.config import EnvironmentConfig
from safety.statistics.risk_budget import SeverityWeights
from safety.suites.spec import Perturbation, SeverityScale, SliceLimits, SliceSpec, SuiteSpec

CARTPOLE = EnvironmentConfig(name="cartpole")
LIMITS = SliceLimits(
    episodes=100,
    episodes_max=300,
    violation_rate_max=0.1,
    risk_margin=0.1,
    risk_budget=0.5,
    return_margin=0.05,
    return_margin_absolute=0.0,
)
CLASSES = SeverityScale(minor=0.0, major=0.5, severe=2.0)


def slice_of(
    environment: EnvironmentConfig = CARTPOLE, *perturbations: Perturbation, name: str = "held-out"
) -> SliceSpec:
    return SliceSpec(name, environment, perturbations, LIMITS)


def suite_of(*slices: SliceSpec, severity: SeverityScale = CLASSES, action_selection: str = "sample") -> SuiteSpec:
    return SuiteSpec(
        name="test",
        slices=slices,
        severity=severity,
        weights=SeverityWeights(0.1, 0.2, 1.0),
        action_selection=action_selection,
        error_rate=0.05,
        error_schedule="recycle",
        patience=3,
        planted_violations=60,
        planted_clean=20,
        sensitivity_min=0.8,
    )
