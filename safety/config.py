"""Settings of the safety service, with their meaning and bounds. Nothing is computed here."""

from __future__ import annotations

import dataclasses

from replay.settings import setting


@dataclasses.dataclass(frozen=True)
class SafetyConfig:
    """What a candidate must show before it is released, what a snapshot's lease depends on, and the evaluator's limits.

    The first six settings are the suite and the criteria: a verdict binds their digests.
    """

    episodes: int = setting(100, "held-out episodes on which each candidate is evaluated", low=2, high=100_000)
    action_selection: str = setting(
        "sample",
        "how an evaluated policy acts: sample its distribution, as actors do, or take the likeliest action",
        choices=("sample", "greedy"),
    )
    confidence: float = setting(0.95, "one-sided confidence of each criterion's bound", above=0.5, below=1)
    violation_rate_max: float = setting(
        0.1, "most episodes with any cost, as a rate; the upper confidence bound must not exceed it", above=0, high=1
    )
    return_margin: float = setting(
        0.05, "loss of mean return to the incumbent release that is accepted, as a share of its absolute value", low=0
    )
    return_margin_absolute: float = setting(
        0.0, "the same in units of return; the greater of the two margins counts", low=0
    )
    lanes_max: int = setting(256, "most episodes that the evaluator runs at a time", low=1, high=4096)
    evaluation_s_max: float = setting(
        120.0, "a policy whose episodes take longer than this in all is rejected (s)", above=0
    )
    worker_memory_bytes_max: int = setting(
        4 * 1024**3, "address space of the evaluator process (bytes)", low=256 * 1024**2, high=2**44
    )
    artifact_bytes_max: int = setting(
        64 * 1024**2, "a larger candidate is rejected unread (bytes)", low=1024, high=2**32
    )
    queue_max: int = setting(4, "most candidates waiting; one more is turned away, not judged", low=1, high=1024)
    verdict_s_valid: float = setting(
        30 * 86_400.0, "time after which actors refuse a verdict (s)", low=1, high=10 * 365 * 86_400
    )
    lease_s: float = setting(10.0, "time for which one lease lets actors use snapshots (s)", low=0.1, high=3600)
    lease_violation_rate_max: float = setting(
        1.0,
        "no lease while the lower confidence bound of the training violation rate is above it; 1: never so",
        above=0,
        high=1,
    )
    lease_window_episodes: int = setting(
        500, "recent training episodes that the violation rate is taken over", low=1, high=10_000_000
    )
    monitor_poll_s: float = setting(1.0, "time between two looks at the training violations (s)", low=0.01, high=3600)
    monitor_stale_s_max: float = setting(
        30.0, "no lease once replay has not told the training violations for this long (s)", above=0
    )
