"""An installation for tests: an authority, what it issues, and guarded servers that answer every method there is."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import importlib
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from launch.certificates import issue, make_authority
from protos import transport, transport_security
from protos.generate import proto_files
from protos.transport_guard import guarded_server
from protos.transport_roles import ROLES
from protos.transport_security import Security

TIMEOUT_S = 10.0
HOSTS = ("localhost", "127.0.0.1")


class Installation:
    """An authority in a directory; `issue` gives the directory of a new certificate."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.directory = directory
        # Since some days, so that what it issues can have expired.
        make_authority(
            directory, 20.0, now=datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=10), **options
        )

    def issue(self, name: str, *roles: str, **options: Any) -> Path:
        _, place = issue(self.directory, name, frozenset(roles), **options)
        return place

    def server(self, name: str = "server") -> Security:
        return Security(self.issue(name, hosts=HOSTS))

    def client(self, name: str, *roles: str) -> Security:
        return Security(self.issue(name, *roles))

    def admit_only(self, place: Path, *names: str) -> None:
        """Gives a server a list of those that it lets in."""
        lines = (self.directory / "admitted.txt").read_text().splitlines(keepends=True)
        (place / "admitted.txt").write_text("".join(line for line in lines if line.split()[1:] in ([n] for n in names)))


def services() -> list[ServiceDescriptor]:
    """Every service of the wire contract, and those that every server has besides."""
    modules = [
        importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2") for name in proto_files()
    ]
    files = [module.DESCRIPTOR for module in (*modules, health_pb2, reflection_pb2)]
    return [service for file in files for service in file.services_by_name.values()]


def methods() -> dict[str, tuple[bool, bool]]:
    """Every method by its full name: whether its requests, and whether its responses, are a stream."""
    return {
        f"/{service.full_name}/{method.name}": (method.client_streaming, method.server_streaming)
        for service in services()
        for method in service.methods
    }


def _answering(requests: bool, responses: bool) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler that answers b"done", as often as it is asked."""

    async def one(request: Any, _: object) -> bytes:
        return b"done"

    async def each(request: Any, _: object) -> AsyncIterator[bytes]:
        if requests:
            async for _request in request:
                yield b"done"
        else:
            yield b"done"

    make: Any = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[requests, responses]
    return make(each if responses else one)  # type: ignore[no-any-return]


def every_method() -> list[grpc.GenericRpcHandler]:
    """Handlers of every method but those that a guarded server brings itself."""
    by_service: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {}
    for method, streams in methods().items():
        _, service, name = method.split("/")
        if service != "temper.common.v1.Access":
            by_service.setdefault(service, {})[name] = _answering(*streams)
    return [grpc.method_handlers_generic_handler(service, handlers) for service, handlers in by_service.items()]


@contextlib.contextmanager
def in_thread(serve: Callable[[Callable[[str], None], asyncio.Event], Any]) -> Iterator[str]:
    """Runs a service in a thread and gives the address that it is bound to; raises what keeps it from serving."""
    ready, bound, failed = threading.Event(), list[str](), list[Exception]()
    stops: list[Callable[[], object]] = []

    async def run() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        stops.append(lambda: loop.call_soon_threadsafe(stop.set))

        def on_ready(address: str) -> None:
            bound.append(address)
            ready.set()

        await serve(on_ready, stop)

    def body() -> None:
        try:
            asyncio.run(run())
        except Exception as error:  # noqa: BLE001  raised below
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    try:
        assert ready.wait(TIMEOUT_S)
        if not failed:
            yield bound[0]
    finally:
        with contextlib.suppress(RuntimeError):
            for stop in stops:
                stop()
        thread.join(TIMEOUT_S)
    if failed:
        raise failed[0]


@contextlib.contextmanager
def answering(security: Security, address: str = "127.0.0.1:0") -> Iterator[str]:
    """A guarded server with every method there is."""

    async def serve(on_ready: Callable[[str], None], stop: asyncio.Event) -> None:
        server = guarded_server(security=security)
        server.add_generic_rpc_handlers(tuple(every_method()))
        bound = transport.bind(server, address, security)
        await server.start()
        on_ready(bound)
        await stop.wait()
        await server.stop(0.2)

    with in_thread(serve) as bound:
        yield bound


def ask(channel: grpc.Channel, method: str) -> bytes:
    """The first answer to a call of any method with an empty request. Raises grpc.RpcError."""
    requests, responses = methods()[method]
    kind = f"{'stream' if requests else 'unary'}_{'stream' if responses else 'unary'}"
    call = getattr(channel, kind)(method)
    answer = call(iter([b""]) if requests else b"", timeout=TIMEOUT_S)
    return next(answer) if responses else answer  # type: ignore[no-any-return]


def status_of(channel: grpc.Channel, method: str) -> grpc.StatusCode:
    """How such a call ends."""
    try:
        ask(channel, method)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def raw_channel(address: str, place: Path, trusted: bytes | None = None) -> grpc.Channel:
    """A channel that shows what is in `place` without looking at it first, as an attacker's would."""
    trusted = trusted or (place / "trusted.pem").read_bytes()
    key, certificate = (place / "key.pem").read_bytes(), (place / "certificate.pem").read_bytes()
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(trusted, key, certificate))


@contextlib.contextmanager
def process_is(security: Security) -> Iterator[None]:
    """Makes this the Security of this process for a while."""
    before = transport_security.current()
    transport_security.use(security)
    try:
        yield
    finally:
        transport_security.use(before)


def replace_files(place: Path, files: Mapping[str, Path]) -> None:
    """Replaces files of a process as an operator would: a new file under the old name."""
    for name, source in files.items():
        shutil.copy(source, place / f".{name}")
        (place / f".{name}").replace(place / name)


ALL = frozenset(ROLES)
