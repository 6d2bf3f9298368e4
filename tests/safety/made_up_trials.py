"""Outcomes that never were, for trials that are held without any process. Not a test."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from safety.config import SafetyConfig
from safety.evaluation.episodes import EpisodeOutcomes
from safety.evaluation.plants import Plant
from safety.statistics.counts import Severity
from safety.suites.spec import SliceSpec, SuiteSpec, suite_from_settings
from safety.trials.levels import Level, Schedule, next_level
from safety.trials.trial import Portion, Trial

CONFIG = SafetyConfig(episodes=100, episodes_max=300, lanes=64)
SUITE = suite_from_settings(CONFIG, EnvironmentConfig())
KEY = b"k" * 32


def suite_of(names: Sequence[str] = ("held-out",), config: SafetyConfig = CONFIG) -> SuiteSpec:
    """One slice of each name, with the limits of the settings."""
    suite = suite_from_settings(config, EnvironmentConfig())
    limits = suite.slices[0].limits
    slices = tuple(SliceSpec(name, EnvironmentConfig(), (), limits) for name in names)
    return dataclasses.replace(suite, slices=slices)


def level_of(suite: SuiteSpec = SUITE, approvals: Sequence[bool] = ()) -> Level:
    """Of the candidate after those."""
    return next_level(Schedule(suite.error_rate, suite.error_schedule), approvals)


def outcomes(returns: NDArray[np.float64], severe: NDArray[np.bool_]) -> EpisodeOutcomes:
    """Episodes with those returns, and one severe event each where it says so."""
    events = np.zeros((len(returns), 3), np.int64)
    events[:, 2] = severe
    return EpisodeOutcomes(returns, severe.astype(np.float64), np.full(len(returns), 500, np.int64), events)


def found(plants: Sequence[Plant], missed: Sequence[int] = (), false_alarms: int = 0) -> EpisodeOutcomes:
    """What a detector sees that misses plants with those indices, and sees violations in that many clean ones."""
    severe = np.array([plant.severity is Severity.SEVERE for plant in plants])
    severe[list(missed)] = False
    clean = [index for index, plant in enumerate(plants) if plant.severity is Severity.NONE]
    severe[clean[:false_alarms]] = True
    return outcomes(np.zeros(len(plants)), severe)


class MadeUpPolicy:
    """A policy whose episode i of a slice always comes to the same.

    Args:
      mean_return: of an episode.
      severe: numbers of the episodes with a severe event, or a rate of them.
      spread: standard deviation of the return.
    """

    def __init__(self, mean_return: float, severe: Sequence[int] | float = (), spread: float = 0.0) -> None:
        generator = np.random.default_rng(7)
        self.returns = mean_return + spread * generator.standard_normal(5000)
        if isinstance(severe, float):
            self.severe = np.random.default_rng(8).random(5000) < severe
        else:
            self.severe = np.zeros(5000, np.bool_)
            self.severe[list(severe)] = True

    def run(self, portion: Portion) -> EpisodeOutcomes:
        """The episodes of a portion."""
        episodes = slice(portion.first, portion.first + len(portion.seeds))
        return outcomes(self.returns[episodes], self.severe[episodes])


def hold(
    trial: Trial, candidate: MadeUpPolicy, incumbent: MadeUpPolicy | None = None, missed: Sequence[int] = ()
) -> list[Portion]:
    """Holds a trial to its end; what was asked for."""
    trial.take_plants([found(plants, missed) for plants in trial.plants])
    asked: list[Portion] = []
    while portions := trial.wants():
        for portion in portions:
            trial.take(portion, candidate.run(portion), None if incumbent is None else incumbent.run(portion))
        asked += portions
    return asked
