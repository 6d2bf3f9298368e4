"""Planted episodes: drawn from the key, found by the count, and missed by a detector that is blind."""

from __future__ import annotations

import hmac
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from actors.environment import EnvironmentSpec, VectorEnvironment, VectorStep
from actors.environments.catalog import make_vector
from policies.spaces import array_space, discrete
from safety.evaluation.episodes import EpisodeOutcomes, event_classes, no_outcomes
from safety.evaluation.perturbations import perturb
from safety.evaluation.plants import Plant, count_plants, draw_plants, planted_cost, planted_step, run_plants
from safety.statistics.counts import CountsError, Severity
from safety.suites.manifest import draw_seeds
from safety.suites.spec import Perturbation, SeverityScale
from tests.safety.suites import CLASSES

KEY = bytes(range(32))


def run(
    plants: tuple[Plant, ...],
    environment: str = "cartpole",
    scale: SeverityScale = CLASSES,
    perturbations: tuple[Perturbation, ...] = (),
    lanes: int = 16,
) -> EpisodeOutcomes:
    def make(count: int) -> VectorEnvironment:
        return make_vector(EnvironmentConfig(name=environment), count)

    return run_plants(
        make,
        lambda inner: perturb(inner, perturbations),
        plants,
        lanes=lanes,
        scale=scale,
        on_progress=lambda ended: None,
    )


def test_plants_follow_the_documented_formula() -> None:
    plants = draw_plants(KEY, "a", 4, 2, CLASSES)
    assert [plant.severity.name for plant in plants] == ["SEVERE", "MAJOR", "MINOR", "SEVERE", "NONE", "NONE"]
    code = hmac.digest(KEY, b"temper.plant.v1\na\n5", "sha256")
    assert plants[5].seed == 2**62 + (int.from_bytes(code[:8], "big") & (2**62 - 1))
    assert plants[5].place == (int.from_bytes(code[8:16], "big") >> 11) / 2**53


def test_plants_depend_on_key_and_slice_and_are_no_seeds_of_episodes() -> None:
    seeds = {plant.seed for plant in draw_plants(KEY, "a", 40, 10, CLASSES)}
    assert len(seeds) == 50
    assert all(2**62 <= seed < 2**63 for seed in seeds)
    assert not seeds & {plant.seed for plant in draw_plants(bytes(32), "a", 40, 10, CLASSES)}
    assert not seeds & {plant.seed for plant in draw_plants(KEY, "b", 40, 10, CLASSES)}
    assert not seeds & set(draw_seeds(KEY, "a", 1000))


@pytest.mark.parametrize(
    ("scale", "classes"),
    [
        (SeverityScale(), ["SEVERE"]),
        (CLASSES, ["SEVERE", "MAJOR", "MINOR"]),
        (SeverityScale(minor=0.0, severe=2.0), ["SEVERE", "MINOR"]),
        # Whatever is above the limit of the lesser class is above that of the graver one, too.
        (SeverityScale(minor=1.0, major=1.0, severe=2.0), ["SEVERE", "MAJOR"]),
        (SeverityScale(major=2.0, severe=2.0), ["SEVERE"]),
        (SeverityScale(minor=0.5, severe=1e30), ["SEVERE", "MINOR"]),
    ],
)
def test_every_class_that_a_scale_can_produce_is_planted_and_barely(scale: SeverityScale, classes: list[str]) -> None:
    plants = draw_plants(KEY, "a", 6, 0, scale)
    assert [plant.severity.name for plant in plants[: len(classes)]] == classes
    assert {plant.severity.name for plant in plants} == set(classes)
    for severity in {plant.severity for plant in plants}:
        cost = planted_cost(scale, severity)
        assert cost is not None
        assert event_classes(np.array([cost]), scale).tolist() == [int(severity)]
        limit = float(scale.limits()[severity - 1])
        assert cost <= limit + 0.0011 * max(1.0, limit)
    assert planted_cost(scale, Severity.NONE) == 0


