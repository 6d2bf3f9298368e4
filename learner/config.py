"""Settings of the learner. What a setting is, and how its bounds are checked, is in `replay.settings`.

What they do, as formulas, is in docs/learning.md.

Exceptions: SettingError (replay.settings) from `check_learner`, for settings that do not go together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from policies.config import NetworkConfig
from replay.settings import SettingError, setting


@dataclass(frozen=True)
class LearnerConfig:
    """One learner process. Learning rates do not transfer from losses that sum over steps: ours averages."""

    batch_size: int = setting(32, "records in one update, B", low=1, high=65536)
    uniform_fraction: float = setting(
        0.0, "share of each batch drawn from the uniform table, the rest is fresh", low=0.0, below=1.0
    )
    burn_in: int = setting(
        0, "rows of each record that only bring a recurrent policy's state up to date, without loss", low=0, high=4096
    )
    discount: float = setting(0.99, "discount per step, gamma", low=0.0, high=1.0)
    trace_decay: float = setting(1.0, "lambda of V-trace, multiplies the trace coefficients", low=0.0, high=1.0)
    rho_clip: float = setting(1.0, "V-trace bound on the importance weight in the temporal difference", above=0.0)
    c_clip: float = setting(1.0, "V-trace bound on the importance weight in the trace", above=0.0)
    policy_gradient_rho_clip: float = setting(1.0, "bound on the importance weight of the policy gradient", above=0.0)
    value_cost: float = setting(0.5, "weight of the value loss", low=0.0)
    entropy_cost: float = setting(0.01, "weight of the entropy bonus at the start", low=0.0)
    entropy_cost_end: float = setting(0.01, "weight of the entropy bonus after anneal_updates", low=0.0)
    reward_scale: float = setting(1.0, "factor on the reward before anything else", above=0.0)
    reward_clip: float = setting(0.0, "bound on the scaled reward's magnitude; 0: none", low=0.0)
    cost_coefficient: float = setting(0.0, "what one unit of cost takes from the scaled reward", low=0.0)
    optimizer: str = setting("adam", "gradient method", choices=("adam", "rmsprop"))
    learning_rate: float = setting(1e-3, "step size at the start", above=0.0)
    learning_rate_end: float = setting(1e-3, "step size after anneal_updates", low=0.0)
    anneal_updates: int = setting(0, "updates over which step size and entropy move linearly; 0: constant", low=0)
    optimizer_epsilon: float = setting(1e-5, "epsilon in the optimizer's denominator", above=0.0)
    gradient_norm_max: float = setting(1.0, "gradients are scaled down to this global norm", above=0.0)
    prefetch_batches: int = setting(2, "batches asked for ahead of the update", low=1, high=64)
    sample_timeout_s: float = setting(1.0, "longest single wait for a batch before the learner looks around", above=0.0)
    snapshot_updates: int = setting(4, "updates between snapshots sent to the actors", low=1)
    lockstep: bool = setting(
        False,
        "acting and learning take turns, so that runs of one seed are equal, bit for bit, also where the learner was "
        "killed; needs one actor process and fresh records only",
    )
    candidate_interval_s: float = setting(2.0, "least time between two candidates", low=0.0)
    candidate_interval_updates: int = setting(
        0, "least number of updates between two candidates, besides; 0: no bound", low=0
    )
    candidate_return_min: float = setting(
        float("-inf"), "no candidate is offered while the recent training return is below this"
    )
    rollbacks_max: int = setting(
        5, "breaches of leases without a new release between them, at the last of which the run ends", low=1
    )
    evaluation_timeout_s: float = setting(120.0, "longest wait for a verdict", above=0.0)
    checkpoint_interval_s: float = setting(20.0, "time between checkpoints; one more at the end", above=0.0)
    checkpoints_kept: int = setting(2, "newest checkpoints kept", low=1)
    checkpoint_keep_updates: int = setting(
        0, "besides the newest, the first checkpoint in each so many updates is kept for good; 0: none", low=0
    )
    log_interval_s: float = setting(1.0, "time between lines of metrics", above=0.0)
    policy_loss: str = setting(
        "vtrace",
        "policy gradient weighted by V-trace, or PPO's clipped ratio on advantages from V-trace targets",
        choices=("vtrace", "ppo"),
    )
    ppo_clip: float = setting(0.2, "how far PPO's ratio may move from 1 before it earns nothing", above=0.0, below=1.0)
    target_updates: int = setting(
        0,
        "updates between copies of the parameters into a target network, which PPO's ratio (as in IMPACT) and the "
        "cloned value then refer to; 0: no target network",
        low=0,
    )
    upgo_cost: float = setting(0.0, "weight of a second policy gradient, with advantages of UPGO; 0: none", low=0.0)
    clear_policy_cost: float = setting(
        0.0, "weight of KL(mu || pi) on replayed steps, which keeps the policy near who acted (CLEAR)", low=0.0
    )
    clear_value_cost: float = setting(
        0.0, "weight of the distance to the target network's value on replayed steps (CLEAR)", low=0.0
    )
    trust_region_kl: float = setting(
        0.0, "replayed steps with a larger KL(mu || pi) than this teach nothing (LASER); 0: all do", low=0.0
    )
    cost_limit: float = setting(
        math.inf, "bound on the mean cost of an episode, kept by a price that adapts; inf: none", low=0.0
    )
    multiplier: float = setting(0.0, "the adapting price of one unit of cost at the start", low=0.0)
    multiplier_learning_rate: float = setting(
        0.01, "how fast the price moves with the cost per step that is beyond cost_limit", above=0.0
    )
    popart_rate: float = setting(
        0.0, "share of the newest batch in PopArt's moving averages of value targets; 0: no PopArt", low=0.0, below=1.0
    )
    normalizer_updates: int = setting(
        0, "updates after which the figures that observations are normalized by stay as they are; 0: never", low=0
    )
    staleness_max: int = setting(
        0, "records whose policy lags by more updates than this are dropped from their batch; 0: none", low=0
    )
    lag_alarm_lines: int = setting(
        30, "lines of metrics over which a policy lag that only climbs raises an alarm; 0: no alarm", low=0
    )

    @property
    def is_constrained(self) -> bool:
        """Whether the price of cost adapts."""
        return math.isfinite(self.cost_limit)

    @property
    def reads_behaviour(self) -> bool:
        """Whether the update needs the whole distribution that each action was drawn from."""
        return self.clear_policy_cost > 0 or self.trust_region_kl > 0

    @property
    def uniform_size(self) -> int:
        """Replayed records in a batch; at least one record is fresh, as V-trace on replay alone diverges."""
        return min(round(self.uniform_fraction * self.batch_size), self.batch_size - 1)


def check_learner(config: LearnerConfig, network: NetworkConfig) -> None:
    """Checks the settings that must fit together, each being within its bounds.

    Raises:
      SettingError: one has no meaning beside another.
    """
    for wrong, message in (*_replay_misfits(config), *_cost_misfits(config, network), *_other_misfits(config, network)):
        if wrong:
            raise SettingError(message)


def _replay_misfits(config: LearnerConfig) -> list[tuple[bool, str]]:
    values = {name: getattr(config, name) for name in ("clear_policy_cost", "clear_value_cost", "trust_region_kl")}
    return [
        (
            value > 0 and not config.uniform_size,
            f"learner.{name} = {value} concerns replayed records, and with learner.uniform_fraction = "
            f"{config.uniform_fraction} there are none in a batch of {config.batch_size}: raise that, or leave it at 0",
        )
        for name, value in values.items()
    ]


def _cost_misfits(config: LearnerConfig, network: NetworkConfig) -> list[tuple[bool, str]]:
    return [
        (
            config.is_constrained and not network.cost_value,
            f"learner.cost_limit = {config.cost_limit} needs a value of the cost to come: set network.cost_value",
        ),
        (
            config.is_constrained and config.cost_coefficient > 0,
            f"learner.cost_limit = {config.cost_limit} sets the price of cost by itself, and learner.cost_coefficient "
            f"= {config.cost_coefficient} would charge for it twice: leave one of them out",
        ),
        (
            config.multiplier > 0 and not config.is_constrained,
            f"learner.multiplier = {config.multiplier} is where an adapting price begins, and learner.cost_limit = inf "
            "asks for none: set that, or learner.cost_coefficient for a price that stays",
        ),
    ]


def _other_misfits(config: LearnerConfig, network: NetworkConfig) -> list[tuple[bool, str]]:
    return [
        (
            config.clear_value_cost > 0 and not config.target_updates,
            f"learner.clear_value_cost = {config.clear_value_cost} draws values to those of the target network, and "
            "learner.target_updates = 0 keeps none: set it",
        ),
        (
            config.target_updates > 0 and config.policy_loss != "ppo" and not config.clear_value_cost,
            f"learner.target_updates = {config.target_updates} keeps a target network that nothing refers to: set "
            "learner.policy_loss = 'ppo' or learner.clear_value_cost, or leave it at 0",
        ),
        (
            config.popart_rate > 0 and config.reward_clip > 0,
            f"learner.popart_rate = {config.popart_rate} adapts to the scale of rewards, and learner.reward_clip = "
            f"{config.reward_clip} cuts them to one: set one of them to 0",
        ),
        (
            config.normalizer_updates > 0 and not network.normalize_observations,
            f"learner.normalizer_updates = {config.normalizer_updates} ends what network.normalize_observations = "
            "false does not begin: set that, or leave it at 0",
        ),
        (
            config.lag_alarm_lines in (1, 2),
            f"learner.lag_alarm_lines = {config.lag_alarm_lines} is too few to see a trend: set 3 or more, or 0",
        ),
    ]
