"""Checkpoints on a real disk: bitwise continuation, retention, what does not fit, damage, kills and a full disk."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learner.checkpoint import DAMAGED, Checkpointer, CheckpointError
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


def saved(directory: Path, *updates: int) -> None:
    """Leaves checkpoints of these update counts, each of parameters of its own."""
    checkpoints = Checkpointer(directory, kept=len(updates))
    for count in updates:
        state = initial_state(SPEC, CONFIG, seed=count)._replace(updates=jnp.asarray(count, jnp.int32))
        checkpoints.save(state, Progress(seed=0, updates=count))
    checkpoints.close()


def largest_file(directory: Path) -> Path:
    return max((path for path in directory.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


# When one of several reads fails, the storage library closes its loop before the others have ended.
closed_loops = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@closed_loops
@pytest.mark.parametrize("damage", ["cut", "changed", "removed", "progress"])
def test_of_a_damaged_one_it_goes_back_to_the_one_before_and_puts_it_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    directory = tmp_path / "checkpoints"
    saved(directory, 3, 5)
    if damage == "progress":
        path = next((directory / "5" / "progress").glob("metadata"))
        path.write_text(path.read_text().replace('"env_steps": 0', '"env_steps": 1'))
    else:
        # All of them: what is read of a file, and which of two copies, is the storage library's business.
        for path in (directory / "5" / "state").rglob("d/*"):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(bytes(data[: len(data) // 2]) if damage == "cut" else bytes(data))
            if damage == "removed":
                path.unlink()
    checkpoints = Checkpointer(directory, kept=2)
    restored = checkpoints.restore(initial_state(SPEC, CONFIG, seed=0))
    assert restored is not None
    assert (int(restored[0].updates), restored[1].updates) == (3, 3)
    assert "checkpoint 5" in caplog.text
    assert "is damaged" in caplog.text
    assert (tmp_path / DAMAGED / "5").is_dir()
    # Of the same update it can be written again.
    checkpoints.save(restored[0]._replace(updates=jnp.asarray(5, jnp.int32)), Progress(seed=0, updates=5))
    checkpoints.close()
    again = Checkpointer(directory, kept=2)
    restored = again.restore(initial_state(SPEC, CONFIG, seed=0))
    assert restored is not None
    assert restored[1].updates == 5
    again.close()


@closed_loops
def test_where_all_are_damaged_it_says_so_in_one_line_and_touches_none(tmp_path: Path) -> None:
    saved(tmp_path / "checkpoints", 3)
    largest_file(tmp_path / "checkpoints" / "3" / "state").write_bytes(b"")
    for _ in range(2):
        checkpoints = Checkpointer(tmp_path / "checkpoints", kept=2)
        with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be read") as failed:
            checkpoints.restore(initial_state(SPEC, CONFIG, seed=0))
        assert "\n" not in str(failed.value)
        checkpoints.close()


def test_those_so_many_updates_apart_are_kept_for_good(tmp_path: Path) -> None:
    checkpoints = Checkpointer(tmp_path, kept=1, keep_updates=10)
    for count in (1, 4, 9, 12, 15, 24, 30):
        state = initial_state(SPEC, CONFIG, seed=0)._replace(updates=jnp.asarray(count, jnp.int32))
        checkpoints.save(state, Progress(seed=0, updates=count))
    checkpoints.wait()
    assert sorted(int(path.name) for path in tmp_path.iterdir() if path.name.isdecimal()) == [1, 12, 24, 30]
    assert checkpoints.oldest_updates == 30
    checkpoints.close()


WRITER = """
import sys
from pathlib import Path
import jax.numpy as jnp
from learner.checkpoint import Checkpointer
from learner.progress import Progress
from learner.train_state import initial_state
from tests.learner.test_learner_update import CONFIG, SPEC
checkpoints = Checkpointer(Path(sys.argv[1]), kept=2)
state = initial_state(SPEC, CONFIG, seed=0)
if sys.argv[2] == "full":
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
print("ready", flush=True)
for count in range(1, 10**6):
    checkpoints.save(state._replace(updates=jnp.asarray(count, jnp.int32)), Progress(seed=0, updates=count))
"""


def test_what_a_killed_writer_left_unfinished_is_swept_at_the_next_start(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), "kill"], stdout=subprocess.PIPE) as writer:
        deadline_s = time.monotonic() + 60
        # Most of its time goes into the writing, so that it is soon caught at it.
        while not unfinished(tmp_path) or not any(path.name.isdecimal() for path in tmp_path.iterdir()):
            assert time.monotonic() < deadline_s
            time.sleep(0.001)
        os.kill(writer.pid, signal.SIGKILL)
    (tmp_path / "1000000000.orbax-checkpoint-tmp").mkdir()  # whichever it was caught at, this one is there
    checkpoints = Checkpointer(tmp_path, kept=2)
    assert not unfinished(tmp_path)
    restored = checkpoints.restore(initial_state(SPEC, CONFIG, seed=1))
    assert restored is not None
    assert int(restored[0].updates) == restored[1].updates > 0
    checkpoints.close()


def unfinished(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if not path.name.isdecimal()] if directory.exists() else []


def test_a_writer_that_cannot_write_fails_with_a_clear_error(tmp_path: Path) -> None:
    """As on a full disk: every write beyond a few bytes is refused."""
    command = [sys.executable, "-c", WRITER, str(tmp_path), "full"]
    writer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert writer.returncode == 1
    # Not always the last line: threads of the storage library's may complain of their closed loop after it.
    said = [line for line in writer.stderr.splitlines() if line.startswith("learner.checkpoint.CheckpointFailed: ")]
    assert said, writer.stderr
    assert re.search("a checkpoint in .* could not be written", said[-1])
