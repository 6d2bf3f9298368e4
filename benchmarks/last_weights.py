"""Writes the weights with which a run's training ended as an artifact: what a system without a gate would hand out.

    python -m benchmarks.last_weights RUN_DIR ARTIFACT

They are taken from the learner's newest checkpoint, by a process of their own, because that needs JAX. The artifact is
byte for byte the run's last candidate.
"""

from __future__ import annotations

import sys
from pathlib import Path

from actors.environments.catalog import make_vector
from benchmarks.process_group import BenchmarkError
from launch.config_file import read_config
from launch.run_paths import RunPaths
from learner.checkpoint import Checkpointer
from learner.publisher import artifact_bytes
from learner.train_state import initial_state
from policies.spec import PolicySpec


def last_artifact(root: Path) -> bytes:
    """The newest checkpoint of a run that has ended, as an artifact. Raises BenchmarkError where there is none."""
    config = read_config(RunPaths(root).config)
    environment = make_vector(config.environment, 1)
    try:
        shape = environment.spec
    finally:
        environment.close()
    spec = PolicySpec(config.network, shape.observation, shape.action)
    checkpoints = Checkpointer(root / "learner" / "checkpoints", config.learner.checkpoints_kept)
    try:
        restored = checkpoints.restore(initial_state(spec, config.learner, config.seed))
    finally:
        checkpoints.close()
    if restored is None:
        raise BenchmarkError(f"the run in {root} left no checkpoint")
    return artifact_bytes(spec, restored[0])


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(last_artifact(Path(sys.argv[1])))
