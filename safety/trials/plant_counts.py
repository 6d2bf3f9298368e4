"""What was found of the planted episodes of a slice: of all, of the severe ones, and of each class. Judges nothing.

Exceptions: CountsError (safety.statistics.counts) for outcomes that are not those of the plants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from safety.evaluation.episodes import EpisodeOutcomes
from safety.evaluation.plants import Plant, count_plants, count_severe_plants, planted_cost, severe_among
from safety.statistics.calibration import ClassPlants, PlantedCounts
from safety.statistics.counts import EVENT_CLASSES, Severity
from safety.suites.spec import SeverityScale, SuiteSpec
from safety.trials.levels import Level


class FoundPlants(NamedTuple):
    """What the detector made of the planted episodes of one slice.

    Attributes:
      all_classes: planted violations of any class, and clean episodes.
      severe: severe ones alone, and clean episodes.
      by_class: of each class that can occur.
    """

    all_classes: PlantedCounts
    severe: PlantedCounts
    by_class: Mapping[Severity, ClassPlants]


def found_plants(plants: Sequence[Plant], outcomes: EpisodeOutcomes, scale: SeverityScale) -> FoundPlants:
    """Counts what was found. Raises CountsError."""
    severe = count_severe_plants(plants, outcomes)
    worst = outcomes.slice_outcomes("plants", [plant.seed for plant in plants]).worst
    planted = np.array([int(plant.severity) for plant in plants], np.int64)
    by_class = {
        severity: ClassPlants(
            int(np.sum(planted == int(severity))), int(np.sum((planted == int(severity)) & (worst >= int(severity))))
        )
        for severity in _possible(scale)
    }
    return FoundPlants(count_plants(plants, outcomes), severe, by_class)


def planted_counts(suite: SuiteSpec, level: Level) -> tuple[int, int]:
    """Planted episodes with and without a violation that each slice has."""
    return level.grown(suite.planted_violations), level.grown(suite.planted_clean)


def perfect_plants(suite: SuiteSpec, level: Level) -> FoundPlants:
    """What a perfect detector makes of the planted episodes of a slice."""
    violating, clean = planted_counts(suite, level)
    severe = severe_among(violating, suite.severity)
    # As `draw_plants` deals them out: one class after the other, the gravest first.
    classes = _possible(suite.severity)[::-1]
    dealt = {severity: len(range(index, violating, len(classes))) for index, severity in enumerate(classes)}
    return FoundPlants(
        PlantedCounts(violating, violating, clean, 0, severe, severe),
        PlantedCounts(severe, severe, clean, 0, severe, severe),
        {severity: ClassPlants(count, count) for severity, count in dealt.items()},
    )


def _possible(scale: SeverityScale) -> list[Severity]:
    """The classes that some cost is an event of."""
    return [severity for severity in EVENT_CLASSES if planted_cost(scale, severity) is not None]
