"""`temper doctor`: whether this machine has what a run needs."""

from __future__ import annotations

from launch.arguments import Doctor
from launch.doctor import examine


def run(arguments: Doctor) -> int:
    """Prints one line a finding; returns 1 where something that is needed is broken."""
    broken = 0
    for finding in examine(arguments.run_dir):
        broken += finding.level == "broken"
        print(f"{finding.level:<7} {finding.name:<18} {finding.text}")
    print("everything that is needed is there" if not broken else f"{broken} broken")
    return 1 if broken else 0
