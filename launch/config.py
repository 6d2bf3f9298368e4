"""Every setting of a run in one frozen tree: the packages' own configs, side by side, and when to stop.

What each setting means stands in the package that obeys it; this module composes them, and checks those that must fit
together across packages.

Exceptions: replay.settings.SettingError from `check_run`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from actors.config import ActorConfig, EnvironmentConfig
from learner.config import LearnerConfig
from policies.config import NetworkConfig
from replay.config import ReplayConfig, check_config
from replay.settings import SettingError, setting, validate
from safety.config import SafetyConfig


@dataclass(frozen=True)
class StopConfig:
    """When a run is over: whichever comes first. It always ends in order, with a checkpoint and a summary."""

    target_return: float = setting(
        math.inf, "mean evaluation return of a release at which the run has reached its goal; inf: none"
    )
    env_steps_max: int = setting(
        0, "environment steps, those before a resume included, at which it ends; 0: none", low=0
    )
    seconds_max: float = setting(
        0.0, "seconds of training, those before a resume included, at which it ends; 0: none", low=0.0
    )


@dataclass(frozen=True)
class RunConfig:
    """One training run. `recipe` names what the run is; all else are settings."""

    recipe: str
    seed: int = setting(0, "seed of everything random in the run but the evaluation", low=0, below=2**31)
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    actor: ActorConfig = field(default_factory=ActorConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    safety: SafetyConfig = field(default_factory=SafetyConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    stop: StopConfig = field(default_factory=StopConfig)


def check_run(config: RunConfig) -> None:
    """Checks every setting, and those that would together bring a run to a standstill; raises SettingError."""
    validate(config)
    check_config(config.replay)
    batch_size = config.learner.batch_size
    if batch_size > config.replay.sample_batch_max:
        raise SettingError(
            f"learner.batch_size = {batch_size} exceeds replay.sample_batch_max = {config.replay.sample_batch_max}: "
            "replay would refuse every request for a batch"
        )
    fresh = batch_size - int(batch_size * config.learner.uniform_fraction)
    if fresh > config.replay.fresh_unconsumed_max:
        raise SettingError(
            f"a batch takes {fresh} fresh records (learner.batch_size = {batch_size}), more than "
            f"replay.fresh_unconsumed_max = {config.replay.fresh_unconsumed_max} lets wait: the run would stand still"
        )
