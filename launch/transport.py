"""The settings of the wire. What they do is in protos.transport_security; launch.securing applies them to a process."""

from __future__ import annotations

from dataclasses import dataclass

from protos.transport_roles import ROLES
from replay.settings import setting


@dataclass(frozen=True)
class TransportConfig:
    """How calls between the processes of a run are protected. Unix sockets are by the permissions of their files."""

    certificates: str = setting(
        "",
        "directory of this process's certificate, as `temper keys issue` makes it: TCP is then TLS, and callers need "
        "the role that each call asks for; --certificates or TEMPER_CERTIFICATES where processes differ; '' for none",
    )
    local_roles: tuple[str, ...] = setting(
        tuple(ROLES),
        "roles of callers without a certificate: over a Unix socket, or over loopback where there are no certificates",
        choices=tuple(ROLES),
    )
    insecure_network: bool = setting(
        False,
        "whether TCP beyond this host is allowed without certificates: anybody who reaches a port can then read, "
        "append, offer and revoke",
    )
