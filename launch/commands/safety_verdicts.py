"""`temper safety verdicts`: what a run's gate has decided, one line for each candidate, newest last.

From the ledger, chain and signatures verified. --json prints one object a line: every field of the verdict's statement,
bytes in hexadecimal, and revoked (whether the release was taken back since).
"""

from __future__ import annotations

from launch.arguments import SafetyVerdicts
from launch.errors import BadInput
from launch.json_output import json_line, local_time, message_json, printable
from launch.releases import read_history, require_trust
from launch.run_paths import require_run_directory
from launch.verdicts import in_short, outcome_of
from protos.safety.v1 import safety_pb2


def run(arguments: SafetyVerdicts) -> int:
    """Prints them."""
    if arguments.limit < 0:
        raise BadInput(f"--limit is {arguments.limit}, must be at least 0 (0: all); nothing was read")
    paths = require_run_directory(arguments.run_dir)
    trust = require_trust(paths)
    history = read_history(paths, trust)
    statements = [
        safety_pb2.VerdictStatement.FromString(signed.payload) for signed in history.newest(arguments.limit)[::-1]
    ]
    if not arguments.json:
        print("no verdicts" if not statements else _HEADINGS)
    for statement in statements:
        revoked = history.revocation(statement.artifact_digest) is not None
        print(
            json_line({**message_json(statement), "revoked": revoked}) if arguments.json else _row(statement, revoked)
        )
    return 0


_HEADINGS = f"{'verdict':<32}  {'update':>8}  {'decided':<19}  {'return':>10}  {'violations':>10}  outcome"


def _row(statement: safety_pb2.VerdictStatement, revoked: bool) -> str:
    if statement.approved:
        outcome = f"release {statement.release_number}{', REVOKED since' if revoked else ''}"
    else:
        outcome = f"{outcome_of(statement)}: {printable(in_short(statement.reason))}"
    outcome += "".join(f"; ALARM: {printable(alarm)}" for alarm in statement.alarms)
    judged = statement.episodes > 0
    mean = f"{statement.return_mean:.2f}" if judged else "-"
    violations = f"{statement.violating_episodes}/{statement.episodes}" if judged else "-"
    return (
        f"{statement.verdict_id:<32}  {statement.version:>8}  {local_time(statement.issue_time_ns):<19}  {mean:>10}  "
        f"{violations:>10}  {outcome}"
    )
