"""A checkpoint of a version that kept its progress differently: one clear line, and no half restored run."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.config import EnvironmentConfig
from learner.checkpoint import Checkpointer, CheckpointError
from learner.job import LearnerJob
from learner.process import _starting_point
from learner.progress import Progress
from learner.train_state import initial_state
from tests.learner.test_learner_update import CONFIG, SPEC


class OldProgress(Progress):
    """What the first version wrote."""

    def to_json(self) -> dict[str, object]:
        plain = super().to_json() | {"consumed": [[0, 9]]}
        del plain["provenance"]
        return plain


@pytest.mark.parametrize("resume", [False, True])
def test_it_is_refused_by_name(tmp_path: Path, resume: bool) -> None:
    checkpoints = Checkpointer(tmp_path / "checkpoints", kept=1)
    state = initial_state(SPEC, CONFIG, seed=0)
    checkpoints.save(state, OldProgress(seed=0))
    checkpoints.wait()
    job = LearnerJob(
        learner=CONFIG,
        network=SPEC.network,
        environment=EnvironmentConfig(),
        unroll_length=2,
        seed=0,
        run_id="run",
        run_directory=tmp_path,
        replay_address="",
        safety_address="",
        listen_address="",
        trust_key_path=tmp_path,
        target_return=1.0,
        resume=resume,
    )
    try:
        if resume:
            with pytest.raises(CheckpointError, match=r"cannot be continued from: .*another version of temper"):
                _starting_point(job, state, checkpoints)
        else:
            assert _starting_point(job, state, checkpoints)[1].updates == 0
    finally:
        checkpoints.close()
