"""`temper policy verify`: reads every release, artifact, lineage and revocation of a run and says what is wrong.

Wrong is also a revocation that is in the gate's ledger and not in the registry: then whoever revoked a release was
stopped on the way, and perhaps nobody has dropped it yet. A release that is in the ledger alone is told, and is not
wrong: where the gate or the learner died in between, nobody ever had it.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from launch.arguments import PolicyVerify
from launch.json_output import printable
from launch.lineage_report import unbound_releases
from launch.releases import has_ledger, open_registry, undelivered
from launch.run_paths import RunPaths, require_run_directory
from policies.registry import PolicyRegistry
from policies.revocation import Revocation
from safety.history import DecisionHistory
from safety.ledger import LedgerError, read_ledger


def run(arguments: PolicyVerify) -> int:
    """Prints what was verified, unless the registry is damaged; returns 1, with a line a problem on stderr, or 0."""
    paths = require_run_directory(arguments.run_dir)
    registry = open_registry(paths)
    if registry is None:
        print("0 releases verified: nothing has been released")
        return 0
    problems = registry.verify()
    if not problems:
        left, problems = _undelivered(paths, registry)
        releases = registry.releases()
        problems = [*problems, *unbound_releases(paths, releases)]
        gone = {revocation.digest for revocation in [*registry.revocations(), *left]}
        revoked = sum(release.digest in gone for release in releases)
        print(f"{len(releases)} releases verified: signatures, digests and parameters; {revoked} revoked")
        for line in _in_ledger_alone(paths, registry):
            print(line)
        if not has_ledger(paths):
            print(
                "the gate's ledger is not here, or not for us to read: what only it knows to be revoked is not counted"
            )
    for problem in problems:
        print(f"temper: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _in_ledger_alone(paths: RunPaths, registry: PolicyRegistry) -> list[str]:
    """A line on each release that the gate let out and that is not here; none where the ledger does not tell."""
    if not has_ledger(paths):
        return []
    try:
        history = DecisionHistory(read_ledger(paths.safety), registry.trust.verify_key, registry.trust.run_id)
    except LedgerError as error:
        return [f"whether a release is missing is not known: {error}"]
    held = {release.number for release in registry.releases()}
    gone = sorted(set(range(1, history.approved + 1)) - held)
    return [
        f"release {number} is in the gate's ledger alone: it was never taken, or was removed from {paths.policies}"
        for number in gone
    ]


def _undelivered(paths: RunPaths, registry: PolicyRegistry) -> tuple[Sequence[Revocation], list[str]]:
    """What was revoked and is in the ledger alone, and a line on each, or why that is not known."""
    try:
        left = undelivered(paths, registry)
    except LedgerError as error:
        return (), [f"whether every revocation was delivered is not known: {error}"]
    return left, [
        f"release {revocation.release_number} is revoked ({printable(revocation.why)}), but undelivered: it is in the "
        "ledger and not in the registry; once more "
        f"`temper policy revoke {shlex.quote(str(paths.root))} {revocation.release_number} --why ...` delivers it"
        for revocation in left
    ]
