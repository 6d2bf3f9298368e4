"""`temper policy list`: the releases of a run, one line each; those that were taken back say so, and why, and so do
canaries, whether they were promoted or not.

What is in the gate's ledger and has not been delivered to the registry is shown as such.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Container, Mapping

from launch.arguments import PolicyList
from launch.json_output import printable
from launch.releases import open_registry, revocations_if_known, undelivered_promotions
from launch.run_paths import require_run_directory
from policies.registry import Release
from policies.revocation import Revocation


def run(arguments: PolicyList) -> int:
    """Prints a table, newest last."""
    paths = require_run_directory(arguments.run_dir)
    registry = open_registry(paths)
    releases = registry.releases() if registry is not None else []
    if not releases:
        print("no releases")
        return 0
    revocations, problem = revocations_if_known(paths)
    if problem:
        print(f"temper: what only the gate's ledger knows to be revoked is left out: {problem}", file=sys.stderr)
    revoked = {revocation.digest: revocation for revocation in revocations or ()}
    # Where the ledger cannot be read, that has just been said.
    promoted = undelivered_promotions(paths, registry) if registry is not None and not problem else {}
    print(f"{'release':>7}  {'update':>8}  {'return':>10}  {'violations':>10}  {'released':<19}  digest")
    for release in releases:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(release.issue_time_ns / 1e9))
        violations = f"{release.violating_episodes}/{release.episodes}"
        print(
            f"{release.number:>7}  {release.version:>8}  {release.return_mean:>10.2f}  {violations:>10}  {when:<19}  "
            f"{release.digest.hex()}{_revoked(release, revoked) or _canary(release, promoted)}"
        )
    return 0


def _revoked(release: Release, revoked: Mapping[bytes, Revocation]) -> str:
    revocation = release.revocation or revoked.get(release.digest)
    if revocation is None:
        return ""
    undelivered = " (undelivered)" if release.revocation is None else ""
    return f"  REVOKED{undelivered}: {printable(revocation.why)}"


def _canary(release: Release, promoted: Container[int]) -> str:
    if not release.canary_share:
        return ""
    if release.promotion is not None:
        counts = f"{release.promotion.violating_episodes}/{release.promotion.episodes}"
        return f"  promoted, a canary of {release.canary_share:.4g} with violations {counts}"
    undelivered = ", promoted (undelivered)" if release.number in promoted else ""
    return f"  CANARY: a share of {release.canary_share:.4g} of the actors{undelivered}"
