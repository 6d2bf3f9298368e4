"""`temper policy list`: the releases of a run, one line each; those that were taken back say so, and why, and so do
canaries, whether they were promoted or not.

What is in the gate's ledger and has not been delivered to the registry is shown as such.

--json prints one object: releases [{number, version, artifact_digest, verdict_id, return_mean, return_ci95, episodes,
violating_episodes, time, time_ns, canary_share (0: never a canary), promotion, revocation}], and revoked_problem (why
what only the ledger knows to be revoked or promoted is left out, or ""). promotion is null or {why, time, time_ns,
delivered}, and so is revocation; delivered says whether the registry has it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from launch.arguments import PolicyList
from launch.json_output import iso_time, json_line, printable
from launch.releases import open_registry, revocations_if_known, undelivered_promotions
from launch.run_paths import require_run_directory
from policies.promotion import Promotion
from policies.registry import Release
from policies.revocation import Revocation


def run(arguments: PolicyList) -> int:
    """Prints a table, newest last."""
    paths = require_run_directory(arguments.run_dir)
    registry = open_registry(paths)
    releases = registry.releases() if registry is not None else []
    if not releases and not arguments.json:
        print("no releases")
        return 0
    revocations, problem = revocations_if_known(paths)
    if problem:
        print(f"temper: what only the gate's ledger knows to be revoked is left out: {problem}", file=sys.stderr)
    revoked = {revocation.digest: revocation for revocation in revocations or ()}
    # Where the ledger cannot be read, that has just been said.
    promoted = undelivered_promotions(paths, registry) if registry is not None and not problem else {}
    if arguments.json:
        print(
            json_line({"releases": [_json(each, revoked, promoted) for each in releases], "revoked_problem": problem})
        )
        return 0
    print(f"{'release':>7}  {'update':>8}  {'return':>10}  {'violations':>10}  {'released':<19}  digest")
    for release in releases:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(release.issue_time_ns / 1e9))
        violations = f"{release.violating_episodes}/{release.episodes}"
        print(
            f"{release.number:>7}  {release.version:>8}  {release.return_mean:>10.2f}  {violations:>10}  {when:<19}  "
            f"{release.digest.hex()}{_revoked(release, revoked) or _canary(release, promoted)}"
        )
    return 0


def _json(release: Release, revoked: Mapping[bytes, Revocation], promoted: Mapping[int, Promotion]) -> dict[str, Any]:
    return {
        "number": release.number,
        "version": release.version,
        "artifact_digest": release.digest,
        "verdict_id": release.verdict_id,
        "return_mean": release.return_mean,
        "return_ci95": [release.return_ci95_low, release.return_ci95_high],
        "episodes": release.episodes,
        "violating_episodes": release.violating_episodes,
        "time": iso_time(release.issue_time_ns),
        "time_ns": release.issue_time_ns,
        "canary_share": release.canary_share,
        "promotion": _decision_json(release.promotion, promoted.get(release.number)),
        "revocation": _decision_json(release.revocation, revoked.get(release.digest)),
    }


def _decision_json(
    delivered: Promotion | Revocation | None, known: Promotion | Revocation | None
) -> dict[str, Any] | None:
    decision = delivered or known
    if decision is None:
        return None
    when = decision.issue_time_ns
    return {"why": decision.why, "time": iso_time(when), "time_ns": when, "delivered": delivered is not None}


def _revoked(release: Release, revoked: Mapping[bytes, Revocation]) -> str:
    revocation = release.revocation or revoked.get(release.digest)
    if revocation is None:
        return ""
    undelivered = " (undelivered)" if release.revocation is None else ""
    return f"  REVOKED{undelivered}: {printable(revocation.why)}"


def _canary(release: Release, promoted: Mapping[int, Promotion]) -> str:
    if not release.canary_share:
        return ""
    if release.promotion is not None:
        counts = f"{release.promotion.violating_episodes}/{release.promotion.episodes}"
        return f"  promoted, a canary of {release.canary_share:.4g} with violations {counts}"
    undelivered = ", promoted (undelivered)" if release.number in promoted else ""
    return f"  CANARY: a share of {release.canary_share:.4g} of the actors{undelivered}"
