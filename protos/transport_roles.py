"""Who may call what: the roles, the one table of every method's role, and which roles each kind of process needs.

A role is held by a certificate as the URI temper://role/NAME, several by several; a caller on this host, over a Unix
socket, holds those that the socket's server was told. Enforced by `protos.transport_guard`.

Exceptions: RoleError (a ValueError) for a word that is neither a role nor a kind of process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

ROLES: Mapping[str, str] = {
    "append": "write trajectories",
    "sample": "draw batches, and set priorities of what was drawn",
    "offer": "offer candidates to the gate, and renew the lease of the snapshots",
    "evaluate": "write what was found out about records",
    "revoke": "take releases back",
    "watch": "get the policies, or have them act",
    "read": "read records, verdicts, counters",
    "administer": "put records under quarantine, change tables",
}
"""What each role lets its holder do."""

ANY_ROLE = "any"
"""In the table: whoever holds a role at all."""

ROLE_OF_METHOD: Mapping[str, str] = {
    "/temper.replay.v1.Replay/Append": "append",
    "/temper.replay.v1.Replay/Sample": "sample",
    "/temper.replay.v1.Replay/UpdatePriorities": "sample",
    "/temper.replay.v1.Replay/List": "read",
    "/temper.replay.v1.Replay/Stats": "read",
    "/temper.replay.v1.Replay/Locate": "read",
    "/temper.replay.v1.Replay/ListQuarantines": "read",
    "/temper.replay.v1.Replay/Annotate": "evaluate",
    "/temper.replay.v1.Replay/Quarantine": "administer",
    "/temper.replay.v1.Replay/SetTable": "administer",
    "/temper.policy.v1.PolicyDistribution/Watch": "watch",
    "/temper.policy.v1.PolicyDistribution/Fetch": "watch",
    "/temper.policy.v1.PolicyDistribution/Revoke": "revoke",
    "/temper.policy.v1.Inference/Act": "watch",
    "/temper.safety.v1.Safety/Evaluate": "offer",
    "/temper.safety.v1.Safety/RenewLease": "offer",
    "/temper.safety.v1.Safety/GetTrust": "read",
    "/temper.safety.v1.Safety/ListVerdicts": "read",
    "/temper.safety.v1.Safety/ListRevocations": "read",
    "/temper.safety.v1.Safety/ListPromotions": "read",
    "/temper.safety.v1.Safety/Revoke": "revoke",
    "/temper.common.v1.Access/Callers": "read",
    "/grpc.health.v1.Health/Check": ANY_ROLE,
    "/grpc.health.v1.Health/List": ANY_ROLE,
    "/grpc.health.v1.Health/Watch": ANY_ROLE,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": ANY_ROLE,
}
"""The role that each method needs. A method that is not here is refused to everybody whose roles are looked at."""

KINDS: Mapping[str, tuple[str, ...]] = {
    "replay": (),
    "safety": ("read",),
    "learner": ("sample", "offer", "read"),
    "actor": ("append", "watch"),
    "inference": ("watch",),
    "auditor": ("read", "evaluate"),
    "operator": tuple(ROLES),
}
"""The roles that each kind of process needs, as a caller of the others."""

_URI = "temper://role/"


class RoleError(ValueError):
    """Neither a role nor a kind of process; the message names those that there are."""


def roles_of(words: Iterable[str]) -> frozenset[str]:
    """The roles of a list of roles and kinds of process. Raises RoleError."""
    roles: set[str] = set()
    for word in words:
        if word not in ROLES and word not in KINDS:
            raise RoleError(f"{word!r} is no role ({', '.join(ROLES)}) and no kind of process ({', '.join(KINDS)})")
        roles |= {word} if word in ROLES else set(KINDS[word])
    return frozenset(roles)


def role_uri(role: str) -> str:
    """How a certificate says that its owner holds a role."""
    return _URI + role


def roles_in(uris: Iterable[str]) -> frozenset[str]:
    """The roles that a certificate's URIs name; others' URIs, and roles that are not known here, are passed over."""
    return frozenset(uri.removeprefix(_URI) for uri in uris if uri.startswith(_URI)) & ROLES.keys()


def may_call(roles: frozenset[str], method: str) -> bool:
    """Whether a holder of these roles may call a method, by its full name ("/package.Service/Method")."""
    needed = ROLE_OF_METHOD.get(method)
    return bool(roles) if needed == ANY_ROLE else needed in roles
