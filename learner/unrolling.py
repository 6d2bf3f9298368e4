"""Burn-in of recurrent policies: the first rows of a batch bring the core's state up to date, the rest is trained on.

The state that a record stores is of the policy that acted. A network of other parameters would have another one, and
runs over some rows from there to find it, without gradient and without loss (Kapturowski et al., "Recurrent Experience
Replay in Distributed Reinforcement Learning", ICLR 2019, R2D2).

Exceptions: BurnInError (a ValueError) for a burn-in that leaves nothing to train on.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array

from learner.columns import Batch, core_state, observations, resets
from policies.networks import Apply
from policies.spec import PolicySpec


class BurnInError(ValueError):
    """The burn-in is as long as the records, or of a network that keeps no state."""


def after_burn_in(apply: Apply, parameters: Mapping[str, Array], batch: Batch, spec: PolicySpec, rows: int) -> Batch:
    """What is trained on: a batch of T - `rows` steps, whose state is where the network arrives after `rows` rows.

    Args:
      apply: the network.
      parameters: its parameters by name; no gradient reaches them from here.
      batch: the trained columns, T steps.
      spec: of the policy.
      rows: of the burn-in, at least 0; 0: the batch is what it was.

    Raises:
      BurnInError: see there.
    """
    if rows == 0:
        return batch
    steps = batch["mask"].shape[0]
    if rows >= steps:
        raise BurnInError(f"burn_in = {rows} must be below the {steps} rows of a record: nothing would be trained on")
    if not spec.state_size:
        raise BurnInError(f"burn_in = {rows} is for recurrent policies, this network's core is none: it must be 0")
    begins = resets(batch)
    first = {name: part[:rows] for name, part in observations(batch, spec).items()}
    arrived = apply(parameters, first, core_state(batch, spec), begins[:rows]).state
    # Where an episode begins with the first row that is left, the reset is no longer among those of the batch.
    state = jax.lax.stop_gradient(jnp.where(begins[rows][:, None], 0.0, arrived))
    rest = {name: column if name == "replayed" else column[rows:] for name, column in batch.items() if name != "state"}
    return {**rest, "state": state[None]}
