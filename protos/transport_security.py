"""How one process protects its calls: by which certificates, whom it lets do what, and how often it refused.

A process has one Security, as it has one user: `use` sets it, `current` gives it; where nothing was set it comes from
the environment (TEMPER_CERTIFICATES, a directory; TEMPER_INSECURE_NETWORK, 1). With certificates every TCP connection
is TLS, in both directions with a certificate. Without them TCP is for this host alone, unless the network is declared
to be trusted. Unix sockets are never TLS: the permissions of the socket's file decide who connects.

A server looks at its files again at every handshake and every call, so a new certificate, another list of authorities,
or a shorter list of those admitted counts at once. A client keeps for its channel's life what it read as that was made.

Exceptions: CertificateError for files that cannot be used, PlainNetwork for an address that needs certificates where
there are none (both of protos.transport_errors).
"""

from __future__ import annotations

import ipaddress
import logging
import os
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import grpc

from protos.transport_connections import Connections
from protos.transport_errors import CertificateError, PlainNetwork
from protos.transport_roles import ROLES

if TYPE_CHECKING:
    from protos.transport_certificates import Credentials, Identity

CERTIFICATES_VARIABLE = "TEMPER_CERTIFICATES"
"""Environment variable with the directory of this process's certificate."""

INSECURE_NETWORK_VARIABLE = "TEMPER_INSECURE_NETWORK"
"""Environment variable: 1 lets this process talk plainly over a network."""

CERTIFICATES_MAX = 4_096
"""Certificates that are remembered as having been let in."""

LINES_MAX, LINES_S = 10, 60.0
"""Most refusals logged in one such time (s); the next line says how many were left out."""

_FILES = ("key.pem", "certificate.pem", "trusted.pem", "admitted.txt")

_log = logging.getLogger(__name__)


class Counts(NamedTuple):
    """What a server has refused since its start.

    Attributes:
      denied_calls: of callers who were known, and do not have the role.
      unauthenticated_calls: whose certificate has expired, or is not admitted any more, on a connection made before.
      connections: TLS connections that have begun.
      unauthenticated_connections: those of them by which no authenticated call has come: the handshake failed, or
        nothing was asked (yet). See `protos.transport_connections`.
    """

    denied_calls: int
    unauthenticated_calls: int
    connections: int
    unauthenticated_connections: int


