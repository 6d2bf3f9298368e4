"""How the wire is set up: addresses, message limits, health checking and reflection; the same for every service.

Addresses are "unix:/path/to/socket" or "host:port" (port 0: any free one). Knows no particular service.

Exceptions: AddressError (a ValueError) for an address that cannot be parsed, or is bound by somebody else.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

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


def channel(address: str) -> grpc.Channel:
    """A channel for threads. Never fork after this. Raises AddressError."""
    return grpc.insecure_channel(check_address(address), options=_OPTIONS)


def aio_channel(address: str) -> grpc.aio.Channel:
    """A channel for one asyncio loop. Raises AddressError."""
    return grpc.aio.insecure_channel(check_address(address), options=_OPTIONS)


def server_options() -> Sequence[tuple[str, int]]:
    """Channel arguments for a server that accepts what `channel` sends."""
    return _OPTIONS


def bind(server: grpc.Server | grpc.aio.Server, address: str) -> str:
    """Binds `address` to a server that has not started, and returns it with the port actually bound.

    Raises AddressError when the address is malformed or somebody already listens there. A socket file that a killed
    server left behind is taken over.
    """
    check_address(address)
    if address.startswith("unix:") and _is_listening(address.removeprefix("unix:")):
        raise AddressError(f"address {address} is already bound by a running server; stop it or choose another")
    if not address.startswith("unix:"):
        _check_can_bind(address)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise AddressError(f"address {address} cannot be bound (already in use, or not this machine's)") from error
    if address.startswith("unix:"):
        return address
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
