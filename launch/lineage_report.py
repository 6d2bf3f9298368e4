"""Opens the lineages of a run with all that is known about each policy, and puts them into words and JSON.

The JSON of a policy:

    version (update count), kinds ("checkpoint", "candidate"), env_steps, records, time, time_ns, artifact_digest (""
    where it was no candidate), checkpoint_there, releases [{number, revocation: null or {why, time, time_ns}}],
    verdict (null or {approved, reason, verdict_id}), lineage_bound (whether it is the lineage that its verdict binds;
    null where none does), teachers (releases that it was distilled from, each RUN_ID@NUMBER:DIGEST)

Exceptions: launch.errors.BadInput; what launch.releases raises.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.errors import BadInput
from launch.json_output import iso_time, local_time, printable
from launch.releases import open_registry, read_history
from launch.replay_target import locate, looking_at
from launch.run_paths import RunPaths, require_run_directory
from launch.verdict_criteria import status_of
from launch.verdicts import outcome_of
from learner.lineage import LineageError
from learner.lineage_archive import DIRECTORY
from learner.lineage_index import LearntPolicy, LineageIndex
from policies.registry import PolicyRegistry, Release
from policies.revocation import Revocation
from protos.safety.v1 import safety_pb2
from safety.history import DecisionHistory
from safety.ledger import LedgerError

_REASON_CHARACTERS = 60

HEADING = f"{'update':>12}  {'records':>12}  policy"


def run_of(target: str, run_dir: str) -> RunPaths | None:
    """The run whose policies are meant: --run-dir, or else TARGET where that is a run directory; None: none is named.

    Raises:
      BadInput: TARGET is nothing; RunDirectoryError: --run-dir is no run's.
    """
    if not run_dir:
        return locate(target).run
    with looking_at(run_dir):
        return require_run_directory(Path(run_dir))


def require_run(target: str, run_dir: str) -> RunPaths:
    """As `run_of`. Raises BadInput where no run is named."""
    paths = run_of(target, run_dir)
    if paths is None:
        raise BadInput(f"{target} is no run directory: say with --run-dir whose checkpoints and releases are meant")
    return paths


def check_releases(paths: RunPaths) -> None:
    """Raises what `open_index` would because of the releases, before anything is changed."""
    registry = open_registry(paths)
    if registry is not None:
        registry.releases()


def open_index(paths: RunPaths) -> LineageIndex:
    """The lineages of a run. What cannot be read is said on standard error, and left out.

    Raises:
      RunDirectoryError, KeyFileError, RegistryError: its releases cannot be believed.
    """
    registry = open_registry(paths)
    history = _history(paths, registry)
    releases = [] if registry is None else [_told_by_both(each, history, registry) for each in registry.releases()]
    index = LineageIndex(paths.root / DIRECTORY, releases, _verdicts(history), _checkpoints(paths))
    for problem in index.damaged:
        print(f"temper: a lineage is left out: {problem}", file=sys.stderr)
    return index


def policy_json(policy: LearntPolicy) -> dict[str, Any]:
    """The policy, for json_line."""
    head, verdict = policy.head, policy.verdict
    return {
        "version": head.version,
        "kinds": list(head.kinds),
        "env_steps": head.env_steps,
        "records": len(policy.consumed),
        "time": iso_time(head.time_ns),
        "time_ns": head.time_ns,
        "artifact_digest": head.artifact_digest,
        "checkpoint_there": policy.checkpoint_there,
        "releases": [release_json(release) for release in policy.releases],
        "verdict": None
        if verdict is None
        else {"approved": verdict.approved, "reason": verdict.reason, "verdict_id": verdict.verdict_id},
        "lineage_bound": policy.bound,
        "teachers": list(head.teachers),
    }


def release_json(release: Release) -> dict[str, Any]:
    """A release and what became of it, for json_line."""
    revocation = release.revocation
    return {
        "number": release.number,
        "revocation": None
        if revocation is None
        else {
            "why": revocation.why,
            "time": iso_time(revocation.issue_time_ns),
            "time_ns": revocation.issue_time_ns,
        },
    }


def policy_line(policy: LearntPolicy) -> str:
    """The policy as one line under HEADING."""
    return f"{policy.head.version:>12,}  {len(policy.consumed):>12,}  {policy_words(policy)}"


def policy_words(policy: LearntPolicy) -> str:
    """What kind of policy it is, and what became of it."""
    words = []
    if policy.head.checkpoint:
        words.append("checkpoint" if policy.checkpoint_there else "checkpoint (no longer kept)")
    words += [release_words(release) for release in policy.releases]
    if policy.head.artifact_digest and not policy.releases:
        words.append(_candidate_words(policy.verdict))
    return "; ".join(words)


def unbound_releases(paths: RunPaths, releases: Sequence[Release]) -> list[str]:
    """A line on each release of which the verdict binds a lineage that is not there, or is another.

    Those whose verdict binds none are passed over: nothing was offered with them.
    """
    index, problems = LineageIndex(paths.root / DIRECTORY, releases), []
    for release in releases:
        if not safety_pb2.VerdictStatement.FromString(release.signed_verdict.payload).lineage_digest:
            continue
        try:
            bound = index.of_release(release.number).bound
        except LineageError as error:
            problems.append(f"release {release.number}: what it learnt from is not known any more: {error}")
            continue
        if not bound:
            problems.append(f"release {release.number}: its lineage is not the one that its verdict binds")
    return problems


def release_words(release: Release) -> str:
    """The release, and whether it was revoked."""
    revocation = release.revocation
    if revocation is None:
        return f"release {release.number}"
    return f"release {release.number}, revoked {local_time(revocation.issue_time_ns)}: {printable(revocation.why)}"


def _candidate_words(verdict: safety_pb2.VerdictStatement | None) -> str:
    if verdict is None:
        return "candidate, no verdict is known"
    if verdict.approved:
        return "candidate, approved, never in the registry"
    failed = ", ".join(result.name for result in verdict.criteria if status_of(result) in {"VOID", "FAILED"})
    return f"candidate, {outcome_of(verdict)}: {printable(failed or verdict.reason[:_REASON_CHARACTERS])}"


def _history(paths: RunPaths, registry: PolicyRegistry | None) -> DecisionHistory | None:
    if registry is None or not paths.safety.is_dir():
        return None
    try:
        return read_history(paths, registry.trust)
    except LedgerError as error:
        # It is for its owner alone; what the registry says is enough to go on.
        print(f"temper: the gate's verdicts are left out: {error}", file=sys.stderr)
        return None


def _told_by_both(release: Release, history: DecisionHistory | None, registry: PolicyRegistry) -> Release:
    """The release with its revocation, also where the registry has not heard of it yet."""
    past = history.revocation(release.digest) if history is not None and release.revocation is None else None
    if past is None:
        return release
    return dataclasses.replace(release, revocation=Revocation.verified(past.signed, registry.trust))


def _verdicts(history: DecisionHistory | None) -> Mapping[bytes, safety_pb2.VerdictStatement]:
    """The newest verdict on each artifact, by its digest."""
    found: dict[bytes, safety_pb2.VerdictStatement] = {}
    for signed in history.newest(0) if history is not None else ():
        verdict = safety_pb2.VerdictStatement.FromString(signed.payload)
        found.setdefault(verdict.artifact_digest, verdict)
    return found


def _checkpoints(paths: RunPaths) -> set[int]:
    directory = paths.root / "learner" / "checkpoints"
    return {int(path.name) for path in directory.glob("*") if path.name.isdecimal()}
