"""How the wire is set up: addresses, message limits, health checking and reflection; the same for every service.

Addresses are "unix:/path/to/socket" or "host:port" (port 0: any free one). Knows no particular service. What protects
the calls is in `protos.transport_security`; a server that looks at who calls is made by `protos.transport_guard`.

Exceptions: AddressError (a ValueError) for an address that cannot be parsed, is bound by somebody else, or is unsafe:
on a network without certificates, or a socket in a directory where others may write; CertificateError
(protos.transport_errors).
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from protos.transport_errors import PlainNetwork
from protos.transport_security import Security, current

MESSAGE_BYTES_MAX = 32 * 1024 * 1024
"""Largest message either end accepts; senders aim for 64 to 256 KB."""

UNIX_PATH_BYTES_MAX = 107
"""A Unix socket path longer than this cannot be bound on Linux."""

_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Reconnect soon: a restarted peer should be found within a second or two.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Not a pause: the time that one attempt is given, which a busy machine or a distant peer may need.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # Without this two servers can share one port and each get half of the calls.
    ("grpc.so_reuseport", 0),
)


class AddressError(ValueError):
    """An address cannot be parsed or bound; the message says which and why."""


def check_address(address: str) -> str:
    """Returns `address` if it is "unix:PATH" or "HOST:PORT"; raises AddressError otherwise."""
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        if not path:
            raise AddressError("address 'unix:' names no path: write unix:/path/to/socket")
        if len(os.fsencode(path)) > UNIX_PATH_BYTES_MAX:
            length = len(os.fsencode(path))
            raise AddressError(f"socket path {path!r} has {length} bytes, the limit is {UNIX_PATH_BYTES_MAX}")
        return address
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise AddressError(f"address {address!r} is neither unix:PATH nor HOST:PORT")
    return address


def check_safe(address: str, security: Security | None = None) -> str:
    """As `check_address`; and HOST may be another host's only if there are certificates, or the network is trusted.

    Args:
      address: to call, or to listen at.
      security: None: the process's own.
    """
    check_address(address)
    try:
        if not address.startswith("unix:"):
            (security or current()).check_plain(address)
    except PlainNetwork as error:
        raise AddressError(str(error)) from error
    return address


def channel(address: str, security: Security | None = None) -> grpc.Channel:
    """A channel for threads. Never fork after this. Raises AddressError, CertificateError."""
    security = security or current()
    check_safe(address, security)
    if is_tls(address, security):
        return grpc.secure_channel(address, security.channel_credentials(), options=_OPTIONS)
    return grpc.insecure_channel(address, options=_OPTIONS)


def aio_channel(address: str, security: Security | None = None) -> grpc.aio.Channel:
    """A channel for one asyncio loop. Raises AddressError, CertificateError."""
    security = security or current()
    check_safe(address, security)
    if is_tls(address, security):
        return grpc.aio.secure_channel(address, security.channel_credentials(), options=_OPTIONS)
    return grpc.aio.insecure_channel(address, options=_OPTIONS)


def is_tls(address: str, security: Security) -> bool:
    """Whether calls to or at an address are encrypted, and both ends show certificates."""
    return security.certificates is not None and not address.startswith("unix:")


def server_options() -> Sequence[tuple[str, int]]:
    """Channel arguments for a server that accepts what `channel` sends."""
    return _OPTIONS


def bind(server: grpc.Server | grpc.aio.Server, address: str, security: Security | None = None) -> str:
    """Binds `address` to a server that has not started, and returns it with the port actually bound.

    A socket file is for this user alone, and so is its directory, which is made where it is missing; a file that a
    killed server left behind is taken over.

    Raises:
      AddressError: the address is malformed or unsafe, or somebody already listens there.
      CertificateError: there are certificates that cannot be used.
    """
    security = security or current()
    check_safe(address, security)
    if address.startswith("unix:"):
        _bind_socket(server, address)
        return address
    _check_can_bind(address)
    with _refusal_of(address):
        if is_tls(address, security):
            port = server.add_secure_port(address, security.server_credentials())
            security.connections.listens_at(port)
        else:
            port = server.add_insecure_port(address)
    return f"{address.rpartition(':')[0]}:{port}"


def add_health_and_reflection(server: grpc.aio.Server, service_names: Sequence[str]) -> health.aio.HealthServicer:
    """Adds grpc.health.v1 (all services SERVING) and server reflection to an asyncio server; returns the servicer."""
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection.enable_server_reflection([*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    return servicer


async def set_serving(servicer: health.aio.HealthServicer, service_names: Sequence[str]) -> None:
    """Marks the server as a whole ("") and each named service as SERVING."""
    for name in ("", *service_names):
        await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)


def _bind_socket(server: grpc.Server | grpc.aio.Server, address: str) -> None:
    path = Path(address.removeprefix("unix:"))
    if _is_listening(str(path)):
        raise AddressError(f"address {address} is already bound by a running server; stop it or choose another")
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        mode = stat.S_IMODE(path.parent.stat().st_mode)
    except OSError as error:
        raise AddressError(f"address {address} cannot be bound: {error.strerror}: {path.parent}") from error
    if mode & 0o022:
        raise AddressError(
            f"address {address} is in {path.parent}, which has mode {mode:04o}: others could put a socket of their own "
            "there; choose a directory where only its owner may write (chmod 700)"
        )
    # Closed from the first moment on; 0o077 and not more, for other threads may make directories meanwhile.
    before = os.umask(0o077)
    try:
        with _refusal_of(address):
            server.add_insecure_port(address)
        path.chmod(0o600)
    finally:
        os.umask(before)


@contextlib.contextmanager
def _refusal_of(address: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise AddressError(f"address {address} cannot be bound (already in use, or not this machine's)") from error


def _check_can_bind(address: str) -> None:
    """Asks the system before gRPC does, which would write its own account of a refusal to stderr."""
    host, _, port = address.rpartition(":")
    try:
        resolved = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, where = resolved[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as error:
        raise AddressError(
            f"address {address} cannot be bound: {error.strerror}; stop who has it or choose another"
        ) from error


def _is_listening(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (BlockingIOError, TimeoutError):
            return True  # so busy that its backlog is full
        except OSError:
            return False
    return True