class Security:
    """See the head of this module. For any number of threads.

    Args:
      certificates: directory of this process's certificate; None: no TLS. Raises CertificateError.
      local_roles: roles of callers without a certificate: on this host, or on a network declared to be trusted.
      insecure_network: whether to talk plainly to other hosts where there are no certificates.

    Attributes:
      connections: by TLS, to this process.
    """

    def __init__(
        self,
        certificates: Path | None = None,
        *,
        local_roles: frozenset[str] = frozenset(ROLES),
        insecure_network: bool = False,
    ) -> None:
        self.certificates = certificates
        self.local_roles = local_roles
        self.insecure_network = insecure_network
        self.connections = Connections()
        self._lock = threading.Lock()
        self._signature: object = None
        self._credentials: Credentials | None = None
        self._known: OrderedDict[bytes, Identity] = OrderedDict()
        self._denied = self._unauthenticated = 0
        self._lines = self._left_out = 0
        self._lines_since_s = 0.0
        if certificates is not None:
            self.credentials()

    @classmethod
    def from_environment(cls) -> Security:
        """As the environment says. Raises CertificateError."""
        given = os.environ.get(CERTIFICATES_VARIABLE)
        insecure = os.environ.get(INSECURE_NETWORK_VARIABLE) == "1"
        return cls(Path(given) if given else None, insecure_network=insecure)

    @property
    def open_to_all(self) -> bool:
        """Whether there is nothing to look at: no certificates, and every role for whoever can connect."""
        return self.certificates is None and self.local_roles == ROLES.keys()

    def check_plain(self, address: str) -> None:
        """Raises PlainNetwork where "HOST:PORT" is not this host's loopback, and nothing protects the calls."""
        host = address.rpartition(":")[0].strip("[]")
        if self.certificates is None and not self.insecure_network and not _is_loopback(host):
            raise PlainNetwork(
                f"address {address} is on a network, and there are no certificates: anybody could read the calls, and "
                "make them; give the directory of one (--certificates, transport.certificates; see temper keys), or "
                f"set transport.insecure_network or {INSECURE_NETWORK_VARIABLE}=1 if you trust everybody there"
            )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """For a client: what it shows, and whom it takes for a server. Raises CertificateError."""
        files = self.credentials()
        return grpc.ssl_channel_credentials(files.trusted, files.key, files.certificate)

    def server_credentials(self) -> grpc.ServerCredentials:
        """For a server: read anew whenever the files change. Raises CertificateError."""
        identity = self.credentials().identity
        if not identity.hosts:
            raise CertificateError(
                f"the certificate of {identity.name!r} in {self.certificates} is for calling only: no client would "
                "talk to a server that shows it; issue one with --host"
            )
        configured = _configuration(self.credentials())
        newest = self._credentials

        def on_handshake() -> grpc.ServerCertificateConfiguration:
            nonlocal configured, newest
            self.connections.begin()
            files = self._credentials_or_those_before()
            if files is not newest:
                newest, configured = files, _configuration(files)
            return configured

        return grpc.dynamic_ssl_server_credentials(configured, on_handshake, require_client_authentication=True)

    def credentials(self) -> Credentials:
        """What the files say now. Raises CertificateError."""
        # Here, because a process without TLS must not need it.
        from protos.transport_certificates import read_credentials  # noqa: PLC0415

        if self.certificates is None:
            raise CertificateError("this process has no certificates: give the directory of one (see temper keys)")
        signature = _signature(self.certificates)
        with self._lock:
            if self._credentials is None or signature != self._signature:
                self._credentials, self._signature = read_credentials(self.certificates), signature
                self._known.clear()
            return self._credentials

    def admit(self, certificate: bytes, peer: str) -> Identity:
        """Whose certificate (PEM) a call came with, on the connection from `peer`, which counts as authenticated.

        Raises CertificateError with the reason why the caller is not let in.
        """
        files = self._credentials_or_those_before()
        with self._lock:
            identity = self._known.get(certificate)
        if identity is None or time.time() >= identity.until_s:
            identity = files.admit(certificate)
        with self._lock:
            self._known[certificate] = identity
            self._known.move_to_end(certificate)
            if len(self._known) > CERTIFICATES_MAX:
                self._known.popitem(last=False)
        self.connections.identify(peer)
        return identity

    def refused(self, line: str, *, authenticated: bool) -> None:
        """Counts a call that was refused, and logs it if not too many were."""
        with self._lock:
            if authenticated:
                self._denied += 1
            else:
                self._unauthenticated += 1
        self._warn(line)

    def counts(self) -> Counts:
        """What was refused so far."""
        with self._lock:
            return Counts(self._denied, self._unauthenticated, *self.connections.counts())

    def _credentials_or_those_before(self) -> Credentials:
        """What the files say; while they cannot be used, because they are being replaced, what they said before."""
        try:
            return self.credentials()
        except CertificateError as error:
            if self._credentials is None:
                raise
            self._warn(f"the certificates that were read before stay in use: {error}")
            return self._credentials

    def _warn(self, line: str) -> None:
        now_s = time.monotonic()
        with self._lock:
            if now_s - self._lines_since_s > LINES_S:
                self._lines, self._lines_since_s = 0, now_s
            self._lines += 1
            if self._lines > LINES_MAX:
                self._left_out += 1
                return
            left_out, self._left_out = self._left_out, 0
        _log.warning("%s%s", line, f" ({left_out} such lines left out before)" if left_out else "")


_current: list[Security] = []


def use(security: Security) -> Security:
    """Makes this the Security of the process from now on, and returns it."""
    _current[:] = [security]
    return security


def current() -> Security:
    """The Security of the process. Raises CertificateError where the environment names files that cannot be used."""
    return _current[0] if _current else use(Security.from_environment())


def _configuration(files: Credentials) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(files.key, files.certificate)], files.trusted)


def _signature(directory: Path) -> object:
    """What changes when a file does."""
    found: list[tuple[int, ...] | None] = []
    for name in _FILES:
        try:
            status = (directory / name).stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode))
    return found


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        # A name may be anybody's, whatever it resolves to now.
        return host == "localhost"
