"""Addresses, binding, message limits, health and reflection, on real servers and real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from protos.transport import (
    MESSAGE_BYTES_MAX,
    UNIX_PATH_BYTES_MAX,
    AddressError,
    add_health_and_reflection,
    aio_channel,
    bind,
    channel,
    check_address,
    server_options,
    set_serving,
)

SERVICE = "temper.replay.v1.Replay"
DEADLINE_S = 10.0

GOOD = ["unix:/run/temper/replay.sock", "unix:relative.sock", "127.0.0.1:0", "localhost:65535", "[::1]:50051"]
BAD = ["", "unix:", "localhost", ":50051", "localhost:", "localhost:http", "localhost:65536", "localhost:-1"]


async def _with_server(address: str, use: Callable[[str], Awaitable[None]], names: Sequence[str] = (SERVICE,)) -> None:
    """Runs `use` with the bound address of a started server that has health and reflection, and stops the server."""
    server = grpc.aio.server(options=server_options())
    health = add_health_and_reflection(server, names)
    bound = bind(server, address)
    await server.start()
    try:
        await set_serving(health, names)
        await use(bound)
    finally:
        await server.stop(grace=None)


@pytest.mark.parametrize("address", GOOD)
def test_address_is_accepted_as_it_is(address: str) -> None:
    assert check_address(address) == address


@pytest.mark.parametrize("address", BAD)
def test_malformed_address_is_named(address: str) -> None:
    with pytest.raises(AddressError, match="address"):
        check_address(address)


def test_longest_socket_path_binds_and_one_more_is_refused(socket_directory: Path) -> None:
    """The bound is the kernel's, in bytes and not in characters."""
    path = f"{socket_directory}/".ljust(UNIX_PATH_BYTES_MAX - 1, "x") + "y"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        with pytest.raises(OSError, match="path too long"):
            listener.bind(path + "z")
    assert check_address(f"unix:{path}")
    with pytest.raises(AddressError, match=f"has {UNIX_PATH_BYTES_MAX + 1} bytes, the limit is {UNIX_PATH_BYTES_MAX}"):
        check_address(f"unix:{path[:-1]}é")


@pytest.mark.parametrize("connect", [channel, aio_channel])
def test_channel_refuses_a_malformed_address(connect: Callable[[str], object]) -> None:
    with pytest.raises(AddressError):
        connect("nowhere")


def test_free_port_is_reported() -> None:
    async def use(bound: str) -> None:
        host, _, port = bound.rpartition(":")
        assert host == "127.0.0.1"
        with socket.create_connection((host, int(port)), timeout=DEADLINE_S):
            pass

    asyncio.run(_with_server("127.0.0.1:0", use))


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_second_server_on_one_address_is_refused(kind: str, socket_directory: Path) -> None:
    """The first goes on serving: its socket file is neither removed nor taken over."""

    async def use(bound: str) -> None:
        with pytest.raises(AddressError, match="already"):
            bind(grpc.aio.server(options=server_options()), bound)
        assert await _health(bound) == health_pb2.HealthCheckResponse.SERVING

    asyncio.run(_with_server("127.0.0.1:0" if kind == "tcp" else f"unix:{socket_directory}/s", use))


def test_socket_file_of_a_killed_server_is_taken_over(socket_directory: Path) -> None:
    path = socket_directory / "s"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    assert path.is_socket()

    async def use(bound: str) -> None:
        assert await _health(bound) == health_pb2.HealthCheckResponse.SERVING

    asyncio.run(_with_server(f"unix:{path}", use))


def test_a_server_too_busy_to_be_reached_keeps_its_address(socket_directory: Path) -> None:
    path = str(socket_directory / "s")
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(0)
        with pytest.raises(BlockingIOError):
            while True:
                client = sockets.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(path)
        server = grpc.server(sockets.enter_context(ThreadPoolExecutor(max_workers=1)), options=server_options())
        with pytest.raises(AddressError, match="already bound by a running server"):
            bind(server, f"unix:{path}")


def test_address_of_another_machine_cannot_be_bound() -> None:
    """192.0.2.1 is reserved for documentation, so no interface here has it."""
    with ThreadPoolExecutor(max_workers=1) as threads:
        server = grpc.server(threads, options=server_options())
        with pytest.raises(AddressError, match=r"192\.0\.2\.1:0"):
            bind(server, "192.0.2.1:0")


async def _health(address: str, service: str = "") -> health_pb2.HealthCheckResponse.ServingStatus:
    async with aio_channel(address) as connection:
        stub = health_pb2_grpc.HealthStub(connection)
        response = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE_S)
        return response.status


def test_health_answers_for_the_server_and_each_service(socket_directory: Path) -> None:
    async def use(bound: str) -> None:
        assert await _health(bound) == health_pb2.HealthCheckResponse.SERVING
        assert await _health(bound, SERVICE) == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await _health(bound, "temper.unknown.v1.Unknown")
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND

    asyncio.run(_with_server(f"unix:{socket_directory}/s", use))


def test_health_answers_for_no_service_before_it_serves(socket_directory: Path) -> None:
    async def check() -> None:
        server = grpc.aio.server(options=server_options())
        add_health_and_reflection(server, [SERVICE])
        bound = bind(server, f"unix:{socket_directory}/s")
        await server.start()
        try:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await _health(bound, SERVICE)
            assert refused.value.code() == grpc.StatusCode.NOT_FOUND
        finally:
            await server.stop(grace=None)

    asyncio.run(check())


def test_reflection_lists_the_services(socket_directory: Path) -> None:
    async def use(bound: str) -> None:
        async with aio_channel(bound) as connection:
            stub = reflection_pb2_grpc.ServerReflectionStub(connection)
            call = stub.ServerReflectionInfo(timeout=DEADLINE_S)
            await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            await call.done_writing()
            listed = {service.name async for response in call for service in response.list_services_response.service}
        assert listed == {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}

    asyncio.run(_with_server(f"unix:{socket_directory}/s", use))


@pytest.mark.parametrize(("size", "accepted"), [(MESSAGE_BYTES_MAX - 1024, True), (MESSAGE_BYTES_MAX + 1024, False)])
def test_message_limit_holds_at_the_receiver(size: int, accepted: bool, socket_directory: Path) -> None:
    """The sender is unlimited here, so what refuses is the server."""

    async def echo_length(request: bytes, _: object) -> bytes:
        return str(len(request)).encode()

    async def check() -> None:
        server = grpc.aio.server(options=server_options())
        handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(echo_length)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Length": handler}),))
        bound = bind(server, f"unix:{socket_directory}/s")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(bound, options=[("grpc.max_send_message_length", -1)]) as connection:
                call: Any = connection.unary_unary("/test.Echo/Length")
                if accepted:
                    assert await call(bytes(size), timeout=DEADLINE_S) == str(size).encode()
                else:
                    with pytest.raises(grpc.aio.AioRpcError) as refused:
                        await call(bytes(size), timeout=DEADLINE_S)
                    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        finally:
            await server.stop(grace=None)

    asyncio.run(check())
