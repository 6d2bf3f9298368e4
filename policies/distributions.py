"""The distributions that actions are drawn from, in NumPy: parameters [N, P] to actions, log-probabilities, modes.

    discrete        P = A logits of a softmax
    multi_discrete  the logits of one softmax per component, one after another; components are independent
    box             D means, then D logarithms of standard deviations, kept within LOG_STD_MIN and LOG_STD_MAX;
                    components are independent

`learner.distributions` has the same in JAX, with entropies and divergences; one test holds both together.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.policy import RandomSource
from policies.spaces import ActionSpace

LOG_STD_MIN = -5.0
LOG_STD_MAX = 2.0

_LOG_SQRT_TAU = 0.5 * math.log(2 * math.pi)

Array = NDArray[np.float32]


def sample(parameters: Array, space: ActionSpace, generator: RandomSource) -> tuple[NDArray[Any], Array]:
    """Draws one action per row.

    Args:
      parameters: float32 [N, P], finite; a row that is not gives some action and a log-probability of NaN.
      space: of the actions.
      generator: source of randomness; advances by N * `space.draws` float32.

    Returns:
      actions [N, *space.shape] and their log-probabilities float32 [N].
    """
    uniform = generator.random((len(parameters), space.draws), dtype=np.float32)
    if space.kind == "box":
        return _sample_gaussian(parameters, uniform)
    if space.kind == "discrete":
        return sample_categorical(parameters, uniform)
    drawn = [
        sample_categorical(logits, uniform[:, [index]]) for index, logits in enumerate(_components(parameters, space))
    ]
    actions, log_probs = zip(*drawn, strict=True)
    return np.stack(actions, axis=1), np.add.reduce(log_probs)


def most_probable(parameters: Array, space: ActionSpace) -> NDArray[Any]:
    """The most probable action, in choices the first among equals: [N, P] -> [N, *space.shape]."""
    if space.kind == "box":
        return parameters[:, : space.components].copy()
    chosen = [np.argmax(logits, axis=1).astype(np.int32) for logits in _components(parameters, space)]
    return chosen[0] if space.kind == "discrete" else np.stack(chosen, axis=1)


def log_prob(parameters: Array, actions: NDArray[Any], space: ActionSpace) -> Array:
    """Log-probability (density for a box) of actions [N, *space.shape] under parameters [N, P], float32 [N]."""
    if space.kind == "box":
        mean, log_std = gaussian(parameters)
        noise = (actions - mean) * np.exp(-log_std)
        return _gaussian_log_prob(noise, log_std)
    rows = np.arange(len(parameters))
    total = np.zeros(len(parameters), np.float32)
    for logits, chosen in zip(_components(parameters, space), actions.reshape(len(actions), -1).T, strict=True):
        shifted = logits - np.maximum.reduce(logits, axis=1, keepdims=True)
        total += shifted[rows, chosen] - np.log(np.add.reduce(np.exp(shifted), axis=1))
    return total


def gaussian(parameters: Array) -> tuple[Array, Array]:
    """Means and logarithms of standard deviations [N, D] of a box distribution [N, 2 D]."""
    mean, log_std = np.split(parameters, 2, axis=-1)
    return mean, np.clip(log_std, LOG_STD_MIN, LOG_STD_MAX)


def sample_categorical(logits: Array, uniform: Array) -> tuple[NDArray[np.int32], Array]:
    """Draws from softmax(logits) by inverting the cumulative distribution with one uniform number per row.

    Args:
      logits: float32 [N, A], finite; a row that is not gives an action in [0, A) and a log-probability of NaN.
      uniform: float32 [N, 1] in [0, 1); overwritten.

    Returns:
      action int32 [N] and its log-probability float32 [N] (log-softmax in float32).
    """
    rows = logits.shape[0]
    shifted: Array = logits - np.maximum.reduce(logits, axis=1, keepdims=True)
    cumulative: Array = np.exp(shifted)
    np.add.accumulate(cumulative, axis=1, out=cumulative)
    total = cumulative[:, -1:]
    uniform *= total
    # Not the last column: rounding may lift the threshold to the total, and the last action must then be taken.
    passed = cumulative[:, :-1] <= uniform
    action = np.add.reduce(passed, axis=1, dtype=np.int32)
    chosen = shifted[np.arange(rows), action]
    chosen -= np.log(total[:, 0])
    return action, chosen


def _sample_gaussian(parameters: Array, uniform: Array) -> tuple[Array, Array]:
    """By the method of Box and Muller, one pair of uniform numbers per component.

    The density is that of the action as it is stored: where it is narrow, rounding the action changes it by much.
    """
    mean, log_std = gaussian(parameters)
    first, second = np.split(uniform, 2, axis=1)
    # 1 - u lies in (0, 1]: its logarithm is finite.
    noise = np.sqrt(-2 * np.log1p(-first)) * np.cos(np.float32(2 * math.pi) * second)
    action: Array = mean + np.exp(log_std) * noise
    return action, _gaussian_log_prob((action - mean) * np.exp(-log_std), log_std)


def _gaussian_log_prob(noise: Array, log_std: Array) -> Array:
    total: Array = np.add.reduce(-0.5 * noise * noise - log_std - np.float32(_LOG_SQRT_TAU), axis=1, dtype=np.float32)
    return total


def _components(parameters: Array, space: ActionSpace) -> list[Array]:
    """The logits of each component."""
    return np.split(parameters, np.cumsum(space.sizes)[:-1], axis=1)
