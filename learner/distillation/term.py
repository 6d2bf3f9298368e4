"""The divergence from the teachers as a term of the loss, beside what `learner.loss` makes of the environment's reward.

The value head learns by V-trace as ever; this term is about the policy alone. The teachers' parameters are constants of
the update: they are read once and never change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray

from learner.columns import Batch, observations, resets
from learner.distillation.config import DistillationConfig
from learner.distillation.divergence import (
    forward_divergence,
    mean_over,
    reverse_divergence,
    sampled_reverse_divergence,
)
from learner.distillation.teachers import Teacher
from learner.distributions import log_prob
from policies.networks import NetworkOutput, functional
from policies.spec import PolicySpec

DIVERGENCE = "distillation/divergence"
"""Name of the figure: mean divergence over the real steps, weighted as the teachers are (nats)."""

LOGITS = "logits"
"""The column of what the acting policy said of its actions."""


def recorded_columns(
    config: DistillationConfig, spec: PolicySpec, unroll_length: int, batch_size: int
) -> dict[str, NDArray[Any]]:
    """Blank columns [T, B, ...] of what the term reads of a batch besides the trained columns, by name."""
    if config.targets != "recorded":
        return {}
    return {LOGITS: np.zeros((unroll_length, batch_size, spec.action.parameters), np.float32)}


class DistillationTerm:
    """A term for `learner.update.make_update`.

    Args:
      spec: of the student.
      config: how to learn.
      teachers: from whom, without recurrent cores, for the same observations and actions.
    """

    def __init__(self, spec: PolicySpec, config: DistillationConfig, teachers: Sequence[Teacher]) -> None:
        self._spec = spec
        self._config = config
        self._teachers = [(functional(each.artifact.spec), each.artifact.parameters) for each in teachers]

    def __call__(
        self, parameters: Mapping[str, Array], output: NetworkOutput, batch: Batch, updates: Int[Array, ""]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The weighted divergence as a loss, and as figures by name.

        Args:
          parameters: of the student; what they give is in `output`.
          output: what the student says of the T + 1 observations.
          batch: the trained columns; in mode "offline" with recorded targets also LOGITS.
          updates: made so far.
        """
        del parameters, updates
        mask = jnp.asarray(batch["mask"]).astype(jnp.float32)
        student, weights = output.logits[:-1], self._config.teacher_weights
        if self._config.targets == "recorded":
            # Each record was made by one teacher; they are drawn in the proportion of the weights.
            recorded = mean_over(self._forward(student, jnp.asarray(batch[LOGITS])), mask)
            return sum(weights) * recorded, {DIVERGENCE: recorded}
        losses, figures = [], {}
        for number, teacher in enumerate(self._scores(batch), start=1):
            loss, figure = self._divergence(student, teacher, batch, mask)
            losses.append(loss)
            figures[f"{DIVERGENCE}_{number}"] = figure
        mean = sum(weight * figure for weight, figure in zip(weights, figures.values(), strict=True)) / sum(weights)
        named = {DIVERGENCE: jnp.asarray(mean)} | (figures if len(figures) > 1 else {})
        total = sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
        return jnp.asarray(total), named

    def _scores(self, batch: Batch) -> list[Float[Array, "T B P"]]:
        """What each teacher says of the observations acted in."""
        seen = {name: part[:-1] for name, part in observations(batch, self._spec).items()}
        reset = resets(batch)[:-1]
        blank = jnp.zeros((reset.shape[1], 0), jnp.float32)
        return [
            jax.lax.stop_gradient(apply(_constants(held), seen, blank, reset).logits) for apply, held in self._teachers
        ]

    def _divergence(self, student: Array, teacher: Array, batch: Batch, mask: Array) -> tuple[Array, Array]:
        """The loss and the divergence of one teacher."""
        config, space = self._config, self._spec.action
        if config.mode == "offline":
            mean = mean_over(self._forward(student, teacher), mask)
            return mean, mean
        if config.kl == "full":
            mean = mean_over(reverse_divergence(student, teacher, space, config.temperature), mask)
            return mean, mean
        log_student = log_prob(student, batch["action"], space)
        log_teacher = log_prob(teacher, batch["action"], space)
        # As the advantage of V-trace is: what an earlier student took more often than this one counts less.
        log_importance = jnp.where(batch["mask"], log_student - batch["log_prob"], 0.0)
        importance = jnp.minimum(1.0, jnp.exp(jax.lax.stop_gradient(log_importance)))
        loss = mean_over(sampled_reverse_divergence(log_student, log_teacher, importance), mask)
        return loss, mean_over(jax.lax.stop_gradient(importance * (log_student - log_teacher)), mask)

    def _forward(self, student: Array, teacher: Array) -> Array:
        return forward_divergence(student, teacher, self._spec.action, self._config.temperature)


def _constants(parameters: Mapping[str, NDArray[np.float32]]) -> dict[str, Array]:
    return {name: jnp.asarray(array) for name, array in parameters.items()}
