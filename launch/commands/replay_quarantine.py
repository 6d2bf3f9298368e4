"""`temper replay quarantine`: keeps records from being sampled, and says which policies learnt from them before.

--json prints one object: quarantine (the entry of replay.proto; with --dry-run its id is 0), affected (policies as
launch.lineage_report says, each with quarantined_records and share, their part of what the policy learnt from),
newest_without (update of the newest policy kept that learnt from none of them, null where there is none),
releases_unknown (numbers of releases whose lineage was not kept), evicted_records (which the store has no longer, so
that they are not looked at), and revoked (as `temper policy revoke` says). affected, newest_without and
releases_unknown are null where no run is named. --list prints one entry a line, --lift the entry.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from launch.arguments_replay import ReplayQuarantine
from launch.commands.policy_revoke import revoked_json, revoked_words
from launch.errors import BadInput
from launch.json_output import json_line, local_time, message_json, printable
from launch.lineage_report import check_releases, open_index, policy_json, policy_words, run_of
from launch.replay_target import open_source
from launch.revoking import Revoke, RevokedRelease, revoking
from launch.run_paths import RunPaths
from learner.lineage_index import LearntPolicy, LineageIndex
from protos.replay.v1 import replay_pb2
from replay.filters import FilterError
from safety.revocations import WHY_CHARACTERS_MAX

Affected = Sequence[tuple[LearntPolicy, int]]

_ID_MAX = 2**63 - 1


def run(arguments: ReplayQuarantine) -> int:
    """Does what is asked for; returns 1 where releases were revoked that the learner could not be told of."""
    if [bool(arguments.filter.strip()), bool(arguments.lift), arguments.listing].count(True) != 1:
        raise BadInput("say one of: FILTER (which records), --lift ID, --list")
    if arguments.listing:
        return _list(arguments)
    if not arguments.why.strip() and not arguments.dry_run:
        raise BadInput("--why is missing: whoever reads of it later must know why")
    return _lift(arguments) if arguments.lift else _quarantine(arguments)


def _list(arguments: ReplayQuarantine) -> int:
    with open_source(arguments.target, writable=False) as source:
        entries = source.quarantines()
    for entry in entries:
        print(json_line(message_json(entry)) if arguments.json else _described(entry))
    if not entries and not arguments.json:
        print("no quarantine, now or ever")
    return 0


def _lift(arguments: ReplayQuarantine) -> int:
    if arguments.dry_run or arguments.revoke:
        raise BadInput("--lift goes neither with --dry-run nor with --revoke: what was revoked stays revoked")
    if not 1 <= arguments.lift <= _ID_MAX:
        raise BadInput(f"quarantine {arguments.lift} cannot be: they are numbered from 1")
    with open_source(arguments.target, writable=True) as source:
        try:
            entry = source.lift_quarantine(arguments.lift, arguments.why).entry
        except ValueError as error:
            raise BadInput(str(error)) from error
    print(json_line(message_json(entry)) if arguments.json else _described(entry))
    return 0


def _quarantine(arguments: ReplayQuarantine) -> int:
    paths = run_of(arguments.target, arguments.run_dir)
    if arguments.revoke and paths is None:
        raise BadInput(f"{arguments.target} is no run directory: say with --run-dir whose releases are to be revoked")
    if paths is not None:
        check_releases(paths)
    with contextlib.ExitStack() as stack:
        # Before anything is changed, for what it may raise.
        revoke = stack.enter_context(revoking(paths)) if _may_revoke(paths, arguments) and paths is not None else None
        with open_source(arguments.target, writable=not arguments.dry_run) as source:
            evicted = source.stats().evicted_records
            try:
                entry, positions = source.quarantine(arguments.filter, arguments.why, dry_run=arguments.dry_run)
            except FilterError:
                raise
            except ValueError as error:
                raise BadInput(str(error)) from error
        # After it, so that what was learnt until then is in it.
        index = None if paths is None else open_index(paths)
        affected = index.overlapping(positions) if index is not None else ()
        if not arguments.json:
            print("\n".join(_lines(entry, affected, index, evicted)))
        revoked: list[RevokedRelease] = []
        try:
            if arguments.revoke:
                revoked.extend(_revoke(revoke, entry, affected, arguments))
        finally:
            # The records are quarantined, whatever became of the releases.
            if arguments.json:
                told = {"evicted_records": evicted, "revoked": list(map(revoked_json, revoked))}
                print(json_line(_as_json(entry, affected, index) | told))
    return 1 if any(each.problem for each in revoked) else 0


def _may_revoke(paths: RunPaths | None, arguments: ReplayQuarantine) -> bool:
    return arguments.revoke and not arguments.dry_run and paths is not None and paths.policies.is_dir()


def _revoke(
    revoke: Revoke | None, entry: replay_pb2.QuarantineEntry, affected: Affected, arguments: ReplayQuarantine
) -> Iterator[RevokedRelease]:
    """Revokes every release that learnt from the records and stands, and says each at once."""
    numbers = sorted(
        {release.number for policy, _ in affected for release in policy.releases if release.revocation is None}
    )
    if revoke is None or not numbers:
        if not arguments.json:
            would = (
                f"would revoke release {', '.join(map(str, numbers))}" if numbers else "there is no release to revoke"
            )
            print(would)
        return
    why = f"quarantine {entry.id}: {arguments.why.strip()}"[:WHY_CHARACTERS_MAX]
    # Oldest first: so nobody is given another one of them in the meantime.
    for number in numbers:
        revoked = revoke(number, why)
        if not arguments.json:
            print(revoked_words(revoked))
        yield revoked


def _as_json(entry: replay_pb2.QuarantineEntry, affected: Affected, index: LineageIndex | None) -> dict[str, Any]:
    return {
        "quarantine": message_json(entry),
        "affected": None
        if index is None
        else [
            policy_json(policy) | {"quarantined_records": count, "share": count / len(policy.consumed)}
            for policy, count in affected
        ],
        "newest_without": None if index is None else _newest_without(affected, index),
        "releases_unknown": None if index is None else [release.number for release in index.releases_unknown],
    }


def _lines(
    entry: replay_pb2.QuarantineEntry, affected: Affected, index: LineageIndex | None, evicted: int
) -> Iterator[str]:
    if entry.id:
        yield f"quarantine {entry.id}: {entry.records:,} records are no longer sampled"
    else:
        yield f"{entry.records:,} records would no longer be sampled"
    if index is None:
        yield "which policies learnt from them is not known here: say with --run-dir whose are meant"
        return
    if affected:
        yield f"{'update':>12}  {'of its records':>22}  {'share':>6}  policy"
    else:
        yield "no policy whose lineage is kept learnt from them"
    for policy, count in affected:
        part = f"{count:,} of {len(policy.consumed):,}"
        share = count / len(policy.consumed)
        yield f"{policy.head.version:>12,}  {part:>22}  {share:>6.1%}  {policy_words(policy)}"
    if affected:
        newest = _newest_without(affected, index)
        yield "the newest policy kept that learnt from none of them: " + ("none" if newest is None else f"{newest:,}")
        if affected[-1][0] is index.policies[-1]:
            yield "the newest one did: what the run releases from now on grows out of it"
    if evicted:
        yield f"not looked at, for they were evicted: {evicted:,} records; who learnt from such of them is not listed"
    unknown = ", ".join(str(release.number) for release in index.releases_unknown)
    if unknown:
        yield f"not known of: release {unknown}"


def _newest_without(affected: Affected, index: LineageIndex) -> int | None:
    touched = {id(policy) for policy, _ in affected}
    return max((policy.head.version for policy in index.policies if id(policy) not in touched), default=None)


def _described(entry: replay_pb2.QuarantineEntry) -> str:
    lifted = f"; lifted {local_time(entry.lifted_time_ns)}: {entry.lifted_why}" if entry.lifted_time_ns else ""
    return printable(
        f"quarantine {entry.id}, {local_time(entry.time_ns)}: {entry.records:,} records, {entry.filter}: "
        f"{entry.why}{lifted}"
    )
