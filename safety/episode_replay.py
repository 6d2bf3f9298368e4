"""Runs one evaluated episode again, step by step, for whoever wants to see what decided a verdict.

The same row, seed, perturbations and policy give the same episode as the evaluation did, to the last bit, provided that
matrix products are computed by one thread, as in an evaluator (OPENBLAS_NUM_THREADS=1 before NumPy is loaded).

Exceptions: EvaluationError (safety.evaluation); EnvironmentUnsupported (actors.environment).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from actors.environment import VectorEnvironment
from policies.policy import Policy
from safety.suite_spec import SeverityScale, SliceSpec


class EpisodeTrace(NamedTuple):
    """One episode of T steps.

    Attributes:
      actions: what the policy chose, before any perturbation, i4 [T].
      rewards: f4 [T].
      costs: f4 [T].
      severities: of the event that each step is, as `Severity`; 0 where it is none, i8 [T].
      terminated: whether it ended by itself; else it was truncated.
    """

    actions: NDArray[np.int32]
    rewards: NDArray[np.float32]
    costs: NDArray[np.float32]
    severities: NDArray[np.int64]
    terminated: bool


def replay_episode(
    policy: Policy,
    make_vector: Callable[[EnvironmentConfig, int], VectorEnvironment],
    spec: SliceSpec,
    lanes: int,
    index: int,
    seed: int,
    *,
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
    raise NotImplementedError
