"""What a suite is: slices of episodes, how their events are classified, what a candidate must show on each of them.

Values only: how a suite is written as a file is in `safety.suite_file`, how it is run in
`safety.evaluation.evaluator`, how it is judged in `safety.trials.trial`. Without a file there is one slice, made from
the settings.

Exceptions: ParameterError (safety.statistics.parameters) for values that make no suite.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from actors.config import EnvironmentConfig
from safety.config import SafetyConfig
from safety.statistics.parameters import ParameterError, check_count
from safety.statistics.risk_budget import SeverityWeights


class AmountBounds(NamedTuple):
    """What the amount of a perturbation may be: above 0, at most `high`, and a whole number where it must be one."""

    high: float
    whole: bool = False


DEFAULT_SLICE = "held-out"
"""Name of the only slice of a suite that is made from settings."""

PERTURBATIONS: Mapping[str, AmountBounds] = MappingProxyType(
    {
        "action_noise": AmountBounds(1.0),
        "action_delay": AmountBounds(1000.0, whole=True),
        "observation_noise": AmountBounds(1e6),
        "observation_dropout": AmountBounds(1.0),
    }
)
"""Kinds of perturbations; see `safety.evaluation.perturbations` for what the amount of each means."""

SLICES_MAX = 64
"""Most slices of a suite."""

_NAME = re.compile(r"[a-z0-9-]{1,64}")

SEVERITY_MAX = 1e30
"""Greatest cost at which a class of events may begin; a greater one could not be told from infinity in float32."""


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """Something that makes a slice harder than training was.

    Attributes:
      kind: one of PERTURBATIONS.
      amount: how much of it, in the kind's unit.

    Raises:
      ParameterError: an unknown kind, or an amount out of its bounds.
    """

    kind: str
    amount: float

    def __post_init__(self) -> None:
        bounds = PERTURBATIONS.get(self.kind)
        if bounds is None:
            raise ParameterError(f"perturbation {self.kind!r} is unknown; known are {', '.join(PERTURBATIONS)}")
        if not 0.0 < self.amount <= bounds.high or (bounds.whole and self.amount != int(self.amount)):
            kind = "a whole number" if bounds.whole else "a number"
            raise ParameterError(f"{self.kind} = {self.amount} must be {kind} above 0 and at most {bounds.high:g}")


@dataclasses.dataclass(frozen=True)
class SeverityScale:
    """The cost of a single step above which the step is an event of a class. A class that is infinite never occurs.

    Raises:
      ParameterError: negative or NaN, or a graver class that begins below a lesser one.
    """

    minor: float = math.inf
    major: float = math.inf
    severe: float = 0.0

    def __post_init__(self) -> None:
        above = [("minor", self.minor), ("major", self.major), ("severe", self.severe)]
        if not all(value >= 0.0 for _, value in above) or not self.severe <= SEVERITY_MAX:
            raise ParameterError(
                f"severity {dict(above)}: each must be at least 0, and severe at most {SEVERITY_MAX:g}"
            )
        if any(value > SEVERITY_MAX and math.isfinite(value) for _, value in above):
            raise ParameterError(f"severity {dict(above)}: each must be at most {SEVERITY_MAX:g}, or inf for never")
        finite = [value for _, value in above if math.isfinite(value)]
        if finite != sorted(finite):
            raise ParameterError(f"severity {dict(above)}: a graver event must not begin at a lower cost")

    def limits(self) -> tuple[np.float32, np.float32, np.float32]:
        """The costs above which events begin, in the order of EVENT_CLASSES, as costs are measured: float32.

        Rounded alike, a cost of 0.1 is not above a limit of 0.1.
        """
        return np.float32(self.minor), np.float32(self.major), np.float32(self.severe)


@dataclasses.dataclass(frozen=True)
class SliceLimits:
    """What a candidate must show on a slice. The settings of the same names say what each means."""

    episodes: int
    episodes_max: int
    violation_rate_max: float
    risk_margin: float
    risk_budget: float
    return_margin: float
    return_margin_absolute: float


@dataclasses.dataclass(frozen=True)
class SliceSpec:
    """One slice: episodes of one environment under the same perturbations, judged by themselves.

    Attributes:
      name: unique in the suite; [a-z0-9-]{1,64}.
      environment: what the episodes run in; its interface must be the one that the candidates are trained for.
      perturbations: applied in this order, the first next to the environment.
      limits: what a candidate must show.

    Raises:
      ParameterError: a name that is none, or a kind of perturbation twice.
    """

    name: str
    environment: EnvironmentConfig
    perturbations: tuple[Perturbation, ...]
    limits: SliceLimits

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ParameterError(f"slice {self.name!r}: a name is 1 to 64 of a-z, 0-9 and -")
        kinds = [each.kind for each in self.perturbations]
        if len(set(kinds)) != len(kinds):
            raise ParameterError(f"slice {self.name}: perturbations {', '.join(kinds)}: a kind occurs twice")


@dataclasses.dataclass(frozen=True)
class SuiteSpec:
    """What every candidate is evaluated on, and by which rule.

    Attributes:
      name: for people.
      slices: at least one.
      severity: from the cost of a step to an event.
      weights: what an episode costs by its worst event, for the risk budget.
      action_selection: "sample" or "greedy".
      error_rate: chance, over all candidates of the run together, to release one that is above a limit.
      error_schedule: "recycle" or "spend"; see `safety.statistics.lifetime`.
      patience: candidates in a row that may be deferred for capability alone.
      planted_violations, planted_clean: planted episodes of every slice, per evaluation.
      sensitivity_min: least share of planted violations that the detector must be shown to find.

    Raises:
      ParameterError: no slices, too many, or two of one name; or one that has episodes_max below episodes.
    """

    name: str
    slices: tuple[SliceSpec, ...]
    severity: SeverityScale
    weights: SeverityWeights
    action_selection: str
    error_rate: float
    error_schedule: str
    patience: int
    planted_violations: int
    planted_clean: int
    sensitivity_min: float

    def __post_init__(self) -> None:
        check_count("slices", len(self.slices), 1)
        if len(self.slices) > SLICES_MAX:
            raise ParameterError(f"{len(self.slices)} slices are more than {SLICES_MAX}")
        names = [each.name for each in self.slices]
        if len(set(names)) != len(names):
            raise ParameterError(f"slices {', '.join(names)}: a name occurs twice")
        for each in self.slices:
            _check_numbers(each)


def suite_from_settings(config: SafetyConfig, environment: EnvironmentConfig) -> SuiteSpec:
    """The suite of one slice that the settings describe, in the environment that the run trains in."""
    limits = SliceLimits(
        episodes=config.episodes,
        episodes_max=config.episodes_max,
        violation_rate_max=config.violation_rate_max,
        risk_margin=config.risk_margin,
        risk_budget=config.risk_budget,
        return_margin=config.return_margin,
        return_margin_absolute=config.return_margin_absolute,
    )
    return SuiteSpec(
        name="settings",
        slices=(SliceSpec(DEFAULT_SLICE, environment, (), limits),),
        severity=SeverityScale(),
        weights=SeverityWeights(minor=0.0, major=0.0, severe=1.0),
        action_selection=config.action_selection,
        error_rate=config.error_rate,
        error_schedule=config.error_schedule,
        patience=config.patience,
        planted_violations=config.planted_violations,
        planted_clean=config.planted_clean,
        sensitivity_min=config.sensitivity_min,
    )


def _check_numbers(spec: SliceSpec) -> None:
    """Raises ParameterError for a slice with fewer episodes in all than some of its tests rest on."""
    limits = spec.limits
    if limits.episodes_max < limits.episodes:
        raise ParameterError(
            f"slice {spec.name}: episodes_max = {limits.episodes_max} is below episodes = {limits.episodes}, on which "
            "the tests of fixed size rest: it must be at least as many"
        )
