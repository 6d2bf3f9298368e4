"""Settings of the learner. What a setting is, and how its bounds are checked, is in `replay.settings`."""

from __future__ import annotations

from dataclasses import dataclass

from replay.settings import setting


@dataclass(frozen=True)
class LearnerConfig:
    """One learner process. Learning rates do not transfer from losses that sum over steps: ours averages."""

    batch_size: int = setting(32, "records in one update, B", low=1, high=65536)
    uniform_fraction: float = setting(
        0.0, "share of each batch drawn from the uniform table, the rest is fresh", low=0.0, below=1.0
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
