"""`temper doctor`: whether this machine has what a run needs."""

from __future__ import annotations

from collections import Counter

from launch.arguments import Doctor
from launch.doctor import examine


def run(arguments: Doctor) -> int:
    """Prints one line a finding; returns 1 where something that is needed is broken."""
    levels = Counter[str]()
    for finding in examine(arguments.run_dir):
        levels[finding.level] += 1
        print(f"{finding.level:<7} {finding.name:<18} {finding.text}")
    if not levels["broken"] and not levels["note"]:
        print("everything that is needed is there")
    else:
        print(f"{levels['broken']} broken, {levels['note']} to note")
    return 1 if levels["broken"] else 0
