"""`temper status`: how a run is doing, or what it came to."""

from __future__ import annotations

import json

from launch.arguments import Status
from launch.status import describe, gather


def run(arguments: Status) -> int:
    """Prints the state of the run directory."""
    root = arguments.run_dir.absolute()
    status = gather(root)
    print(json.dumps(status, indent=2) if arguments.json else describe(status, root))
    return 0
