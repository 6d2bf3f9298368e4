"""Settings of the environment and of the actor processes, with their meaning and bounds. Nothing is computed here."""

from __future__ import annotations

import dataclasses

from replay.settings import setting


@dataclasses.dataclass(frozen=True)
class EnvironmentConfig:
    """Which environment, and how it is made. The actors and the safety evaluator make theirs from the same settings."""

    name: str = setting(
        "cartpole",
        "environment: cartpole, cartpole-edge, catch, catch-memory, minatar:GAME, minatar-cost:space_invaders, "
        "gym:ID or gym:MODULE:ID (MODULE is imported and registers ID)",
    )
    episode_steps_max: int = setting(
        0, "steps after which an episode is truncated; 0: the environment's own limit", low=0, high=10_000_000
    )
    cart_margin: float = setting(
        2.0,
        "cartpole and cartpole-edge only: a step that ends with the cart further than this from the centre costs 1",
        above=0,
        high=2.4,
    )


@dataclasses.dataclass(frozen=True)
class ActorConfig:
    """How many actor processes, and how each of them acts and streams."""

    processes: int = setting(1, "actor processes on this machine", low=1, high=1024)
    lanes: int = setting(32, "environments stepped together in one actor process", low=1, high=4096)
    unroll_length: int = setting(20, "T: environment steps in one record", low=1, high=10_000)
    inference: str = setting(
        "numpy",
        "where the policy runs: in the actor with numpy or with jax, or served by an inference service",
        choices=("numpy", "jax", "served"),
    )
    compression: str = setting(
        "none",
        "how payloads are encoded: none, or zstd, which pays where observations are images",
        choices=("none", "zstd"),
    )
    window_records: int = setting(
        128,
        "most records sent and not yet acknowledged, per process; more of them is more policy lag",
        low=1,
        high=10**6,
    )
    window_bytes: int = setting(
        64 * 1024 * 1024, "most payload bytes sent and not yet acknowledged, per process", low=1024, high=2**40
    )
    policy_wait_s: float = setting(
        300.0, "an actor process without an authorised policy for this long ends, and is started anew (s)", above=0
    )
    stop_s_max: float = setting(
        2.0, "time an actor process has to send what it holds and end in order, before it is killed (s)", above=0
    )
    restart_backoff_s_max: float = setting(
        10.0, "longest pause before an actor process that keeps failing is started again (s)", above=0
    )


@dataclasses.dataclass(frozen=True)
class AuditConfig:
    """The auditor: a process that re-executes records in their environment while the run goes on."""

    fraction: float = setting(
        0.01,
        "share of the records that are re-executed and marked verified or mismatch; 0: no auditor",
        low=0.0,
        high=1.0,
    )
