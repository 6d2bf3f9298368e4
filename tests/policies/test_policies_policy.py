"""Preprocessing and sampling, which all backends share."""

from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from policies.policy import as_float32, most_probable, sample_categorical


def _as_float32(observation: np.ndarray) -> np.ndarray:
    out = np.empty(observation.shape, np.float32)
    as_float32(observation, out)
    return out


def test_images_are_scaled_to_one() -> None:
    image = np.arange(256, dtype=np.uint8)
    np.testing.assert_allclose(_as_float32(image), np.arange(256) / 255, rtol=1e-7)


@pytest.mark.parametrize("dtype", ["|b1", "|i1", "<i2", "<u2", "<i8", "<f2", "<f8"])
def test_everything_else_is_cast(dtype: str) -> None:
    values = np.array([0, 1, 1, 0], dtype)
    np.testing.assert_array_equal(_as_float32(values), [0.0, 1.0, 1.0, 0.0])


@hypothesis.given(st.integers(1, 9), st.integers(1, 6), st.floats(0, 80), st.integers(0, 1000))
def test_log_probability_is_that_of_the_softmax(rows: int, actions: int, scale: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits = (scale * generator.standard_normal((rows, actions))).astype(np.float32)
    action, log_prob = sample_categorical(logits, generator)
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    exact -= np.log(np.exp(exact).sum(axis=1, keepdims=True))
    assert action.dtype == np.int32
    assert log_prob.dtype == np.float32
    np.testing.assert_allclose(log_prob, exact[np.arange(rows), action], rtol=1e-6, atol=1e-6)


def test_frequencies_are_probabilities() -> None:
    probability = np.array([0.05, 0.6, 0.0, 0.35])
    logits = np.log(np.maximum(probability, 1e-30)).astype(np.float32)
    action, _ = sample_categorical(np.tile(logits, (100_000, 1)), np.random.default_rng(0))
    frequency = np.bincount(action, minlength=4) / 100_000
    assert frequency[2] == 0
    np.testing.assert_allclose(frequency, probability, atol=5 * np.sqrt(0.25 / 100_000))


class _Highest(np.random.Generator):
    """Draws the largest number below one each time."""

    def random(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        return np.full(size, np.nextafter(np.float32(1), np.float32(0)), dtype)


@pytest.mark.parametrize("logits", [[0.0, 0.0, 0.0], [5.0, 0.0, -90.0], [1e-3, 1e4, -1e4]])
def test_the_highest_draw_stays_within_the_actions(logits: list[float]) -> None:
    action, _ = sample_categorical(np.array([logits], np.float32), _Highest(np.random.PCG64(0)))
    assert 0 <= action[0] < 3


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("row", [[np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf]])
def test_a_row_that_is_not_finite_spoils_only_itself(row: list[float]) -> None:
    action, log_prob = sample_categorical(np.array([row, [0.0, 0.0]], np.float32), np.random.default_rng(0))
    assert action[0] in (0, 1)
    assert np.isnan(log_prob[0])
    assert log_prob[1] == pytest.approx(-np.log(2))


def test_most_probable_takes_the_first_of_equals() -> None:
    np.testing.assert_array_equal(most_probable(np.array([[1, 3, 3], [2, 2, 1]], np.float32)), [1, 0])
