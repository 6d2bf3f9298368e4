"""The policy registry of a run directory, for reading, with the run's own key and id as the trust; and what of its
releases was revoked or promoted, which the gate's ledger may know before the registry does.

Exceptions: launch.errors.RunDirectoryError; LedgerError; those of policies.registry and policies.signing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from launch.errors import RunDirectoryError
from launch.run_paths import RunPaths
from launch.verdicts import Verdict, read_verdict
from policies.promotion import Promotion
from policies.registry import PolicyRegistry, RegistryError
from policies.revocation import Revocation
from policies.signing import KeyFileError, VerifyKey
from policies.trust import TrustPolicy
from safety.history import DecisionHistory
from safety.keys.history import anchor_of
from safety.ledger import LedgerEntry, LedgerError, read_ledger


def open_registry(paths: RunPaths) -> PolicyRegistry | None:
    """The registry of a run, or None while nothing has been written there yet.

    Raises:
      RunDirectoryError: there are policies, but not the key that their verdicts must verify with.
      KeyFileError: that key cannot be read.
    """
    return PolicyRegistry(paths.policies, require_trust(paths)) if paths.policies.is_dir() else None


def require_trust(paths: RunPaths) -> TrustPolicy:
    """The run's own id and the public key of its gate: what its decisions must verify with.

    Raises:
      RunDirectoryError: they are not there; KeyFileError: the key cannot be read.
    """
    if not paths.verify_key.is_file() or not paths.run_id.is_file():
        raise RunDirectoryError(f"{paths.root} does not have the key {paths.verify_key}: nothing can be verified")
    run_id = paths.run_id.read_text(encoding="utf-8").strip()
    return TrustPolicy(VerifyKey.load(paths.verify_key), run_id)


def newest_release(paths: RunPaths) -> Verdict | None:
    """The verified verdict of the newest release that may act everywhere, or None when there is none.

    Raises:
      RunDirectoryError, KeyFileError: as open_registry.
      RegistryError: the release cannot be trusted.
    """
    registry = open_registry(paths)
    release = registry.newest() if registry is not None else None
    return read_verdict(release.signed_verdict) if release is not None else None


def has_ledger(paths: RunPaths) -> bool:
    """Whether the gate's ledger is here, and for us to read."""
    return os.access(paths.safety / "ledger.jsonl", os.R_OK)


def undelivered(paths: RunPaths, registry: PolicyRegistry) -> list[Revocation]:
    """Revocations that are in the gate's ledger and not in the registry, oldest first; none where there is no ledger.

    Raises:
      LedgerError: it is damaged; RegistryError: so is the registry.
    """
    if not has_ledger(paths):
        return []
    history = read_history(paths, registry.trust)
    known = {revocation.digest for revocation in registry.revocations()}
    lacking = [past.signed for past in history.revocations if past.statement.artifact_digest not in known]
    return [Revocation.verified(signed, registry.trust) for signed in lacking]


def undelivered_promotions(paths: RunPaths, registry: PolicyRegistry) -> dict[int, Promotion]:
    """Promotions in the gate's ledger that are not in the registry, by number of the release; errors as `undelivered`.

    Nobody need deliver them: a learner that runs asks the safety service for them.
    """
    if not has_ledger(paths):
        return {}
    history = read_history(paths, registry.trust)
    known = {promotion.release_number for promotion in registry.promotions()}
    found = [Promotion.verified(past.signed, registry.trust) for past in history.promotions]
    return {promotion.release_number: promotion for promotion in found if promotion.release_number not in known}


def read_history(paths: RunPaths, trust: TrustPolicy) -> DecisionHistory:
    """What the gate has decided, the whole ledger verified. Raises LedgerError."""
    return history_of(read_ledger(paths.safety), paths, trust)


def history_of(entries: Sequence[LedgerEntry], paths: RunPaths, trust: TrustPolicy) -> DecisionHistory:
    """As `read_history`, of entries already read."""
    try:
        return DecisionHistory(entries, trust.verify_key, trust.run_id)
    except LedgerError as error:
        raise LedgerError(exchanged_key(entries, paths, trust) or str(error)) from error


def exchanged_key(entries: Sequence[LedgerEntry], paths: RunPaths, trust: TrustPolicy) -> str:
    """What to say where ledger and key file are not of one run; "" where they are, or nobody can tell."""
    try:
        first = anchor_of(entries[0]).key_id if entries else trust.verify_key.key_id
    except LedgerError:
        return ""
    if first == trust.verify_key.key_id:
        return ""
    return (
        f"the ledger in {paths.safety} begins with key {first}, the file {paths.verify_key} has key "
        f"{trust.verify_key.key_id}: one of the two is another run's, or was exchanged; nothing is believed until the "
        "right one is back"
    )


def revocations(paths: RunPaths) -> list[Revocation]:
    """Every revocation of the run, oldest first: those in its registry, and those in the gate's ledger alone.

    Raises:
      RunDirectoryError, KeyFileError: as open_registry.
      LedgerError, RegistryError: as undelivered.
    """
    registry = open_registry(paths)
    if registry is None:
        return []
    # The ledger first: what goes from it to the registry in between is then found in both.
    lacking = undelivered(paths, registry)
    by_digest = {revocation.digest: revocation for revocation in [*lacking, *registry.revocations()]}
    return sorted(by_digest.values(), key=lambda revocation: revocation.number)


def revocations_if_known(paths: RunPaths) -> tuple[list[Revocation] | None, str]:
    """As `revocations`, for those who go on without: None, and why, where they cannot be had."""
    try:
        return revocations(paths), ""
    except (RunDirectoryError, KeyFileError, RegistryError, LedgerError) as error:
        return None, str(error)