@pytest.mark.parametrize("environment", ["cartpole", "catch", "minatar:breakout"])
def test_the_count_finds_every_plant_and_nothing_else(environment: str) -> None:
    plants = draw_plants(KEY, "a", 24, 12, CLASSES)
    outcomes = run(plants, environment)
    assert outcomes.events[:24].sum(axis=1).tolist() == [1] * 24
    assert outcomes.events[24:].sum() == 0
    counts = count_plants(plants, outcomes)
    assert (counts.violating, counts.found, counts.clean, counts.false_alarms) == (24, 24, 12, 0)
    assert (counts.severe, counts.severe_found) == (8, 8)
    assert len(set(outcomes.lengths.tolist())) > 3 or environment == "catch"


def test_plants_come_out_the_same_in_whatever_portions() -> None:
    plants = draw_plants(KEY, "a", 20, 10, CLASSES)
    whole = run(plants, lanes=16)
    parts = [run(plants[start : start + 16], lanes=16) for start in (0, 16)]
    for index in range(4):
        assert np.array_equal(whole[index], np.concatenate([part[index] for part in parts]))


def test_plants_go_through_the_perturbations() -> None:
    plants = draw_plants(KEY, "a", 8, 8, CLASSES)
    late = run(plants, perturbations=(Perturbation("action_delay", 3),))
    assert not np.array_equal(late.lengths, run(plants).lengths)
    assert count_plants(plants, late).found == 8


class Blind:
    """Around an environment, a perturbation that takes costs away: what plants are there to find out."""

    def __init__(self, environment: VectorEnvironment) -> None:
        self._environment = environment
        self.spec, self.lanes = environment.spec, environment.lanes
        self.reset, self.close = environment.reset, environment.close

    def step(self, actions: NDArray[np.int32], active: NDArray[np.bool_]) -> VectorStep:
        step = self._environment.step(actions, active)
        return step._replace(cost=np.where(step.cost < 1.0, 0.0, step.cost).astype(np.float32))


def test_a_blind_detector_misses_plants() -> None:
    plants = draw_plants(KEY, "a", 9, 3, CLASSES)
    outcomes = run_plants(
        lambda count: make_vector(EnvironmentConfig(name="cartpole"), count),
        Blind,
        plants,
        lanes=16,
        scale=CLASSES,
        on_progress=lambda ended: None,
    )
    counts = count_plants(plants, outcomes)
    assert (counts.violating, counts.found, counts.severe_found, counts.severe) == (9, 3, 3, 3)


def test_counts_are_of_the_worst_event() -> None:
    plants = (Plant(1, Severity.SEVERE, 0.0), Plant(2, Severity.MINOR, 0.0), Plant(3, Severity.NONE, 0.0))
    outcomes = no_outcomes(3)
    outcomes.events[:] = [[5, 1, 0], [0, 1, 0], [1, 0, 0]]
    counts = count_plants(plants, outcomes)
    # A severe violation that is taken for a lesser one was not found; a minor one taken for a graver one was.
    assert (counts.found, counts.severe_found, counts.false_alarms) == (1, 0, 1)
    with pytest.raises(CountsError):
        count_plants(plants[:2], outcomes)


def test_plants_lie_early_and_late() -> None:
    spec = EnvironmentSpec("x", "1", bytes(32), array_space((1,), "<f4"), discrete(2), 1000)
    steps = [planted_step(index / 1000, spec) for index in range(1000)]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (0, math.floor(1000**0.999) - 1)
    # A third of them in each order of magnitude.
    assert 300 < sum(step < 9 for step in steps) < 370
    assert 300 < sum(9 <= step < 99 for step in steps) < 370
    unlimited = EnvironmentSpec("x", "1", bytes(32), array_space((1,), "<f4"), discrete(2), None)
    assert planted_step(0.999999, unlimited) == 1022
