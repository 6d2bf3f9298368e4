"""One run's directory: who may use it, and whether it can begin or go on.

A run directory is locked with flock(2) on RUN_DIR/lock by the supervisor, and the descriptor is inherited by every
process that it starts: the directory stays in use until the last of them has gone, even when the supervisor was killed.
What lies where in it is in launch.run_paths.

Exceptions: launch.errors.RunDirectoryError; KeyFileError (policies.signing).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import uuid
from pathlib import Path
from types import TracebackType

from launch.config import RunConfig
from launch.config_file import read_config, write_config
from launch.errors import RunDirectoryError
from launch.run_paths import RunPaths, check_keys, check_shards
from policies.durable import replace_file


def holder_of(paths: RunPaths) -> str | None:
    """Process id (as text) of the supervisor whose run holds the lock, or None when nobody does."""
    try:
        descriptor = os.open(paths.lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
    finally:
        os.close(descriptor)
    return None


class RunDirectory:
    """A run directory that this process holds the lock of. Use as a context manager."""

    def __init__(self, root: Path) -> None:
        """Creates the directory where needed and takes its lock.

        Raises:
          RunDirectoryError: somebody else holds it, or it cannot be made.
        """
        self.paths = RunPaths(root.absolute())
        try:
            self.paths.root.mkdir(parents=True, exist_ok=True)
            self._made_lock = not self.paths.lock.exists()
            self.lock_descriptor = os.open(self.paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise RunDirectoryError(f"run directory {root} cannot be used: {error.strerror}") from None
        try:
            fcntl.flock(self.lock_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self.lock_descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(self.lock_descriptor)
            raise RunDirectoryError(
                f"run directory {root} is in use by process {holder}, or by one that it started: wait for it to end, "
                "or choose another --run-dir"
            ) from None
        except OSError as error:
            os.close(self.lock_descriptor)
            raise RunDirectoryError(
                f"run directory {root} cannot be locked: {error.strerror}; choose one on a local disk"
            ) from None
        written = os.pread(self.lock_descriptor, 32, 0).strip()
        if not written or written.isdigit():
            # Otherwise the file is somebody else's that happens to have this name.
            os.ftruncate(self.lock_descriptor, 0)
            os.pwrite(self.lock_descriptor, f"{os.getpid()}\n".encode(), 0)

    def begin(self, config: RunConfig) -> str:
        """Makes this a new run of `config` and returns its run id.

        Raises:
          RunDirectoryError: the directory holds a run already, or files that are no run's.
          KeyFileError: the private keys of its gate would not be apart from it.
        """
        paths = self.paths
        if paths.config.exists():
            existing = read_config(paths.config).recipe
            if existing != config.recipe:
                raise RunDirectoryError(
                    f"run directory {paths.root} holds a run of recipe {existing!r}, not {config.recipe!r}: "
                    "choose another --run-dir"
                )
            state = "a finished run" if paths.summary.exists() else "an unfinished run"
            raise RunDirectoryError(
                f"run directory {paths.root} holds {state}: continue it with --resume, or choose another --run-dir"
            )
        if any(entry != paths.lock for entry in paths.root.iterdir()):
            raise RunDirectoryError(
                f"run directory {paths.root} is not empty and holds no run: choose another --run-dir"
            )
        run_id = uuid.uuid4().hex
        check_keys(paths, run_id)
        paths.logs.mkdir()
        paths.run_id.write_text(run_id + "\n", encoding="utf-8")
        # Last, because it is what makes the directory a run.
        write_config(self._with_suite(config), paths.config)
        return run_id

    def resumable_config(self, recipe: str) -> RunConfig:
        """The settings of the run in this directory.

        Raises:
          RunDirectoryError: it holds no run, or one of another recipe.
        """
        if not self.paths.config.is_file() or not self.paths.run_id.is_file():
            raise RunDirectoryError(f"{self.paths.root} holds no run to resume: leave --resume out")
        existing = read_config(self.paths.config)
        if existing.recipe != recipe:
            raise RunDirectoryError(
                f"run directory {self.paths.root} holds a run of recipe {existing.recipe!r}, not {recipe!r}: "
                "resume it with its own recipe"
            )
        return existing

    def resume(self, config: RunConfig) -> str:
        """Makes this process continue the run with `config`, and returns the run id.

        Raises:
          RunDirectoryError: there is no run to resume, or it differs in what a checkpoint depends on.
          KeyFileError: the private keys of its gate are missing, or not apart from it.
        """
        paths = self.paths
        existing = self.resumable_config(config.recipe)
        for section in ("environment", "network"):
            if getattr(existing, section) != getattr(config, section):
                raise RunDirectoryError(
                    f"the {section}.* settings differ from those of the run in {paths.root}: a run keeps its "
                    f"{section}; start a new one"
                )
        if existing.distillation.identities != config.distillation.identities:
            raise RunDirectoryError(
                f"distillation.teachers are others than those of the run in {paths.root}: a run keeps its teachers; "
                "start a new one"
            )
        if existing.actor.unroll_length != config.actor.unroll_length:
            raise RunDirectoryError(
                f"actor.unroll_length = {config.actor.unroll_length}, but the records of the run in {paths.root} have "
                f"{existing.actor.unroll_length} rows: a run keeps its unroll_length; start a new one"
            )
        check_shards(paths, config.replay.shards)
        run_id = paths.run_id.read_text(encoding="utf-8").strip()
        check_keys(paths, run_id)
        paths.logs.mkdir(exist_ok=True)
        for stale in (paths.summary, paths.final, paths.failure):
            stale.unlink(missing_ok=True)
        write_config(self._with_suite(config), paths.config)
        return run_id

    def _with_suite(self, config: RunConfig) -> RunConfig:
        """The settings with a copy of the suite file in this directory: what was tested can be read here later, and a
        run that goes on is not judged by what has become of the file since."""
        if not config.safety.suite:
            return config
        source, own = Path(config.safety.suite), self.paths.suite.absolute()
        if source.exists() and source.absolute() != own:
            replace_file(own, source.read_bytes())
        return dataclasses.replace(config, safety=dataclasses.replace(config.safety, suite=str(own)))

    def close(self) -> None:
        """Gives the lock back; of a directory that never became a run nothing is left that was not there before."""
        if self._made_lock and not self.paths.config.exists():
            self.paths.lock.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.paths.root.rmdir()
        os.close(self.lock_descriptor)

    def __enter__(self) -> RunDirectory:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Gives the lock back."""
        self.close()
