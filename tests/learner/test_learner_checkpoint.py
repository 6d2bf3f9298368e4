"""Checkpoints on a real disk: bitwise continuation, retention, and what does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from learner.checkpoint import Checkpointer, CheckpointError
from learner.config import LearnerConfig
from learner.progress import Progress
from learner.train_state import TrainState, initial_state
from learner.update import make_update
from policies.config import NetworkConfig
from policies.spaces import array_space, discrete
from policies.spec import PolicySpec
from tests.learner.test_learner_update import CONFIG, SPEC, rewarding_action_one


def leaves(state: TrainState) -> list[np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def test_continues_bitwise_as_if_never_interrupted(tmp_path: Path) -> None:
    update, rng = make_update(SPEC, CONFIG), np.random.default_rng(0)
    batches = [rewarding_action_one(rng) for _ in range(10)]
    state = initial_state(SPEC, CONFIG, seed=0)
    progress = Progress(seed=0, updates=5, env_steps=123)
    progress.consumed.add([0, 1, 2, 7])
    progress.add_lags(np.array([1.0, 3.0]))
    progress.replay_counters = {"fresh/inserts": 12.0}
    checkpoints = Checkpointer(tmp_path / "checkpoints", kept=2)
    for index, batch in enumerate(batches):
        if index == 5:
            checkpoints.save(state, progress)
        state, _ = update(state, batch)
    checkpoints.wait()
    checkpoints.close()

    reopened = Checkpointer(tmp_path / "checkpoints", kept=2)
    restored = reopened.restore(initial_state(SPEC, CONFIG, seed=99))
    assert restored is not None
    resumed, resumed_progress = restored
    assert resumed_progress.to_json() == progress.to_json()
    for batch in batches[5:]:
        resumed, _ = update(resumed, batch)
    for expected, actual in zip(leaves(state), leaves(resumed), strict=True):
        np.testing.assert_array_equal(expected, actual)
    reopened.close()


def test_keeps_the_newest_and_saving_twice_is_harmless(tmp_path: Path) -> None:
    update, rng = make_update(SPEC, CONFIG), np.random.default_rng(0)
    state = initial_state(SPEC, CONFIG, seed=0)
    checkpoints = Checkpointer(tmp_path, kept=2)
    for _ in range(4):
        state, _ = update(state, rewarding_action_one(rng))
        checkpoints.save(state, Progress(seed=0, updates=int(state.updates)))
    checkpoints.save(state, Progress(seed=0))
    checkpoints.wait()
    restored = checkpoints.restore(state)
    assert restored is not None
    assert int(restored[0].updates) == 4
    assert sorted(int(path.name) for path in tmp_path.iterdir() if path.name.isdecimal()) == [3, 4]
    checkpoints.close()


def test_nothing_there_is_none(tmp_path: Path) -> None:
    checkpoints = Checkpointer(tmp_path, kept=1)
    assert checkpoints.restore(initial_state(SPEC, CONFIG, seed=0)) is None
    checkpoints.close()


@pytest.mark.parametrize(
    "spec,config",
    [
        (PolicySpec(NetworkConfig(hidden_sizes=(8,)), array_space((3,), "<f4"), discrete(2)), CONFIG),
        (PolicySpec(NetworkConfig(hidden_sizes=(16, 16)), array_space((3,), "<f4"), discrete(2)), CONFIG),
        (SPEC, replace(CONFIG, optimizer="rmsprop")),
    ],
)
def test_of_another_configuration_is_refused(tmp_path: Path, spec: PolicySpec, config: LearnerConfig) -> None:
    checkpoints = Checkpointer(tmp_path, kept=1)
    checkpoints.save(initial_state(SPEC, CONFIG, seed=0), Progress(seed=0))
    checkpoints.wait()
    with pytest.raises(CheckpointError, match="does not fit"):
        checkpoints.restore(initial_state(spec, config, seed=0))
    checkpoints.close()
