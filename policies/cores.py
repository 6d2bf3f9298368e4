"""Recurrent cores in Flax NNX: LSTM (Hochreiter and Schmidhuber 1997) and GRU (Cho et al. 2014), along sequences.

    lstm   i, f, g, o = x W + h U + b;   c' = sigmoid(f + 1) c + sigmoid(i) tanh(g);   h' = sigmoid(o) tanh(c')
    gru    z, r, n    = x W + b;         z = sigmoid(z + h U_z), r = sigmoid(r + h U_r)
           h' = (1 - z) tanh(n + r h U_n) + z h

The state of an lstm is [h, c], of a gru h; zeros where an episode begins. `policies.numpy_layers` computes the same one
step at a time.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

_GATES = {"lstm": 4, "gru": 3}


class _Kernel(nnx.Module):
    """One matrix of parameters."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self.kernel = nnx.Param(jnp.zeros((inputs, outputs), jnp.float32))


class Core(nnx.Module):
    """A recurrent core.

    Args:
      kind: "lstm" or "gru".
      inputs: features of each step.
      size: H, units.
      dtype: in which products are computed; the state is float32.
    """

    def __init__(self, kind: str, inputs: int, size: int, dtype: Any) -> None:
        gates = _GATES[kind] * size
        self._kind = kind
        self._dtype = dtype
        self.input = _Kernel(inputs, gates)
        self.recurrent = _Kernel(size, gates)
        self.bias = nnx.Param(jnp.zeros(gates, jnp.float32))

    def __call__(
        self, features: Float[Array, "T B F"], state: Float[Array, "B S"], reset: Bool[Array, "T B"]
    ) -> tuple[Float[Array, "T B H"], Float[Array, "B S"]]:
        """Outputs of every step, and the state after the last; `reset` is True where the state before it is zeros."""
        # The inputs' share of all steps in one product; only the recurrent one has to wait.
        driven = self._product(features, self.input.kernel[...]) + self.bias[...]
        recurrent = self.recurrent.kernel[...]
        step = _lstm if self._kind == "lstm" else _gru

        def advance(carried: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            inputs, begins = now
            carried = jnp.where(begins[:, None], 0.0, carried)
            hidden = carried[:, : recurrent.shape[0]]
            carried = step(inputs, self._product(hidden, recurrent), carried)
            return carried, carried[:, : recurrent.shape[0]]

        last, outputs = jax.lax.scan(advance, state, (driven, reset))
        return outputs, last

    def _product(self, values: jax.Array, kernel: jax.Array) -> jax.Array:
        if self._dtype == jnp.float32:
            return jnp.matmul(values, kernel, precision=jax.lax.Precision.HIGHEST)
        product = jnp.matmul(values.astype(self._dtype), kernel.astype(self._dtype))
        return product.astype(jnp.float32)


def _lstm(driven: jax.Array, recurrent: jax.Array, state: jax.Array) -> jax.Array:
    _, cell = jnp.split(state, 2, axis=-1)
    i, f, g, o = jnp.split(driven + recurrent, 4, axis=-1)
    cell = jax.nn.sigmoid(f + 1.0) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jnp.concatenate([jax.nn.sigmoid(o) * jnp.tanh(cell), cell], axis=-1)


def _gru(driven: jax.Array, recurrent: jax.Array, hidden: jax.Array) -> jax.Array:
    driven_z, driven_r, driven_n = jnp.split(driven, 3, axis=-1)
    recurrent_z, recurrent_r, recurrent_n = jnp.split(recurrent, 3, axis=-1)
    update = jax.nn.sigmoid(driven_z + recurrent_z)
    candidate = jnp.tanh(driven_n + jax.nn.sigmoid(driven_r + recurrent_r) * recurrent_n)
    return (1.0 - update) * candidate + update * hidden
