"""Takes releases of a run back: through its safety service if the run is running, else in that service's place.

A release is revoked once that is in the gate's ledger. Live, the safety service writes it there; otherwise the ledger
is opened in the service's place, under its own lock. Then it is written to the registry, where a learner that starts
finds it, and last it is handed to the learner that runs, which tells the actors. Whoever is killed in between leaves
revocations that are in the ledger alone: a learner asks the safety service for these (learner.decisions), and the
next one to revoke anything, or whoever calls `store_undelivered`, delivers them.

Exceptions: launch.errors.BadInput for what cannot be revoked; LaunchError where a service does not answer, or what is
revoked cannot be stored; LedgerError and the like of the keys and the registry (see launch.errors).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from launch.errors import BadInput, LaunchError
from launch.process_list import read_process_list
from launch.releases import open_registry, undelivered
from launch.run_directory import holder_of
from launch.run_paths import RunPaths, key_directory
from policies.registry import PolicyRegistry, RegistryError
from policies.release_client import DistributionUnavailable, RevocationNotTaken, hand_over_revocation
from policies.revocation import Revocation
from safety.client import SafetyClient, SafetyUnavailable
from safety.docket import Docket
from safety.revocations import RevocationRefused

DELIVERY_S_MAX = 10.0
"""How long the learner may take to answer; it may be starting."""


class RevokedRelease(NamedTuple):
    """What came of it.

    Attributes:
      revocation: as it was signed, now or when the release was revoked before.
      watchers: clients that were told at once; None: nobody could be, they hear of it when the learner starts.
      offered: number of the release that is offered now, 0 for none; None where it is not known.
      problem: why the learner of a run that is running was not told; "" where it was, or none runs.
    """

    revocation: Revocation
    watchers: int | None
    offered: int | None
    problem: str = ""


Revoke = Callable[[int, str], RevokedRelease]
"""Revokes the release of a number, and says why. Raises BadInput, LaunchError."""


@contextlib.contextmanager
def revoking(paths: RunPaths) -> Iterator[Revoke]:
    """What takes back releases of the run, as often as is wanted within the context.

    Raises:
      BadInput: nothing has ever been released there, or it is just starting or ending.
      LedgerError, CustodyError, KeyFileError: no service runs, and the gate's directory or keys cannot be opened.
    """
    registry = open_registry(paths)
    if registry is None:
        raise BadInput(f"the run in {paths.root} has released nothing: there is nothing to revoke")
    if holder_of(paths) is None:
        with contextlib.closing(_open_docket(paths, registry)) as docket:
            _store_what_can_be(undelivered(paths, registry), registry)
            yield lambda number, why: _revoke_offline(docket, registry, number, why)
        return
    listed = read_process_list(paths)
    if listed is None:
        raise BadInput(f"the run in {paths.root} is just starting or ending: try again in a moment")
    with SafetyClient(listed["addresses"]["safety"]) as safety:
        policy_address: str = listed["addresses"]["policy"]
        _deliver_all(policy_address, registry, undelivered(paths, registry))
        yield lambda number, why: _revoke_live(safety, policy_address, registry, number, why)


def store_undelivered(paths: RunPaths) -> int:
    """Writes to the registry what was revoked and is in the ledger alone, and returns how many releases that is.

    To be called before a run's processes are started: its learner might not wait until the safety service can be asked.

    Raises:
      LedgerError, RegistryError, RunDirectoryError, KeyFileError: something there is damaged.
      LaunchError: it cannot be stored.
    """
    registry = open_registry(paths)
    if registry is None:
        return 0
    left = undelivered(paths, registry)
    _store(left, registry)
    return len(left)


def _store(revocations: Sequence[Revocation], registry: PolicyRegistry) -> None:
    for revocation in revocations:
        try:
            registry.revoke(revocation.signed)
        except RegistryError as error:
            number = revocation.release_number
            raise LaunchError(f"release {number} is revoked, but the registry cannot store that: {error}") from error


def _open_docket(paths: RunPaths, registry: PolicyRegistry) -> Docket:
    if not (paths.safety / "ledger.jsonl").is_file():
        raise BadInput(f"{paths.safety} has no ledger: only where the safety service ran can its releases be revoked")
    run_id = registry.trust.run_id
    # Where the keys are, the docket reads once nobody else can change it: here it is only seen that they lie apart.
    key_directory(paths.safety, run_id)
    return Docket(paths.safety, run_id)


def _revoke_offline(docket: Docket, registry: PolicyRegistry, number: int, why: str) -> RevokedRelease:
    try:
        signed = docket.revoke(registry.trust.run_id, number, why)
    except RevocationRefused as error:
        raise BadInput(str(error)) from error
    revocation = Revocation.verified(signed, registry.trust)
    _store([revocation], registry)
    newest = registry.newest()
    return RevokedRelease(revocation, None, 0 if newest is None else newest.number)


def _revoke_live(
    safety: SafetyClient, policy_address: str, registry: PolicyRegistry, number: int, why: str
) -> RevokedRelease:
    try:
        signed = safety.revoke(registry.trust.run_id, number, why)
    except RevocationRefused as error:
        raise BadInput(str(error)) from error
    except SafetyUnavailable as error:
        raise LaunchError(f"{error}; whether release {number} is revoked is not known: try again") from error
    return _deliver(policy_address, registry, Revocation.verified(signed, registry.trust))


def _store_what_can_be(revocations: Sequence[Revocation], registry: PolicyRegistry) -> None:
    for revocation in revocations:
        # What fails here must not keep another release from being revoked, and is tried again then.
        with contextlib.suppress(LaunchError):
            _store([revocation], registry)


def _deliver_all(policy_address: str, registry: PolicyRegistry, revocations: Sequence[Revocation]) -> None:
    _store_what_can_be(revocations, registry)
    for revocation in revocations:
        if _deliver(policy_address, registry, revocation).problem:
            return


def _deliver(policy_address: str, registry: PolicyRegistry, revocation: Revocation) -> RevokedRelease:
    unstored = ""
    try:
        # Before the learner is told: one that is just starting has perhaps looked already, or will look only now.
        registry.revoke(revocation.signed)
    except RegistryError as error:
        unstored = str(error)
    try:
        answer = hand_over_revocation(policy_address, revocation.signed, DELIVERY_S_MAX)
    except DistributionUnavailable as error:
        return RevokedRelease(revocation, None, None, "; ".join(filter(None, (str(error), unstored))))
    except RevocationNotTaken as error:
        number = revocation.release_number
        raise LaunchError(f"release {number} is revoked, but the learner does not take it: {error}") from error
    return RevokedRelease(revocation, answer.watchers, answer.release_number)
