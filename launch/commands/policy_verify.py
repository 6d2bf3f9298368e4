"""`temper policy verify`: reads every release, artifact, lineage and revocation of a run and says what is wrong.

Wrong is also a revocation that is in the gate's ledger and not in the registry: then whoever revoked a release was
stopped on the way, and perhaps nobody has dropped it yet. A release that is in the ledger alone is told, and is not
wrong: where the gate or the learner died in between, nobody ever had it.

--json prints one object: verified (whether nothing is wrong), releases and revoked (how many there are, null where the
registry is damaged), problems, notes (what is told and is not wrong), ledger_read (whether the gate's ledger is here).
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import NamedTuple

from launch.arguments import PolicyVerify
from launch.json_output import json_line, printable
from launch.lineage_report import unbound_releases
from launch.releases import has_ledger, open_registry, read_history, undelivered
from launch.run_paths import RunPaths, require_run_directory
from policies.registry import PolicyRegistry
from policies.revocation import Revocation
from safety.ledger import LedgerError


def run(arguments: PolicyVerify) -> int:
    """Prints what was verified, unless the registry is damaged; returns 1, with a line a problem on stderr, or 0."""
    paths = require_run_directory(arguments.run_dir)
    registry = open_registry(paths)
    found = _Found(0, 0) if registry is None else _verify(paths, registry)
    if arguments.json:
        fields = found._asdict() | {"ledger_read": has_ledger(paths)}
        print(json_line({"verified": not found.problems, **fields}))
        return 1 if found.problems else 0
    if registry is None:
        print("0 releases verified: nothing has been released")
    elif found.releases is not None:
        print(f"{found.releases} releases verified: signatures, digests and parameters; {found.revoked} revoked")
        for line in found.notes:
            print(line)
    for problem in found.problems:
        print(f"temper: {problem}", file=sys.stderr)
    return 1 if found.problems else 0


class _Found(NamedTuple):
    releases: int | None
    revoked: int | None
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()


def _verify(paths: RunPaths, registry: PolicyRegistry) -> _Found:
    damage = registry.verify()
    if damage:
        return _Found(None, None, damage)
    left, problems = _undelivered(paths, registry)
    releases = registry.releases()
    problems = [*problems, *unbound_releases(paths, releases)]
    gone = {revocation.digest for revocation in [*registry.revocations(), *left]}
    revoked = sum(release.digest in gone for release in releases)
    notes = _in_ledger_alone(paths, registry)
    if not has_ledger(paths):
        notes.append(
            "the gate's ledger is not here, or not for us to read: what only it knows to be revoked is not counted"
        )
    return _Found(len(releases), revoked, problems, notes)


def _in_ledger_alone(paths: RunPaths, registry: PolicyRegistry) -> list[str]:
    """A line on each release that the gate let out and that is not here; none where the ledger does not tell."""
    if not has_ledger(paths):
        return []
    try:
        history = read_history(paths, registry.trust)
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
