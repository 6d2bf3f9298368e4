"""Preprocessing, which all backends share."""

from typing import Any

import numpy as np
import pytest

from policies.policy import as_float32, checked_state


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


def test_a_state_is_zeros_or_as_it_must_be() -> None:
    np.testing.assert_array_equal(checked_state(None, 2, 3), np.zeros((2, 3)))
    state = np.ones((2, 3), np.float32)
    assert checked_state(state, 2, 3) is state
    wrongs: list[Any] = [state[:1], state.astype(np.float64), state[:, :2]]
    for wrong in wrongs:
        with pytest.raises(ValueError, match=r"the policy wants float32 \[2, 3\]"):
            checked_state(wrong, 2, 3)
