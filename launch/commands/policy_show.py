"""`temper policy show`: one release, its network and its verdict with every criterion."""

from __future__ import annotations

import dataclasses
import sys
import time

from launch.arguments import PolicyShow
from launch.errors import BadInput
from launch.json_output import printable
from launch.releases import open_registry, revocations_if_known
from launch.run_paths import RunPaths, require_run_directory
from policies.artifact import Artifact
from policies.config import NetworkConfig
from policies.registry import Release
from protos.safety.v1 import safety_pb2


def run(arguments: PolicyShow) -> int:
    """Prints the release after its verdict and its bytes have been verified."""
    paths = require_run_directory(arguments.run_dir)
    registry = open_registry(paths)
    releases = {release.number: release for release in registry.releases()} if registry is not None else {}
    number = arguments.release or max(releases, default=0)
    if number not in releases:
        known = f"1 to {max(releases)}" if releases else "none"
        raise BadInput(f"no release {number} in {arguments.run_dir}; releases there are: {known}")
    release = releases[number]
    artifact = Artifact.from_bytes(registry.artifact(release.digest) if registry is not None else b"", release.digest)
    verdict = safety_pb2.VerdictStatement.FromString(release.signed_verdict.payload)
    count = sum(array.size for array in artifact.parameters.values())
    print(f"release     {release.number}, update {release.version}")
    _print_revocation(paths, release)
    _print_canary(release)
    print(f"artifact    {release.digest.hex()}")
    print(f"network     {_network(artifact.spec.network)}")
    print(
        f"            {count:,} parameters, observation {artifact.spec.observation.describe()}, "
        f"{artifact.spec.action.describe()}"
    )
    print(f"verdict     {release.verdict_id}, signed by key {release.signed_verdict.key_id}")
    print(f"valid       {_time(release.issue_time_ns)} to {_time(release.expiry_time_ns)}")
    print(
        f"evaluation  return {release.return_mean:.2f}, 95% [{release.return_ci95_low:.2f}, "
        f"{release.return_ci95_high:.2f}], {release.episodes} episodes, {release.violating_episodes} with a violation"
    )
    for criterion in verdict.criteria:
        mark = "passed" if criterion.passed else "failed"
        print(f"criterion   {criterion.name} {mark}: {criterion.explanation}")
    return 0


def _print_revocation(paths: RunPaths, release: Release) -> None:
    revocations, problem = revocations_if_known(paths)
    undelivered = {revocation.digest: revocation for revocation in revocations or ()}.get(release.digest)
    revocation = release.revocation or undelivered
    if revocation is not None:
        what = "no actor acts with it" if release.revocation else "not delivered yet: see `temper policy verify`"
        print(f"REVOKED     {_time(revocation.issue_time_ns)}: {printable(revocation.why)}; {what}")
    elif problem:
        print(f"temper: whether only the gate's ledger knows it to be revoked is left out: {problem}", file=sys.stderr)


def _print_canary(release: Release) -> None:
    if not release.canary_share:
        return
    share = f"canary      a share of {release.canary_share:.4g} of the actors"
    if release.promotion is None:
        print(f"{share}, not promoted")
    else:
        when = _time(release.promotion.issue_time_ns)
        print(f"{share}, promoted {when}: {printable(release.promotion.why)}")


def _network(network: NetworkConfig) -> str:
    """Its settings by their names, those alone that mean something in it."""
    absent = [f"{kind}_" for kind in ("conv", "resnet") if kind != network.kind]
    absent += ["core"] if network.core == "none" else []
    told = [
        f"{name} {_plain(value)}"
        for name, value in dataclasses.asdict(network).items()
        if name != "kind" and value is not False and not name.startswith(tuple(absent))
    ]
    return ", ".join([network.kind, *told])


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _time(nanoseconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(nanoseconds / 1e9))
