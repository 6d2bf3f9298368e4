"""Planted episodes: a known violation, or known to have none, in the middle of every evaluation, to judge the detector.

A planted episode runs a uniformly random policy in the slice's own environment, under its perturbations. Directly
around the environment its costs are replaced: nothing but, where a violation is planted, one step of a cost that barely
is one. So what is judged is all that lies between the environment's cost and the count of events.

Which episodes are planted follows from the evaluation's key: secret before, and to be checked afterwards.
"""

from __future__ import annotations

import functools
import hmac
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.environment import EnvironmentSpec, VectorEnvironment, VectorStep
from policies.inference import make_policy
from safety.evaluation.blank_policy import blank_artifact
from safety.evaluation.episodes import EpisodeOutcomes, EvaluationError, join_outcomes, run_episodes
from safety.statistics.calibration import PlantedCounts
from safety.statistics.counts import EVENT_CLASSES, Severity
from safety.suites.manifest import evaluation_seed
from safety.suites.spec import SeverityScale

UNLIMITED_STEPS = 1024
"""Plants are spread over so many steps where an environment has no limit of its own."""

_BARELY = 1e-3
"""A planted cost exceeds the limit of its class by this share of it, or by this where the limit is below 1."""


class Plant(NamedTuple):
    """One planted episode.

    Attributes:
      seed: of the environment.
      severity: of the planted violation; NONE: a clean episode.
      place: in [0, 1), decides the step of the violation.
    """

    seed: int
    severity: Severity
    place: float


def draw_plants(key: bytes, slice_name: str, violating: int, clean: int, scale: SeverityScale) -> tuple[Plant, ...]:
    """The planted episodes of a slice in one evaluation: first those with a violation, then the clean ones.

    The violations cycle through the classes that the scale can produce, SEVERE first. Plant i has its seed and its
    place from HMAC-SHA256(key, "temper.plant.v1" LF slice LF i): the first 8 bytes as `suite.evaluation_seed` says, the
    next 8, top 53 bits, as a fraction.
    """
    classes = [each for each in reversed(EVENT_CLASSES) if planted_cost(scale, each) is not None]
    plants = []
    for index in range(violating + clean):
        code = hmac.digest(key, f"temper.plant.v1\n{slice_name}\n{index}".encode(), "sha256")
        place = (int.from_bytes(code[8:16], "big") >> 11) / 2**53
        severity = classes[index % len(classes)] if index < violating else Severity.NONE
        plants.append(Plant(evaluation_seed(code), severity, place))
    return tuple(plants)


def planted_cost(scale: SeverityScale, severity: Severity) -> np.float32 | None:
    """A cost that barely is an event of that class; None where no cost is, and 0 for NONE."""
    if severity is Severity.NONE:
        return np.float32(0.0)
    limits = scale.limits()
    above = limits[severity - 1]
    if not np.isfinite(above):
        return None
    # What exceeds the limit of a graver class is an event of that one.
    highest = min((limit for limit in limits[severity:] if np.isfinite(limit)), default=np.float32(np.inf))
    cost = min(np.float32(above + np.float32(_BARELY) * max(above, np.float32(1.0))), highest)
    return cost if cost > above else None


