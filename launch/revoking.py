"""Takes releases of a run back: through its safety service if the run is running, else in that service's place.

Live, the revocation is handed to the learner, which tells the actors. Otherwise the gate's ledger is opened in the
service's place, under its own lock, and the registry is written: the learner tells the actors when it starts.

Exceptions: launch.errors.BadInput for what cannot be revoked; LaunchError where a service does not answer; StoreError
and the like of the ledger, the keys and the registry (see launch.errors).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from launch.errors import BadInput, LaunchError
from launch.process_list import read_process_list
from launch.releases import open_registry
from launch.run_directory import holder_of
from launch.run_paths import RunPaths
from policies.registry import PolicyRegistry
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
      LedgerError, CustodyError: no service runs, and the gate's directory cannot be opened.
    """
    registry = open_registry(paths)
    if registry is None:
        raise BadInput(f"the run in {paths.root} has released nothing: there is nothing to revoke")
    if holder_of(paths) is None:
        with contextlib.closing(_open_docket(paths, registry)) as docket:
            yield lambda number, why: _revoke_offline(docket, registry, number, why)
        return
    listed = read_process_list(paths)
    if listed is None:
        raise BadInput(f"the run in {paths.root} is just starting or ending: try again in a moment")
    with SafetyClient(listed["addresses"]["safety"]) as safety:
        policy_address: str = listed["addresses"]["policy"]
        yield lambda number, why: _revoke_live(safety, policy_address, registry, number, why)


def _open_docket(paths: RunPaths, registry: PolicyRegistry) -> Docket:
    if not (paths.safety / "ledger.jsonl").is_file():
        raise BadInput(f"{paths.safety} has no ledger: only where the safety service ran can its releases be revoked")
    return Docket(paths.safety, registry.trust.run_id)


def _revoke_offline(docket: Docket, registry: PolicyRegistry, number: int, why: str) -> RevokedRelease:
    try:
        signed = docket.revoke(registry.trust.run_id, number, why)
    except RevocationRefused as error:
        raise BadInput(str(error)) from error
    revocation = registry.revoke(signed)
    newest = registry.newest()
    return RevokedRelease(revocation, None, 0 if newest is None else newest.number)


def _revoke_live(
    safety: SafetyClient, policy_address: str, registry: PolicyRegistry, number: int, why: str
) -> RevokedRelease:
    if number < 1:
        raise BadInput(f"release {number} cannot be: they are numbered from 1")
    try:
        signed = safety.revoke(registry.trust.run_id, number, why)
    except RevocationRefused as error:
        raise BadInput(str(error)) from error
    except SafetyUnavailable as error:
        raise LaunchError(f"{error}; whether release {number} is revoked is not known: try again") from error
    revocation = Revocation.verified(signed, registry.trust)
    try:
        answer = hand_over_revocation(policy_address, signed, DELIVERY_S_MAX)
    except DistributionUnavailable as error:
        # So the learner finds it there when it starts.
        registry.revoke(signed)
        return RevokedRelease(revocation, None, None, str(error))
    except RevocationNotTaken as error:
        raise LaunchError(f"release {number} is revoked, but the learner does not take it: {error}") from error
    return RevokedRelease(revocation, answer.watchers, answer.release_number)
