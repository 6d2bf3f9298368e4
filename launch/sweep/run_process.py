"""One `temper train` of a sweep as a child process: start it, see whether it has ended, stop it.

How a run looks after its own processes is in launch.supervisor; when its `temper train` is killed they end by
themselves, and until the last of them has gone the run directory is locked. All methods belong to the main thread: the
kernel's parent-death signal is bound to the thread that started the child.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from launch.process import SUPERVISOR_VARIABLE, import_path

_LOG_TAIL_BYTES = 8192


class RunProcess:
    """A started process; its output is appended to the log."""

    def __init__(self, command: Sequence[str], log: Path, *, inherited_descriptors: Sequence[int] = ()) -> None:
        self._log = log
        environment = {**os.environ, SUPERVISOR_VARIABLE: str(os.getpid())}
        environment |= {"PYTHONUNBUFFERED": "1", "PYTHONPATH": import_path()}
        with log.open("ab") as output:
            self._log_start = output.tell()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                process_group=0,
                pass_fds=tuple(inherited_descriptors),
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit status, -N where signal N killed it; None while it runs."""
        return self._process.poll()

    def request_stop(self) -> None:
        """Asks it to end in order (SIGTERM)."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kills it, if it runs, and reaps it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()

    def last_words(self) -> str:
        """The last line it printed; "" where it said nothing."""
        with self._log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - _LOG_TAIL_BYTES))
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        named = [line.removeprefix("temper: ") for line in lines if line.startswith("temper: ")]
        return (named or lines or [""])[-1]
