"""Importance weights undo what priorities do."""

from __future__ import annotations

import numpy as np
import pytest

from replay.importance import importance_weights


def test_the_largest_weight_is_1_and_belongs_to_the_least_likely() -> None:
    weights = importance_weights(np.array([0.5, 0.25, 0.125]), available=4, beta=1.0)
    np.testing.assert_allclose(weights, [0.25, 0.5, 1.0])
    np.testing.assert_allclose(importance_weights(np.array([0.5, 0.25]), 4, 0.5), [2**-0.5, 1.0])
    assert importance_weights(np.array([0.5, 0.25]), 4, 0.0).tolist() == [1.0, 1.0]
    assert importance_weights(np.empty(0), 0, 1.0).tolist() == []


def test_at_1_the_mean_over_draws_is_that_over_records() -> None:
    generator = np.random.default_rng(0)
    values, priorities = generator.standard_normal(50), generator.uniform(0.1, 3.0, 50)
    probabilities = priorities / priorities.sum()
    drawn = generator.choice(50, 200_000, p=probabilities)
    weights = importance_weights(probabilities[drawn], 50, 1.0) / (50 * probabilities.min())
    assert float(np.mean(weights * values[drawn])) == pytest.approx(values.mean(), abs=0.01)
    assert abs(float(np.mean(values[drawn])) - values.mean()) > 0.02  # without them it is another


def test_senseless_arguments_are_refused() -> None:
    for beta in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="must be in"):
            importance_weights(np.array([0.5]), 2, beta)
    for probability in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="must be above 0"):
            importance_weights(np.array([0.5, probability]), 2, 1.0)
