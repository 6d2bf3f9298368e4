"""Settings of the safety service, with their meaning and bounds. Nothing is computed here."""

from __future__ import annotations

import dataclasses
import math

from replay.settings import setting


@dataclasses.dataclass(frozen=True)
class SafetyConfig:
    """What a candidate must show before it is released, what leases and canaries depend on, the evaluator's limits.

    The settings up to `sensitivity_min` are suite and criteria: a verdict binds their digests. A suite file replaces
    them.
    """

    suite: str = setting("", "path of a suite file (TOML); empty: one slice, made from the settings below")
    episodes: int = setting(
        100,
        "held-out episodes of a slice on which the tests of fixed size rest, for the first candidate; it grows as "
        "episodes_max does; with fewer, a candidate equal to the incumbent may never be shown to be",
        low=2,
        high=100_000,
    )
    episodes_max: int = setting(
        300,
        "most episodes of a slice, at least safety.episodes, for the sequential tests, which end early where the "
        "evidence suffices; grows with the logarithm of a candidate's smaller share of the error rate",
        low=2,
        high=1_000_000,
    )
    action_selection: str = setting(
        "sample",
        "how an evaluated policy acts: sample its distribution, as actors do, or take the likeliest action",
        choices=("sample", "greedy"),
    )
    error_rate: float = setting(
        0.05,
        "chance, over all candidates of the run together, to release one that is above a limit",
        low=1e-6,
        below=0.5,
    )
    error_schedule: str = setting(
        "recycle",
        "how the candidates share it: spend 6/(pi k)^2 of it on candidate k, or also recycle what approved ones used",
        choices=("recycle", "spend"),
    )
    violation_rate_max: float = setting(
        0.1, "most episodes with a severe event, as a rate; it must be shown to be below", above=0, below=1
    )
    risk_margin: float = setting(
        0.1, "increase of that rate over the incumbent release that is accepted", above=0, below=1
    )
    risk_budget: float = setting(
        math.inf, "most severity-weighted cost of an episode, as a mean; inf: not limited", above=0
    )
    return_margin: float = setting(
        0.05, "loss of mean return to the incumbent release that is accepted, as a share of its absolute value", low=0
    )
    return_margin_absolute: float = setting(
        0.0, "the same in units of return; the greater of the two margins counts", low=0
    )
    patience: int = setting(
        3, "candidates in a row that may be deferred because they lost nothing but return", low=0, high=1000
    )
    planted_violations: int = setting(
        60,
        "episodes with a planted violation, per slice and evaluation, that judge the detector; later ones have more",
        low=1,
        high=100_000,
    )
    planted_clean: int = setting(20, "planted episodes without one, likewise", low=1, high=100_000)
    sensitivity_min: float = setting(
        0.8, "least share of planted violations that the detector must be shown to find", above=0, below=1
    )
    lanes: int = setting(
        64, "episodes run side by side, and between two looks of the sequential tests", low=1, high=4096
    )
    workers: int = setting(1, "evaluator processes side by side; the verdict does not depend on it", low=1, high=64)
    evaluation_s_max: float = setting(
        120.0,
        "a policy whose episodes take longer than this in all is rejected (s); it grows as episodes_max does",
        above=0,
    )
    worker_memory_bytes_max: int = setting(
        4 * 1024**3, "address space of an evaluator process (bytes)", low=256 * 1024**2, high=2**44
    )
    readable: tuple[str, ...] = setting(
        (), "directories that the evaluator's process may read besides the interpreter, its packages and libraries"
    )
    artifact_bytes_max: int = setting(
        64 * 1024**2, "a larger candidate is rejected unread (bytes)", low=1024, high=2**32
    )
    evidence_bytes_max: int = setting(
        256 * 1024**2,
        "room for the evidence of verdicts and for the artifacts of candidates that were not released; the oldest go "
        "first (bytes)",
        low=0,
        high=2**44,
    )
    queue_max: int = setting(4, "most candidates waiting; one more is turned away, not judged", low=1, high=1024)
    verdict_s_valid: float = setting(
        30 * 86_400.0, "time after which actors refuse a verdict (s)", low=1, high=10 * 365 * 86_400
    )
    lease_s: float = setting(10.0, "time for which one lease lets actors use snapshots (s)", low=0.1, high=3600)
    lease_violation_rate_max: float = setting(
        1.0,
        "a lease is taken back once the training episodes of snapshots show a greater rate of violations; 1: never",
        above=0,
        high=1,
    )
    lease_error_rate: float = setting(
        0.01, "chance that a lease is ever taken back although the rate is not above that", low=1e-9, high=0.5
    )
    monitor_poll_s: float = setting(1.0, "time between two looks at the training violations (s)", low=0.01, high=3600)
    monitor_stale_s_max: float = setting(
        30.0, "no lease once replay has not told the training violations for this long (s)", above=0
    )
    canary_share: float = setting(
        0.0, "share of the actors that act with a release before all others may; 0: no canary", low=0, below=1
    )
    canary_violation_rate_max: float = setting(
        0.2, "most episodes of a canary with any cost, as a rate; it must be shown to be below", above=0, below=1
    )
    canary_error_rate: float = setting(
        0.05, "chance to promote a canary that is above that, and to roll back one below half of it", above=0, high=0.5
    )
    canary_episodes_max: int = setting(
        500, "episodes of a canary without enough evidence after which it is rolled back", low=1, high=10_000_000
    )
    canary_s_max: float = setting(
        3600.0, "time without enough evidence after which a canary is rolled back (s)", above=0
    )
