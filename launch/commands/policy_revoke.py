"""`temper policy revoke`: takes a release back; the actors of a run that is running drop it at once.

--json prints one object: release_number, revocation_number, artifact_digest, why, time, time_ns (as it was signed,
which was earlier where it had been revoked before), watchers (clients told at once; null: none could be),
release_offered (number of the one that is offered now, 0: none, null: not known), problem (why the learner was not
told, or "").
"""

from __future__ import annotations

from typing import Any

from launch.arguments_replay import PolicyRevoke
from launch.json_output import json_line, local_time, printable
from launch.revoking import RevokedRelease, revoking
from launch.run_paths import require_run_directory
from launch.verdicts import revocation_json


def run(arguments: PolicyRevoke) -> int:
    """Prints what came of it; returns 1 where the learner of a running run could not be told."""
    with revoking(require_run_directory(arguments.run_dir)) as revoke:
        revoked = revoke(arguments.release, arguments.why)
    print(json_line(revoked_json(revoked)) if arguments.json else revoked_words(revoked))
    return 1 if revoked.problem else 0


def revoked_json(revoked: RevokedRelease) -> dict[str, Any]:
    """What came of a revocation, for json_line."""
    return revocation_json(revoked.revocation) | {
        "watchers": revoked.watchers,
        "release_offered": revoked.offered,
        "problem": revoked.problem,
    }


def revoked_words(revoked: RevokedRelease) -> str:
    """The same for a person."""
    revocation = revoked.revocation
    what = (
        f"release {revocation.release_number} is revoked ({local_time(revocation.issue_time_ns)}: "
        f"{printable(revocation.why)})"
    )
    if revoked.problem:
        return (
            f"{what}, but the learner was not told: {revoked.problem}\nactors that act with it go on until it "
            "is: it asks the safety service when it is up, or run this once more"
        )
    left = f"release {revoked.offered} is offered in its place" if revoked.offered else "no release is left"
    told = "" if revoked.watchers is None else f"; {revoked.watchers} clients were told"
    return f"{what}; {left}{told}"
