"""Rotates keys in copies of a directory, in a process that is killed at another step in each. Not a test.

    rotation_process.py COPIES PURPOSE

COPIES holds directories 0, 1, ... with a safety directory and the keys of run-1 in each. In copy N the process is
killed as it is about to change a file for the Nth time; where the rotation ends before, "whole N" is printed.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from safety.key_rotation import rotate

RUN = "run-1"

_CHANGES = {"os.rename", "os.link", "os.remove", "os.truncate"}


def _kill_at(step: int) -> None:
    left = [step]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in _CHANGES or writes:
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

    sys.addaudithook(hook)


def main(copies: Path, purpose: str) -> None:
    """Forks once for each copy: nothing here has threads, and a process of its own for each would be slow to start."""
    for copy in sorted(copies.iterdir(), key=lambda path: int(path.name)):
        child = os.fork()
        if not child:
            _kill_at(int(copy.name))
            rotate(copy / "safety", RUN, purpose, "as every year", keys=copy / "keys")
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            print("whole", copy.name, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
