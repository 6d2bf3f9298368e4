"""`temper policy rollback`: goes back to an earlier release, by revoking every release after it, the newest first.

Each is revoked as by `temper policy revoke`, and stays revoked: the next release has a new number. What was revoked
when something fails stays so; the same command goes on from there.

--json prints one object: to (number of the release that is gone back to), revoked (one object a release, as
`temper policy revoke --json` has it), release_offered (number of the one that is offered now, 0: none, null: not
known), problem (why the learner was not told of one of them, or "").
"""

from __future__ import annotations

from collections.abc import Sequence

from launch.arguments_replay import PolicyRollback
from launch.commands.policy_revoke import revoked_json, revoked_words
from launch.errors import BadInput
from launch.json_output import json_line
from launch.releases import open_registry, revocations
from launch.revoking import RevokedRelease, revoking
from launch.run_paths import RunPaths, require_run_directory
from policies.registry import Release


def run(arguments: PolicyRollback) -> int:
    """Prints what came of it; returns 1 where the learner of a running run could not be told."""
    paths = require_run_directory(arguments.run_dir)
    with revoking(paths) as revoke:
        target, later = _plan(paths, arguments.to)
        revoked = [revoke(release.number, arguments.why) for release in later]
    problem = next((each.problem for each in revoked if each.problem), "")
    if arguments.json:
        print(
            json_line(
                {
                    "to": target.number,
                    "revoked": [revoked_json(each) for each in revoked],
                    "release_offered": revoked[-1].offered,
                    "problem": problem,
                }
            )
        )
    else:
        for each in revoked:
            print(revoked_words(each))
        print(_offered(target, revoked[-1]))
    return 1 if problem else 0


def _plan(paths: RunPaths, to: int) -> tuple[Release, Sequence[Release]]:
    """The release to go back to, and those to revoke, newest first; raises BadInput where that makes no sense."""
    registry = open_registry(paths)
    releases = registry.releases() if registry is not None else []
    gone = {revocation.digest for revocation in revocations(paths)}
    standing = [release for release in releases if release.digest not in gone]
    if not standing:
        raise BadInput(f"no release of the run in {paths.root} stands: there is nothing to roll back")
    if not to and len(standing) == 1:
        raise BadInput(
            f"release {standing[0].number} is the only one that stands: there is none to go back to; "
            "`temper policy revoke` takes it back"
        )
    number = to or standing[-2].number
    target = next((release for release in releases if release.number == number), None)
    known = ", ".join(str(release.number) for release in standing)
    if target is None:
        raise BadInput(f"--to {number}: there is no such release; those that stand are: {known}")
    if target not in standing:
        raise BadInput(f"--to {number}: release {number} is revoked itself; those that stand are: {known}")
    later = [release for release in reversed(standing) if release.number > number]
    if not later:
        raise BadInput(f"--to {number}: it is the newest release that stands: there is nothing to roll back")
    if not target.promoted:
        raise BadInput(f"--to {number}: release {number} is a canary that was never promoted; name another one")
    return target, later


def _offered(target: Release, last: RevokedRelease) -> str:
    if last.offered is None:
        return f"what is offered now is not known; it will be release {target.number} once the learner has heard"
    return f"release {last.offered} is offered now" if last.offered else "no release is offered now"
