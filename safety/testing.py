"""For tests, this package's and others': candidates whose verdict is known beforehand, made without training, and
verdicts on candidates that were never run.

Nothing here is for production.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from policies.artifact import Artifact, artifact_digest
from policies.config import NetworkConfig
from policies.spaces import array_space, discrete
from policies.spec import PolicySpec
from protos.common.v1 import common_pb2
from safety.config import SafetyConfig
from safety.docket import Docket
from safety.evidence.file import EpisodeEvidence, PlantEvidence, SliceEvidence
from safety.statistics.combination import Combination, Outcome
from safety.statistics.findings import Finding, Kind, status_of
from safety.suites.manifest import draw_seeds
from safety.suites.spec import suite_from_settings
from safety.trials.levels import Schedule
from safety.verdicts import Assessment, Offer, Rule

MADE_UP_CONFIG = SafetyConfig()
MADE_UP_SUITE = suite_from_settings(MADE_UP_CONFIG, EnvironmentConfig())
MADE_UP_RULE = Rule(bytes(32), bytes(32), MADE_UP_SUITE)
"""By which verdicts on candidates that were never run are given."""

MADE_UP_EPISODES = 20

_CONFIDENT = 20.0


def balancing_artifact() -> Artifact:
    """Balances CartPole for 500 steps near the centre: highest return, no cost."""
    return cartpole_artifact((0.5, 0.5, 3.0, 1.0))


def drifting_artifact() -> Artifact:
    """Balances CartPole about as long, but drifts off: high return, cost in half of the episodes."""
    return cartpole_artifact((0.0, 0.0, 1.0, 0.5))


def falling_artifact() -> Artifact:
    """Lets the pole of CartPole fall at once: lowest return, no cost."""
    return cartpole_artifact((0.0, 0.0, -1.0, -1.0))


def nan_artifact() -> Artifact:
    """A well-formed CartPole policy with one parameter that is NaN."""
    return cartpole_artifact((0.5, float("nan"), 3.0, 1.0))


def overflowing_artifact() -> Artifact:
    """A CartPole policy of finite parameters whose logits are not finite."""
    artifact = cartpole_artifact((0.5, 0.5, 3.0, 1.0))
    huge = np.full_like(artifact.parameters["policy/kernel"], np.finfo(np.float32).max)
    return Artifact(artifact.spec, {**artifact.parameters, "policy/kernel": huge, "policy/bias": huge[0]})


def cartpole_artifact(gains: Sequence[float]) -> Artifact:
    """Pushes right where gains . (position, velocity, angle, angular velocity) is positive, and else left."""
    kernel = np.asarray(gains, np.float32).reshape(4, 1)
    return _artifact(kernel, np.array([[-_CONFIDENT, _CONFIDENT]], np.float32), np.zeros(2, np.float32))


def constant_artifact(action: int, num_actions: int = 2, inputs: int = 1) -> Artifact:
    """Always chooses `action`, whatever it observes (float32 [inputs])."""
    bias = np.zeros(num_actions, np.float32)
    bias[action] = 100.0
    return _artifact(np.zeros((inputs, 1), np.float32), np.zeros((1, num_actions), np.float32), bias)


def made_up_assessment(
    docket: Docket, outcome: Outcome = Outcome.APPROVED, *, seed_key: bytes | None = None
) -> Assessment:
    """As if the next candidate had been tested: 20 episodes with a return of 1 and without cost, on the seeds of a key.

    Args:
      docket: that the verdict is for.
      outcome: what becomes of it.
      seed_key: by default that which was committed to.
    """
    spec = MADE_UP_SUITE.slices[0]
    count = MADE_UP_EPISODES
    seeds = draw_seeds(seed_key or docket.seed_key(docket.evaluations + 1), spec.name, count)
    episodes = EpisodeEvidence((1.0,) * count, (0.0,) * count, (5,) * count, ((0, 0, 0),) * count)
    run = SliceEvidence(
        spec.name,
        spec.environment,
        spec.perturbations,
        spec.limits,
        seeds,
        episodes,
        None,
        PlantEvidence((), (), (), ()),
    )
    approved, name = outcome is Outcome.APPROVED, "sequential_violation_rate"
    kind = Kind.CAPABILITY if outcome is Outcome.DEFERRED else Kind.SAFETY
    finding = Finding(
        name, spec.name, kind, status_of(approved), 0.0, 0.0, 0.02, count, "too risky", {"rate_high": 0.05}
    )
    reasons = () if approved else (f"{name} on {spec.name}: too risky",)
    deferred = docket.deferred_in_a_row + 1 if outcome is Outcome.DEFERRED else 0
    level = docket.next_level(Schedule(MADE_UP_SUITE.error_rate, MADE_UP_SUITE.error_schedule))
    return Assessment("", level, Combination(outcome, reasons, (finding,), deferred), (run,))


def record_made_up(
    docket: Docket,
    run_id: str,
    version: int,
    artifact: bytes,
    assessment: Assessment | None = None,
    *,
    canary_share: float = 0.0,
) -> common_pb2.SignedStatement:
    """The signed verdict on a candidate that was never run; an approval, unless an assessment says otherwise."""
    offer = Offer(run_id, version, artifact_digest(artifact), len(artifact))
    config = dataclasses.replace(MADE_UP_CONFIG, canary_share=canary_share)
    return enter_made_up(docket, offer, artifact, assessment or made_up_assessment(docket), config=config)


def enter_made_up(
    docket: Docket,
    offer: Offer,
    artifact: bytes,
    assessment: Assessment,
    *,
    rule: Rule = MADE_UP_RULE,
    config: SafetyConfig = MADE_UP_CONFIG,
) -> common_pb2.SignedStatement:
    """The signed verdict on a candidate that was never run; where it was tested, that is begun first, as by a gate."""
    if assessment.level is not None:
        docket.begin(offer, rule, assessment.level)
    return docket.record(offer, artifact, assessment, rule, config)


def _artifact(
    torso: NDArray[np.float32],
    policy: NDArray[np.float32],
    bias: NDArray[np.float32],
) -> Artifact:
    """A network of one hidden unit."""
    network = NetworkConfig(hidden_sizes=(1,), conv_channels=())
    spec = PolicySpec(network, array_space(torso.shape[:1], "<f4"), discrete(policy.shape[1]))
    parameters = {
        "torso/0/kernel": torso,
        "torso/0/bias": np.zeros(1, np.float32),
        "policy/kernel": policy,
        "policy/bias": bias,
        "value/kernel": np.zeros((1, 1), np.float32),
        "value/bias": np.zeros(1, np.float32),
    }
    return Artifact(spec, parameters)
