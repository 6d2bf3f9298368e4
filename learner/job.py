"""What one learner process is asked to do: its settings, where its peers are, and when it is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from actors.config import EnvironmentConfig
from learner.config import LearnerConfig
from learner.distillation.config import DistillationConfig
from learner.distillation.teachers import TeacherSource
from policies.config import NetworkConfig


@dataclass(frozen=True)
class LearnerJob:
    """Everything `run_learner` needs. Directories are made if missing; addresses are "unix:PATH" or "HOST:PORT"."""

    learner: LearnerConfig
    network: NetworkConfig
    environment: EnvironmentConfig
    unroll_length: int
    """T: rows of a record, as the actors write them."""
    seed: int
    run_id: str
    """The training run's id, bound into leases and verdicts."""
    run_directory: Path
    replay_address: str
    safety_address: str
    listen_address: str
    """Where policy distribution is served."""
    trust_key_path: Path
    """PEM of the safety service's public key; may appear after this process has started."""
    target_return: float
    """The run ends with the first release whose evaluation return reaches this; a canary counts once it is promoted."""
    env_steps_max: int = 0
    """The run ends after this many environment steps; 0: no limit."""
    seconds_max: float = 0.0
    """The run ends after this many seconds; 0: no limit."""
    resume: bool = False
    """Continue from the newest checkpoint, if there is one."""
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    teachers: tuple[TeacherSource, ...] = ()
    """Where to find those that `distillation` names, in its order; each with its identity."""
