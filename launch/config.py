"""Every setting of a run in one frozen tree: the packages' own configs, side by side, and when to stop.

What each setting means stands in the package that obeys it; this module composes them, and checks those that must fit
together across packages.

Exceptions: replay.settings.SettingError and replay.limiter.LimiterError from `check_run`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from actors.config import ActorConfig, AuditConfig, EnvironmentConfig
from launch.transport import TransportConfig
from learner.config import LearnerConfig, check_learner
from learner.distillation.config import DistillationConfig, check_distillation
from policies.canary import least_share
from policies.config import NetworkConfig
from replay.config import ReplayConfig, check_config
from replay.limiter import ratio_limiter
from replay.settings import SettingError, setting, validate
from safety.canaries.rule import canary_rule
from safety.config import SafetyConfig

ACTOR_PREFIX = "actor"
"""What actors are called where nobody says otherwise (`temper actor --actor-prefix`)."""


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
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    transport: TransportConfig = field(default_factory=TransportConfig)


def check_run(config: RunConfig) -> None:
    """Checks every setting, and those that would together bring a run to a standstill.

    Raises:
      SettingError: a value is out of range, or does not go with others.
      LimiterError: replay's uniform table could be held for ever.
    """
    validate(config)
    check_config(config.replay)
    check_distillation(config.distillation)
    batch_size = config.learner.batch_size
    if batch_size > config.replay.sample_batch_max:
        raise SettingError(
            f"learner.batch_size = {batch_size} exceeds replay.sample_batch_max = {config.replay.sample_batch_max}: "
            "replay would refuse every request for a batch"
        )
    check_learner(config.learner, config.network)
    uniform = config.learner.uniform_size
    _check_fresh(config.replay, batch_size - uniform)
    _check_uniform(config.replay, batch_size - uniform, uniform)
    _check_canary(config)
    lockstep_unrolls(config)


def lockstep_unrolls(config: RunConfig) -> int:
    """Unrolls that the actor makes by each snapshot in lockstep; 0 without. Raises SettingError."""
    learner, actor = config.learner, config.actor
    if not learner.lockstep:
        return 0
    needed = (
        ("actor.processes", actor.processes, 1, "the order of their records would be a matter of timing"),
        ("replay.shards", config.replay.shards, 1, "the order of their records would be a matter of timing"),
        ("safety.canary_share", config.safety.canary_share, 0.0, "only snapshots act in lockstep"),
        ("learner.uniform_fraction", learner.uniform_fraction, 0.0, "what can be drawn is a matter of timing"),
    )
    for name, value, wanted, why in needed:
        if value != wanted:
            raise SettingError(f"{name} = {value} does not go with learner.lockstep, {why}: set it to {wanted}")
    if actor.inference == "served":
        raise SettingError(
            "actor.inference = 'served' does not go with learner.lockstep: the service would choose the snapshot; "
            "set it to numpy or jax"
        )
    records = learner.snapshot_updates * learner.batch_size
    if records % actor.lanes:
        raise SettingError(
            f"learner.snapshot_updates * learner.batch_size = {records} records are learnt from between two snapshots, "
            f"no multiple of actor.lanes = {actor.lanes}, which an unroll has: learner.lockstep needs whole unrolls"
        )
    if records > config.replay.fresh_unconsumed_max:
        raise SettingError(
            f"learner.lockstep acts {records} records (learner.snapshot_updates, learner.batch_size) before they are "
            f"learnt from, replay.fresh_unconsumed_max = {config.replay.fresh_unconsumed_max} lets fewer wait: raise it"
        )
    return records // actor.lanes


def _check_canary(config: RunConfig) -> None:
    """With nobody in its share, or nobody who counts its episodes, every canary would be rolled back in time."""
    canary_rule(config.safety)
    share = config.safety.canary_share
    if not share:
        return
    if config.distillation.offline:
        raise SettingError(
            f"safety.canary_share = {share} does not go with distillation.mode = 'offline': there are no actors, so "
            "that nobody would act with a canary"
        )
    if config.actor.inference == "served":
        raise SettingError(
            f"safety.canary_share = {share} does not go with actor.inference = 'served': actors do not know which "
            "release is served to them, so that the episodes of a canary are not counted and each would be rolled back"
        )
    # As actors.host names them.
    least = least_share(f"{ACTOR_PREFIX}-{index:04d}" for index in range(config.actor.processes))
    if share < least:
        raise SettingError(
            f"safety.canary_share = {share} includes none of the {config.actor.processes} actors of this machine, "
            f"named {ACTOR_PREFIX}-0000 and so on: nobody would act with a canary; the least share that includes one "
            f"is {math.ceil(least * 1e4) / 1e4:g}, or raise actor.processes"
        )


def _check_fresh(replay: ReplayConfig, fresh: int) -> None:
    if fresh > replay.fresh_unconsumed_max:
        raise SettingError(
            f"a batch takes {fresh} fresh records (learner.batch_size, learner.uniform_fraction), more than "
            f"replay.fresh_unconsumed_max = {replay.fresh_unconsumed_max} lets wait: the run would stand still"
        )


def _check_uniform(replay: ReplayConfig, fresh: int, uniform: int) -> None:
    """The learner draws from both tables in step, so a limiter that holds one of them back holds up both."""
    if uniform and replay.uniform_min_size > replay.fresh_unconsumed_max:
        raise SettingError(
            f"replay.uniform_min_size = {replay.uniform_min_size} exceeds replay.fresh_unconsumed_max = "
            f"{replay.fresh_unconsumed_max}: so many records would never be in the store before the first batch, and "
            "the run would stand still"
        )
    ratio = replay.uniform_samples_per_insert
    if ratio and not math.isclose(ratio, uniform / fresh, rel_tol=1e-6):
        raise SettingError(
            f"replay.uniform_samples_per_insert = {ratio}, but a batch of {fresh} fresh and {uniform} uniform records "
            f"(learner.batch_size, learner.uniform_fraction) draws {uniform / fresh} for each insert: the run would "
            "stand still sooner or later; set it to that, or to 0 for no limit"
        )
    if ratio and uniform > ratio_limiter(ratio, replay.uniform_min_size, replay.uniform_error_buffer).sample_batch_max:
        raise SettingError(
            f"replay.uniform_error_buffer = {replay.uniform_error_buffer} is too small for {uniform} uniform records "
            "in a batch: replay would refuse every request for them"
        )
