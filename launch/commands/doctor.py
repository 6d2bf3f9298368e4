"""`temper doctor`: whether this machine has what a run needs.

--json prints one object: broken and note (how many findings are so), findings [{level ("ok", "note", "broken"), name,
text}].
"""

from __future__ import annotations

import dataclasses
from collections import Counter

from launch.arguments import Doctor
from launch.doctor import Finding, examine
from launch.json_output import json_line


def run(arguments: Doctor) -> int:
    """Prints one line a finding; returns 1 where something that is needed is broken."""
    levels, findings = Counter[str](), list[Finding]()
    for finding in examine(arguments.run_dir):
        levels[finding.level] += 1
        findings.append(finding)
        if not arguments.json:
            print(f"{finding.level:<7} {finding.name:<18} {finding.text}")
    if arguments.json:
        listed = [dataclasses.asdict(finding) for finding in findings]
        print(json_line({"broken": levels["broken"], "note": levels["note"], "findings": listed}))
    elif not levels["broken"] and not levels["note"]:
        print("everything that is needed is there")
    else:
        print(f"{levels['broken']} broken, {levels['note']} to note")
    return 1 if levels["broken"] else 0
