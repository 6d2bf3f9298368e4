"""Environment seeds of training episodes: derived, never drawn, and never those of the safety evaluation.

Training seeds lie in [0, 2**62), the evaluation's in [2**62, 2**63): disjoint by construction, so that no candidate is
judged on an episode that it could have been trained on.
"""

from __future__ import annotations

import hashlib

TRAINING_SEED_END = 2**62
"""Every training seed is below it."""

EVALUATION_SEED_END = 2**63
"""Every evaluation seed is below it, and at least TRAINING_SEED_END."""


def training_seed(run_seed: int, actor_id: str, run_id: str, lane: int, episode: int) -> int:
    """The seed with which one training episode is reset, in [0, 2**62).

    The same arguments give the same seed on every machine and version: the top 62 bits of a SHA-256 over them.

    Args:
      run_seed: seed of the training run.
      actor_id: name of the actor.
      run_id: fresh for each start of the actor process, so that a restarted actor meets new episodes.
      lane: environment slot in the process.
      episode: number of the episode in that lane.
    """
    # JSON-like quoting is not needed: neither an actor id nor a run id may hold a line feed.
    text = f"temper.training-seed.v1\n{run_seed}\n{actor_id}\n{run_id}\n{lane}\n{episode}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 2


def acting_seed(run_seed: int, actor_id: str, run_id: str) -> int:
    """The seed of the generator that draws an actor process's actions, in [0, 2**64)."""
    text = f"temper.acting-seed.v1\n{run_seed}\n{actor_id}\n{run_id}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
