"""Checkpoints of the learner through orbax: parameters, optimizer state and progress, written in the background.

A checkpoint is complete or absent, never half: orbax commits it by a rename, and what a killed process left unfinished
is swept away at the next start. Each has a digest over all that is in it, because what was damaged on a disk may well
be readable. Where the newest is damaged the one before it is gone back to, with a warning, and the damaged one is put
aside. The directory is the run's own, never a temporary one.

Exceptions:
    CheckpointError    there are checkpoints, but none that this run can be continued from
    CheckpointFailed   one could not be written: raised by the next save, by wait or by close, and never swallowed
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from learner.progress import Progress
from learner.train_state import TrainState

DAMAGED = "damaged_checkpoints"
"""Directory beside the checkpoints for those that cannot be read."""

_UNFINISHED = ".orbax-checkpoint-tmp"
_DIGEST = "digest"

_log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint exists but cannot be continued from; the message says which and why."""


class CheckpointFailed(RuntimeError):
    """A checkpoint could not be written; the message says where and why."""


class _Damaged(Exception):
    """What is in a checkpoint is not what was written."""


class Checkpointer:
    """Saves and restores (TrainState, Progress) under one directory.

    Args:
      directory: made if it is not there; swept of what an earlier process left unfinished.
      kept: newest checkpoints kept.
      keep_updates: besides, checkpoints this many updates apart are kept for good; 0: none.

    Raises:
      CheckpointFailed: the directory cannot be made or swept.
    """

    def __init__(self, directory: Path, kept: int, keep_updates: int = 0) -> None:
        # Of a failed write it logs a page from each of its threads; all that is needed comes as CheckpointFailed.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        apart = [policies.EveryNSteps(keep_updates, exact_interval=False)] if keep_updates else []
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(kept), *apart]),
            create=True,
            enable_async_checkpointing=True,
        )
        self._directory = directory.absolute()
        self._kept = kept
        with self._writing():
            sweep_unfinished(self._directory)
            self._manager = ocp.CheckpointManager(self._directory, options=options)

    @property
    def oldest_updates(self) -> int:
        """Updates of the oldest checkpoint that may be gone back to; 0: there is none. Raises CheckpointFailed."""
        with self._writing():
            return min(self._complete()[-self._kept :], default=0)

    def save(self, state: TrainState, progress: Progress) -> None:
        """Starts writing a checkpoint at the state's update count; the arrays are copied before this returns.

        A checkpoint of this very update that exists already is kept. Raises CheckpointFailed also for what an earlier
        background write failed with.
        """
        with self._writing():
            self._manager.check_for_errors()
            step = int(state.updates)
            if step in self._manager.all_steps():
                return
            plain = progress.to_json()
            arguments = ocp.args.Composite(
                state=ocp.args.StandardSave(state._asdict()),
                layout=ocp.args.JsonSave(state_layout(state)),
                progress=ocp.args.JsonSave(plain | {_DIGEST: _digest_of(state, plain)}),
            )
            self._manager.save(step, args=arguments)

    def restore(self, like: TrainState) -> tuple[TrainState, Progress] | None:
        """The newest checkpoint that is not damaged, or None where there is none at all.

        Args:
          like: a state of the same structure, shapes and types.

        Raises:
          CheckpointError: the checkpoint has another structure, so it is of another configuration; or all of them are
            damaged.
          ProgressError: it was kept by another version.
        """
        steps = self._complete()
        for step in reversed(steps):
            try:
                return self._restored(step, like)
            except _Damaged as error:
                _log.warning("checkpoint %d in %s is damaged: %s", step, self._directory, error)
                if step == steps[0]:
                    raise CheckpointError(
                        f"no checkpoint in {self._directory} can be read, the oldest because {error}: put one of them "
                        "back from a copy, or start a new run directory"
                    ) from error
                self._put_aside(step)
        return None

    def wait(self) -> None:
        """Waits for the last write to be on disk. Raises CheckpointFailed."""
        with self._writing():
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def close(self) -> None:
        """Ends the background writer, after the write under way. Raises CheckpointFailed."""
        with self._writing():
            self._manager.close()

    def _complete(self) -> list[int]:
        return sorted(int(path.name) for path in self._directory.iterdir() if path.name.isdecimal())

    def _restored(self, step: int, like: TrainState) -> tuple[TrainState, Progress]:
        # Compared before any array is read, so that a misfit is one clear line and not a storage library's.
        beside = self._read(step, layout=ocp.args.JsonRestore(), progress=ocp.args.JsonRestore())
        held, wanted = beside.layout, state_layout(like)
        if held != wanted:
            name = min(name for name in held.keys() | wanted.keys() if held.get(name) != wanted.get(name))
            raise CheckpointError(
                f"checkpoint {step} in {self._directory} does not fit this run's network or optimizer: {name} is "
                f"{held.get(name, 'not there')}, wanted is {wanted.get(name, 'nothing')}"
            )
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like._asdict())
        state = TrainState(**self._read(step, state=ocp.args.StandardRestore(abstract)).state)
        plain = dict(beside.progress)
        # Of an earlier version there is none.
        digest = plain.pop(_DIGEST, "")
        if digest and digest != _digest_of(state, plain):
            raise _Damaged("its digest is another one than when it was written")
        return state, Progress.from_json(plain)

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # a storage library's, of many kinds
            raise _Damaged(f"it cannot be read ({_first_line(error)})") from error

    def _put_aside(self, step: int) -> None:
        aside = self._directory.with_name(DAMAGED)
        with self._writing():
            aside.mkdir(exist_ok=True)
            shutil.rmtree(aside / str(step), ignore_errors=True)
            (self._directory / str(step)).rename(aside / str(step))
            self._manager.reload()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a storage library's, of many kinds
            raise CheckpointFailed(
                f"a checkpoint in {self._directory} could not be written: {_first_line(error)}; the run ends, and can "
                "be resumed from the newest one that is complete"
            ) from error


def sweep_unfinished(directory: Path) -> None:
    """Removes what a killed process left of a checkpoint that it was writing. Raises OSError."""
    for path in directory.glob(f"*{_UNFINISHED}*"):
        shutil.rmtree(path)


def state_layout(state: TrainState) -> dict[str, str]:
    """Type and shape of every array of a state, by its path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _digest_of(state: TrainState, plain: dict[str, Any]) -> str:
    """Over every number of a checkpoint; of arrays that no single process holds whole, none."""
    digest = hashlib.blake2b(json.dumps(plain, sort_keys=True).encode(), digest_size=32)
    for leaf in jax.tree.leaves(state):
        if leaf.is_fully_addressable:
            digest.update(np.asarray(leaf).tobytes())
        elif leaf.is_fully_replicated:
            digest.update(np.asarray(leaf.addressable_data(0)).tobytes())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"
