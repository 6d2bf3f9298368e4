"""`temper policy list`: the releases of a run, one line each; those that were taken back say so."""

from __future__ import annotations

import time

from launch.arguments import PolicyList
from launch.json_output import printable
from launch.releases import open_registry
from launch.run_paths import require_run_directory
from policies.registry import Release


def run(arguments: PolicyList) -> int:
    """Prints a table, newest last."""
    registry = open_registry(require_run_directory(arguments.run_dir))
    releases = registry.releases() if registry is not None else []
    if not releases:
        print("no releases")
        return 0
    print(f"{'release':>7}  {'update':>8}  {'return':>10}  {'violations':>10}  {'released':<19}  digest")
    for release in releases:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(release.issue_time_ns / 1e9))
        violations = f"{release.violating_episodes}/{release.episodes}"
        print(
            f"{release.number:>7}  {release.version:>8}  {release.return_mean:>10.2f}  {violations:>10}  {when:<19}  "
            f"{release.digest.hex()}{_revoked(release)}"
        )
    return 0


def _revoked(release: Release) -> str:
    return "" if release.revocation is None else f"  REVOKED: {printable(release.revocation.why)}"
