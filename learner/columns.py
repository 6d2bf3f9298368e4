"""Which columns of a record the update reads, and how a network takes them. Plain arrays; no replay, no device.

In time-major batches of B records of T steps, observations have T + 1 rows, the core's state one, and all else T.
Beside the columns of its records a batch has "replayed" [B]: which of them came from a table of replay, and not fresh.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from numpy.typing import NDArray

from policies.spec import PolicySpec

Batch = Mapping[str, Any]
"""The trained columns by name, [T (+ 1), B, ...], state [1, B, S]: of NumPy outside of the update, of JAX within."""

_STEP_COLUMNS = ("action", "reward", "cost", "discount", "mask", "log_prob")


def trained_columns(spec: PolicySpec, *, behaviour: bool = False) -> tuple[str, ...]:
    """The columns of a record that the update reads, so that nothing else travels to the device.

    Args:
      spec: of the policy.
      behaviour: with the parameters of the distributions that the actions were drawn from.
    """
    parts = tuple(part.column for part in spec.observation.parts)
    return (*parts, *_STEP_COLUMNS, *(("logits",) if behaviour else ()), *(("state",) if spec.state_size else ()))


def blank_batch(
    spec: PolicySpec, unroll_length: int, batch_size: int, *, behaviour: bool = False
) -> dict[str, NDArray[Any]]:
    """A batch of zeros, of the shapes and types that every batch of this run has; `behaviour` as above."""
    T, B = unroll_length, batch_size
    batch: dict[str, NDArray[Any]] = {
        part.column: np.zeros((T + 1, B, *part.shape), part.dtype) for part in spec.observation.parts
    }
    batch |= {name: np.zeros((T, B), np.float32) for name in _STEP_COLUMNS}
    batch |= {"action": spec.action.zeros(T, B), "mask": np.zeros((T, B), np.bool_)}
    if behaviour:
        batch["logits"] = np.zeros((T, B, spec.action.parameters), np.float32)
    # No column of a record: learner.batches knows where the records came from.
    batch["replayed"] = np.zeros(B, np.bool_)
    if spec.state_size:
        batch["state"] = np.zeros((1, B, spec.state_size), np.float32)
    return batch


def observations(batch: Batch, spec: PolicySpec) -> dict[str, Array]:
    """The parts of the observations, [T + 1, B, ...] by column."""
    return {part.column: batch[part.column] for part in spec.observation.parts}


def core_state(batch: Batch, spec: PolicySpec) -> Float[Array, "B S"]:
    """The state that the acting policy had before the first row."""
    if spec.state_size:
        return jnp.asarray(batch["state"][0])
    return jnp.zeros((batch["mask"].shape[1], 0), jnp.float32)


def resets(batch: Batch) -> Bool[Array, "T_plus_1 B"]:
    """Before which of the observations an episode begins; what was before the first is in the core's state."""
    # Boundary rows have a discount of 0, too.
    begins = jnp.asarray(batch["discount"] == 0)
    return jnp.concatenate([jnp.zeros_like(begins[:1]), begins])