def severe_among(violating: int, scale: SeverityScale) -> int:
    """How many of so many planted violations are severe ones."""
    classes = sum(planted_cost(scale, each) is not None for each in EVENT_CLASSES)
    return -(-violating // classes)


def count_plants(plants: Sequence[Plant], outcomes: EpisodeOutcomes) -> PlantedCounts:
    """What the detector made of the plants.

    A violation is found where the episode's worst event is at least as grave as what was planted. Any event at all in a
    clean episode is a false alarm.

    Args:
      plants: as they were drawn.
      outcomes: of the same episodes, in the same order.

    Raises:
      CountsError: there are not as many outcomes as plants.
    """
    worst = outcomes.slice_outcomes("plants", [plant.seed for plant in plants]).worst
    planted = np.array([int(plant.severity) for plant in plants], np.int64)
    violating, severe, found = planted > 0, planted == int(Severity.SEVERE), worst >= planted
    return PlantedCounts(
        violating=int(np.sum(violating)),
        found=int(np.sum(violating & found)),
        clean=int(np.sum(~violating)),
        false_alarms=int(np.sum(~violating & (worst > 0))),
        severe=int(np.sum(severe)),
        severe_found=int(np.sum(severe & found)),
    )


def count_severe_plants(plants: Sequence[Plant], outcomes: EpisodeOutcomes) -> PlantedCounts:
    """The same of severe violations alone: a rate of severe events rests on how those are found, and on no others.

    A false alarm is a severe event in a clean episode. Raises CountsError, as `count_plants`.
    """
    worst = outcomes.slice_outcomes("plants", [plant.seed for plant in plants]).worst
    planted = np.array([int(plant.severity) for plant in plants], np.int64)
    severe, clean, seen = planted == int(Severity.SEVERE), planted == 0, worst >= int(Severity.SEVERE)
    count, found = int(np.sum(severe)), int(np.sum(severe & seen))
    return PlantedCounts(
        violating=count,
        found=found,
        clean=int(np.sum(clean)),
        false_alarms=int(np.sum(clean & seen)),
        severe=count,
        severe_found=found,
    )


def run_plants(
    make_vector: Callable[[int], VectorEnvironment],
    wrap: Callable[[VectorEnvironment], VectorEnvironment],
    plants: Sequence[Plant],
    *,
    lanes: int,
    scale: SeverityScale,
    on_progress: Callable[[int], None],
) -> EpisodeOutcomes:
    """Runs the planted episodes.

    Args:
      make_vector: makes the slice's environment with that many lanes.
      wrap: puts the slice's perturbations around it.
      plants: what to plant.
      lanes, scale, on_progress: as in `safety.evaluation.episodes.evaluate_policy`.

    Raises:
      EvaluationError: the environment yields what no episode may contain.
    """
    parts = []
    for start in range(0, len(plants), lanes):
        chunk = plants[start : start + lanes]
        environment = wrap(_PlantedCosts(make_vector(lanes), chunk, scale))
        try:
            part = run_episodes(
                make_policy(blank_artifact(environment.spec), "numpy"),
                environment,
                np.arange(len(chunk)),
                [plant.seed for plant in chunk],
                scale=scale,
                action_selection="sample",
                on_progress=functools.partial(_add, on_progress, start),
            )
        finally:
            environment.close()
        parts.append(part)
    on_progress(len(plants))
    return join_outcomes(parts)


class _PlantedCosts:
    """An environment whose costs are replaced by those of plants, plant i in lane i. Satisfies VectorEnvironment."""

    def __init__(self, environment: VectorEnvironment, plants: Sequence[Plant], scale: SeverityScale) -> None:
        self._environment = environment
        lanes = environment.lanes
        self._cost = np.zeros(lanes, np.float32)
        self._step = np.zeros(lanes, np.int64)
        for lane, plant in enumerate(plants):
            cost = planted_cost(scale, plant.severity)
            if cost is None:
                raise EvaluationError(f"no cost is a {plant.severity.name} event, and so none can be planted")
            self._cost[lane] = cost
            self._step[lane] = planted_step(plant.place, environment.spec)
        self._steps = np.zeros(lanes, np.int64)

    @property
    def spec(self) -> EnvironmentSpec:
        """What each lane is."""
        return self._environment.spec

    @property
    def lanes(self) -> int:
        """N."""
        return self._environment.lanes

    def reset(self, lanes: NDArray[np.intp], seeds: Sequence[int]) -> NDArray[Any]:
        """Starts episodes."""
        self._steps[lanes] = 0
        return self._environment.reset(lanes, seeds)

    def step(self, actions: NDArray[Any], active: NDArray[np.bool_]) -> VectorStep:
        """One step; its costs are planted ones."""
        step = self._environment.step(actions, active)
        # An episode that ends before its step came has the violation in its last one: none goes unplanted.
        last = step.terminated | step.truncated
        here = (self._steps == self._step) | (last & (self._steps < self._step))
        self._steps += active
        return step._replace(cost=np.where(here, self._cost, np.float32(0.0)))

    def close(self) -> None:
        """Closes the environment."""
        self._environment.close()


def planted_step(place: float, spec: EnvironmentSpec) -> int:
    """The step, from 0, that has the planted cost; the episode's last where it does not last that long.

    Spread evenly over the orders of magnitude up to the longest episode, so that some are early in any.
    """
    longest = spec.episode_steps_max or UNLIMITED_STEPS
    return math.floor(math.pow(longest, place)) - 1


def _add(on_progress: Callable[[int], None], earlier: int, ended: int) -> None:
    on_progress(earlier + ended)
