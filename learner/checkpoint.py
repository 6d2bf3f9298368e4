"""Checkpoints of the learner through orbax: parameters, optimizer state and progress, written in the background.

A checkpoint is complete or absent, never half: orbax commits it by a rename. An error while writing surfaces at the
next save or at close, and is not swallowed. The directory is the run's own, never a temporary one.

Exceptions: CheckpointError when there is a checkpoint that does not fit this run.
"""

from __future__ import annotations

import logging
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from learner.progress import Progress
from learner.train_state import TrainState


class CheckpointError(ValueError):
    """A checkpoint exists but cannot be continued from; the message says which and why."""


class Checkpointer:
    """Saves and restores (TrainState, Progress) under one directory, keeping the newest few."""

    def __init__(self, directory: Path, kept: int) -> None:
        logging.getLogger("absl").setLevel(logging.WARNING)
        options = ocp.CheckpointManagerOptions(max_to_keep=kept, create=True, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)
        self._directory = directory

    def save(self, state: TrainState, progress: Progress) -> None:
        """Starts writing a checkpoint at the state's update count; the arrays are copied before this returns.

        A checkpoint of this very update that exists already is kept. Raises whatever an earlier background write
        failed with.
        """
        self._manager.check_for_errors()
        step = int(state.updates)
        if step in self._manager.all_steps():
            return
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(state._asdict()),
            layout=ocp.args.JsonSave(state_layout(state)),
            progress=ocp.args.JsonSave(progress.to_json()),
        )
        self._manager.save(step, args=arguments)

    def restore(self, like: TrainState) -> tuple[TrainState, Progress] | None:
        """The newest checkpoint, or None where there is none.

        Args:
          like: a state of the same structure, shapes and types.

        Raises:
          CheckpointError: the newest checkpoint has another structure, so it is of another configuration.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        # Compared before any array is read, so that a misfit is one clear line and not a storage library's.
        beside = self._manager.restore(
            step, args=ocp.args.Composite(layout=ocp.args.JsonRestore(), progress=ocp.args.JsonRestore())
        )
        held, wanted = beside.layout, state_layout(like)
        if held != wanted:
            name = min(name for name in held.keys() | wanted.keys() if held.get(name) != wanted.get(name))
            raise CheckpointError(
                f"checkpoint {step} in {self._directory} does not fit this run's network or optimizer: {name} is "
                f"{held.get(name, 'not there')}, wanted is {wanted.get(name, 'nothing')}"
            )
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like._asdict())
        arrays = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))
        return TrainState(**arrays.state), Progress.from_json(beside.progress)

    def wait(self) -> None:
        """Waits for the last write to be on disk. Raises what it failed with."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()

    def close(self) -> None:
        """Ends the background writer, after the write under way."""
        self._manager.close()


def state_layout(state: TrainState) -> dict[str, str]:
    """Type and shape of every array of a state, by its path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}
