"""`temper safety explain`: everything that a verdict says, and the episodes that decided it, for people.

Exit status 1 where the verdict differs from what its evidence gives when it is counted again, or where the evidence is
damaged. Where the evidence is gone, what the verdict itself says is printed. --json prints one object, see
launch.verdict_report.
"""

from __future__ import annotations

import sys

from launch.arguments_safety import SafetyExplain
from launch.errors import LaunchError
from launch.json_output import json_line
from launch.verdict_choice import choose_verdict
from launch.verdict_plot import ASCII, glyphs_for
from launch.verdict_report import make_report, report_json
from launch.verdict_text import report_lines
from safety.evidence.file import EvidenceDamaged


def run(arguments: SafetyExplain) -> int:
    """Prints it."""
    chosen = choose_verdict(arguments.run_dir, arguments.verdict)
    try:
        report = make_report(chosen)
    except EvidenceDamaged as error:
        raise LaunchError(f"verdict {chosen.short_id}: {error}") from error
    if arguments.json:
        print(json_line(report_json(report)))
    else:
        encoding = sys.stdout.encoding
        glyphs = glyphs_for(encoding)
        for line in report_lines(report, glyphs):
            # Whatever else such a stream cannot show, a name or a reason, is escaped.
            print(line if glyphs is not ASCII else line.encode("ascii", "backslashreplace").decode("ascii"))
    if report.problems:
        print(f"temper: verdict {chosen.short_id} differs from its evidence: {report.problems[0]}", file=sys.stderr)
    return 1 if report.problems else 0
