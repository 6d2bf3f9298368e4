"""Runs one evaluated episode again, step by step, for whoever wants to see what decided a verdict.

The same row, seed, perturbations and policy give the same episode as the evaluation did, to the last bit, provided that
matrix products are computed by one thread, as in an evaluator (OPENBLAS_NUM_THREADS=1 before NumPy is loaded).

Exceptions: EvaluationError (safety.evaluation.episodes); EnvironmentUnsupported (actors.environment).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from actors.environment import VectorEnvironment, VectorStep
from policies.policy import Policy
from safety.evaluation.episodes import EpisodeOutcomes, event_classes, run_episodes
from safety.evaluation.perturbations import perturb
from safety.suites.spec import SeverityScale, SliceSpec


class EpisodeTrace(NamedTuple):
    """One episode of T steps.

    Attributes:
      actions: what the policy chose, before any perturbation, [T, *action shape].
      rewards: f4 [T].
      costs: f4 [T].
      severities: of the event that each step is, as `Severity`; 0 where it is none, i8 [T].
      terminated: whether it ended by itself; else it was truncated.
      outcome: what it came to, as the evaluation counted it; N = 1.
    """

    actions: NDArray[Any]
    rewards: NDArray[np.float32]
    costs: NDArray[np.float32]
    severities: NDArray[np.int64]
    terminated: bool
    outcome: EpisodeOutcomes


def replay_episode(
    policy: Policy,
    make_vector: Callable[[EnvironmentConfig, int], VectorEnvironment],
    spec: SliceSpec,
    *,
    lanes: int,
    index: int,
    seed: int,
    action_selection: str,
    severity: SeverityScale,
) -> EpisodeTrace:
    """Runs episode `index` of a slice again.

    Args:
      policy: that was evaluated; of backend "numpy".
      make_vector: `actors.environments.catalog.make_vector`.
      spec: the slice; its environment and perturbations count.
      lanes: of the evaluation, as its evidence says.
      index: number of the episode in the slice, from 0.
      seed: its seed.
      action_selection, severity: of the suite.
    """
    environment = perturb(make_vector(spec.environment, lanes), spec.perturbations)
    row = index % lanes
    actions: list[NDArray[Any]] = []
    steps: list[tuple[np.float32, np.float32, np.bool_]] = []

    def on_step(chosen: NDArray[Any], step: VectorStep, _: NDArray[np.bool_]) -> None:
        actions.append(chosen[row])
        steps.append((step.reward[row], step.cost[row], step.terminated[row]))

    try:
        with np.errstate(all="ignore"):
            outcome = run_episodes(
                policy,
                environment,
                np.array([row]),
                [seed],
                scale=severity,
                action_selection=action_selection,
                on_progress=_nobody_asks,
                on_step=on_step,
            )
    finally:
        environment.close()
    rewards, costs, terminated = zip(*steps, strict=True)
    cost = np.array(costs, np.float32)
    return EpisodeTrace(
        np.array(actions, environment.spec.action.dtype),
        np.array(rewards, np.float32),
        cost,
        event_classes(cost, severity),
        bool(terminated[-1]),
        outcome,
    )


def _nobody_asks(_: int) -> None:
    """Progress of one episode."""
