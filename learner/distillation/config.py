"""Settings of distillation. What a teacher's name stands for is for whoever starts the run to find out.

Exceptions: replay.settings.SettingError from `check_distillation`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from replay.settings import SettingError, setting


@dataclass(frozen=True)
class DistillationConfig:
    """From whom a run learns besides its environment's reward, and how. Without teachers nothing of it counts."""

    teachers: tuple[str, ...] = setting(
        (), "released policies to learn from: RUN_DIR, its newest release, or RUN_DIR@NUMBER; empty: none"
    )
    identities: tuple[str, ...] = setting(
        (), "who they are, RUN_ID@NUMBER:DIGEST; filled in when the run begins, and binding from then on"
    )
    weights: tuple[float, ...] = setting(
        (), "weight of the divergence from each teacher in the loss; empty: equal ones that sum to 1", above=0.0
    )
    mode: str = setting(
        "on_policy",
        "whose steps: the student acts and the teachers score that, or records of the teachers' runs, without actors",
        choices=("on_policy", "offline"),
    )
    kl: str = setting(
        "full",
        "the divergence over all actions, or its estimate from the action taken, as an advantage (on_policy only)",
        choices=("full", "sampled"),
    )
    targets: str = setting(
        "rescored",
        "offline: the teachers score every record, or each record is scored by what it says of the teacher that acted",
        choices=("rescored", "recorded"),
    )
    records_filter: str = setting(
        "", "offline: which records of the teachers' runs, as a filter, e.g. policy_version >= 1000; empty: all"
    )
    reward_weight: float = setting(0.0, "weight of the policy gradient of the environment's reward", low=0.0)
    temperature: float = setting(
        1.0, "by which the logits of student and teachers are divided in the divergence over all actions", above=0.0
    )
    candidate_divergence_max: float = setting(
        math.inf, "no candidate is offered while the divergence of the last update is above this (nats)", above=0.0
    )

    @property
    def offline(self) -> bool:
        """Whether it learns from what the teachers' runs have left, and nobody acts."""
        return bool(self.teachers) and self.mode == "offline"

    @property
    def teacher_weights(self) -> tuple[float, ...]:
        """The weight of each teacher."""
        return self.weights or tuple(1.0 / len(self.teachers) for _ in self.teachers)


def check_distillation(config: DistillationConfig) -> None:
    """Checks that the settings go together. Raises SettingError."""
    for name in ("weights", "identities"):
        count = len(getattr(config, name))
        if count and count != len(config.teachers):
            raise SettingError(
                f"distillation.{name} has {count} elements for {len(config.teachers)} teachers: give one each, or none"
            )
    if len(set(config.teachers)) < len(config.teachers):
        raise SettingError(f"distillation.teachers = {config.teachers!r} names one twice: give it a weight instead")
    if config.kl == "sampled" and config.mode == "offline":
        raise SettingError(
            "distillation.kl = 'sampled' is about the actions that the student takes itself, and in mode 'offline' it "
            "takes none: use 'full'"
        )
    if config.kl == "sampled" and config.temperature != 1.0:
        raise SettingError(
            f"distillation.temperature = {config.temperature} does not go with kl = 'sampled': actions are drawn at 1"
        )
    if config.mode != "offline" and (config.targets == "recorded" or config.records_filter):
        raise SettingError(
            "distillation.targets = 'recorded' and distillation.records_filter are about records of the teachers' "
            "runs: they need mode 'offline'"
        )
