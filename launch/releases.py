"""Opens the policy registry of a run directory for reading, with the run's own key and id as the trust.

Exceptions: launch.errors.RunDirectoryError; those of policies.registry and policies.signing.
"""

from __future__ import annotations

from launch.errors import RunDirectoryError
from launch.run_paths import RunPaths
from launch.verdicts import Verdict, read_verdict
from policies.registry import PolicyRegistry
from policies.signing import VerifyKey
from policies.trust import TrustPolicy


def open_registry(paths: RunPaths) -> PolicyRegistry | None:
    """The registry of a run, or None while nothing has been written there yet.

    Raises:
      RunDirectoryError: there are policies, but not the key that their verdicts must verify with.
      KeyFileError: that key cannot be read.
    """
    if not paths.policies.is_dir():
        return None
    if not paths.verify_key.is_file() or not paths.run_id.is_file():
        raise RunDirectoryError(
            f"{paths.root} has policies but not the key {paths.verify_key}: nothing can be verified"
        )
    run_id = paths.run_id.read_text(encoding="utf-8").strip()
    return PolicyRegistry(paths.policies, TrustPolicy(VerifyKey.load(paths.verify_key), run_id))


def newest_release(paths: RunPaths) -> Verdict | None:
    """The verified verdict of the newest release, or None when nothing has been released.

    Raises:
      RunDirectoryError, KeyFileError: as open_registry.
      RegistryError: the release cannot be trusted.
    """
    registry = open_registry(paths)
    release = registry.newest() if registry is not None else None
    return read_verdict(release.signed_verdict) if release is not None else None
