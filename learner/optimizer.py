"""Gradient methods and schedules, from the settings. Knows no network."""

from __future__ import annotations

import optax

from learner.config import LearnerConfig


def make_optimizer(config: LearnerConfig) -> optax.GradientTransformation:
    """Gradient clipping by global norm, then Adam or RMSProp with a linearly moving step size."""
    rate = linear_schedule(config.learning_rate, config.learning_rate_end, config.anneal_updates)
    method = (
        optax.adam(rate, eps=config.optimizer_epsilon)
        if config.optimizer == "adam"
        else optax.rmsprop(rate, decay=0.99, eps=config.optimizer_epsilon)
    )
    return optax.chain(optax.clip_by_global_norm(config.gradient_norm_max), method)


def linear_schedule(start: float, end: float, updates: int) -> optax.Schedule:
    """From `start` to `end` in so many updates, then constant; constant from the first where there are none."""
    if updates == 0:
        return optax.constant_schedule(start)
    return optax.linear_schedule(start, end, updates)
