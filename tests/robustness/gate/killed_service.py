"""A safety service that kills itself with SIGKILL just before the k-th step by which something gets onto the disk.

    python -m tests.robustness.gate.killed_service PARAMETERS ARMED

PARAMETERS is the JSON of `tests.safety.safety_process`. From when the file ARMED exists, which holds k, each sync,
rename and link counts. Whatever the service does on its way to an answer, it is killed before each step of it in turn:
nothing here knows what those steps are.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.safety.safety_process import serve_with

STEPS = ("fsync", "replace", "rename", "link")


def main(parameters: dict[str, Any], armed: Path) -> None:
    """Serves until it is killed."""
    taken = 0

    def counted(step: Callable[..., Any]) -> Callable[..., Any]:
        def take(*arguments: Any, **named: Any) -> Any:
            nonlocal taken
            if armed.exists():
                taken += 1
                if taken == int(armed.read_text()):
                    os.kill(os.getpid(), signal.SIGKILL)
            return step(*arguments, **named)

        return take

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))
    asyncio.run(serve_with(parameters, asyncio.Event(), lambda address: print(address, flush=True)))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
