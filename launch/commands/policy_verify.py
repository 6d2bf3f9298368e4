"""`temper policy verify`: reads every release and artifact of a run and says what is wrong with them."""

from __future__ import annotations

import sys

from launch.arguments import PolicyVerify
from launch.releases import open_registry
from launch.run_paths import require_run_directory


def run(arguments: PolicyVerify) -> int:
    """Prints one line a problem on stderr and returns 1, or how much was verified and 0."""
    registry = open_registry(require_run_directory(arguments.run_dir))
    problems = registry.verify() if registry is not None else []
    for problem in problems:
        print(f"temper: {problem}", file=sys.stderr)
    if problems:
        return 1
    count = len(registry.releases()) if registry is not None else 0
    print(f"{count} releases verified: signatures, digests and parameters")
    return 0
