"""A process of a run, seen from inside: it ends when its supervisor does.

Used by every command that a supervisor starts. The other side, which starts and watches processes, is `launch.child`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from launch.errors import BadInput

SUPERVISOR_VARIABLE = "TEMPER_SUPERVISOR_PID"
"""Environment variable with the process id of the supervisor that started this process."""

TRUST_WAIT_S_MAX = 120.0
"""How long the safety service may take to make its key when all start at once (s)."""

GAVE_UP = 3
"""Exit status of a process that tried again and again by itself, so that starting it once more is of no use."""

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Environment of a process whose matrix products are too small to share, or that forks."""

_PR_SET_PDEATHSIG = 1

_ROOT = Path(__file__).resolve().parents[1]
_GIT_S_MAX = 10.0


def die_with_supervisor() -> None:
    """Asks the kernel to send this process SIGTERM when the supervisor that started it dies, however it dies.

    Does nothing in a process that no supervisor started. To be called first thing: a supervisor that died before the
    call is noticed by the changed parent, and then this process exits at once.
    """
    supervisor = os.environ.get(SUPERVISOR_VARIABLE)
    if supervisor is None:
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(supervisor):
        sys.exit(128 + signal.SIGTERM)


def import_path() -> str:
    """PYTHONPATH with which another interpreter, started with -P, finds the modules that this one does.

    Without the two, a folder of the working directory that is called launch, learner or safety, as may well lie beside
    somebody's experiments, would be imported in place of ours.
    """
    return os.pathsep.join(path or os.getcwd() for path in sys.path)  # noqa: PTH109 - a string is what is joined


def source_revision(root: Path = _ROOT) -> str:
    """The commit that this code is a checkout of, with "-dirty" where it was changed since; "" where it is none."""
    # What lies above an installed package may well be a repository, but somebody else's.
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_GIT_S_MAX)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def wait_for_file(path: Path, timeout_s: float) -> Path:
    """Returns `path` once the file exists; it is made by a process that starts at the same time.

    Raises:
      BadInput: it does not exist after `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while not path.is_file():
        if time.monotonic() > deadline:
            raise BadInput(f"file {path} does not exist (waited {timeout_s:g} s): is the safety service running?")
        time.sleep(0.05)
    return path
