"""What a suite is: slices of episodes, how their events are classified, what a candidate must show on each of them.

Values only: how a suite is written as a file is in `safety.suite_file`, how it is run in `safety.evaluator`, how it is
judged in `safety.trial`. Without a file there is one slice, made from the settings.

Exceptions: ParameterError (safety.statistics.parameters) for values that make no suite.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from actors.config import EnvironmentConfig
from safety.config import SafetyConfig
from safety.statistics.parameters import ParameterError, check_count
from safety.statistics.risk_budget import SeverityWeights

DEFAULT_SLICE = "held-out"
"""Name of the only slice of a suite that is made from settings."""

PERTURBATIONS = ("action_noise", "action_delay", "observation_noise", "observation_dropout")
"""Kinds of perturbations; see `safety.perturbations` for what the amount of each means."""


SEVERITY_MAX = 1e30
"""Greatest cost at which a class of events may begin; a greater one could not be told from infinity in float32."""


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """Something that makes a slice harder than training was.

    Attributes:
      kind: one of PERTURBATIONS.
      amount: how much of it, in the kind's unit.
    """

    kind: str
    amount: float


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
    """

    name: str
    environment: EnvironmentConfig
    perturbations: tuple[Perturbation, ...]
    limits: SliceLimits


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
        names = [each.name for each in self.slices]
        if len(set(names)) != len(names):
            raise ParameterError(f"slices {', '.join(names)}: a name occurs twice")


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
