"""The directory of a sweep: who may use it, what lies where in it, and whether a sweep can begin or go on there.

    base.toml            the settings that all runs share
    plan.json            which runs there are
    NAME/seed-K/         a run directory
    NAME/seed-K.log      what its `temper train` printed
    sweep.json           what the runs came to
    curves.png, tensorboard/NAME/    their returns over environment steps
    lock                 locked while the sweep or one of its runs lives

Exceptions: SweepDirectoryError; those of launch.sweep.plan and launch.config_file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
from pathlib import Path
from types import TracebackType

from launch.config import RunConfig
from launch.config_file import read_config, write_config
from launch.errors import BadInput
from launch.run_paths import RunPaths
from launch.sweep.plan import Plan, difference, read_plan, write_plan
from policies.durable import replace_file


class SweepDirectoryError(BadInput):
    """A directory that is in use, holds another sweep or something else, or none that could go on."""


class SweepDirectory:
    """A directory that this process holds the lock of. Use as a context manager."""

    def __init__(self, root: Path) -> None:
        """Creates the directory where needed and takes its lock. Raises SweepDirectoryError."""
        self.root = root.absolute()
        self._lock = self.root / "lock"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._made_lock = not self._lock.exists()
            self.lock_descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise SweepDirectoryError(f"--sweep-dir {root} cannot be used: {error.strerror}") from None
        try:
            fcntl.flock(self.lock_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self.lock_descriptor)
            held = isinstance(error, BlockingIOError)
            why = "is in use by another sweep, or by its runs: wait for them to end" if held else error.strerror
            raise SweepDirectoryError(f"--sweep-dir {root} {why}, or choose another") from None

    @property
    def base(self) -> Path:
        """The settings that all runs share, TOML."""
        return self.root / "base.toml"

    @property
    def plan(self) -> Path:
        """Which runs there are, JSON."""
        return self.root / "plan.json"

    @property
    def results(self) -> Path:
        """What the runs came to, JSON."""
        return self.root / "sweep.json"

    @property
    def curves(self) -> Path:
        """Training return over environment steps, PNG."""
        return self.root / "curves.png"

    @property
    def tensorboard(self) -> Path:
        """The same as event files, a directory for each setting."""
        return self.root / "tensorboard"

    def run(self, name: str) -> RunPaths:
        """The run directory of a member."""
        return RunPaths(self.root / name)

    def log(self, name: str) -> Path:
        """What a member's `temper train` printed."""
        return self.root / f"{name}.log"

    def begin(self, plan: Plan, base: RunConfig) -> None:
        """Makes this a new sweep. Raises SweepDirectoryError where the directory holds anything."""
        if self.plan.exists():
            raise SweepDirectoryError(
                f"--sweep-dir {self.root} holds a sweep already: continue it with --resume, or choose another"
            )
        if any(entry != self._lock for entry in self.root.iterdir()):
            raise SweepDirectoryError(f"--sweep-dir {self.root} is not empty and holds no sweep: choose another")
        write_config(self._with_suite(base), self.base)
        # Last, because it is what makes the directory a sweep.
        write_plan(plan, self.plan)

    def resume(self, plan: Plan, base: RunConfig) -> None:
        """Checks that the sweep in this directory is this one. Raises SweepDirectoryError."""
        if not self.plan.is_file() or not self.base.is_file():
            raise SweepDirectoryError(f"--sweep-dir {self.root} holds no sweep to resume: leave --resume out")
        held = read_config(self.base)
        of_suite = dataclasses.replace(held.safety, suite=base.safety.suite)
        same = bool(held.safety.suite) == bool(base.safety.suite)
        differs = difference(read_plan(self.plan), plan)
        if not differs and not (same and dataclasses.replace(held, safety=of_suite) == base):
            differs = "a setting that all runs share"
        if differs:
            raise SweepDirectoryError(
                f"--sweep-dir {self.root} holds another sweep, which differs in {differs}: resume it with its own "
                f"arguments (its settings are in {self.base}), or choose another"
            )

    def _with_suite(self, base: RunConfig) -> RunConfig:
        """With a copy of the suite file: all runs are judged by the same, whatever becomes of the file."""
        source = Path(base.safety.suite)
        if not base.safety.suite or not source.is_file():
            return base
        own = self.root / "suite.toml"
        replace_file(own, source.read_bytes())
        return dataclasses.replace(base, safety=dataclasses.replace(base.safety, suite=str(own)))

    def close(self) -> None:
        """Gives the lock back; of a directory that never became a sweep nothing is left that was not there before."""
        if self._made_lock and not self.plan.exists():
            self._lock.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.root.rmdir()
        os.close(self.lock_descriptor)

    def __enter__(self) -> SweepDirectory:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Gives the lock back."""
        self.close()
