"""Looks at every call before the service does: who asks, and whether that role may. See `protos.transport_roles`.

A call is looked at when it begins, and again every RECHECK_S while it lasts, so that whoever is not admitted any more
is cut off; the messages of a stream are not. Where there is nothing to look at (Security.open_to_all), as between the
processes of one machine by default, no interceptor is there at all.

Statuses: PERMISSION_DENIED for a caller without the role, UNAUTHENTICATED for one whose certificate is not, or no
longer, good; each with one line for a person. A caller without any certificate does not get as far: TLS refuses it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import grpc
import grpc.aio

from protos import transport
from protos.common.v1 import access_pb2, access_pb2_grpc
from protos.transport_connections import REPORT_S
from protos.transport_errors import CertificateError
from protos.transport_roles import ANY_ROLE, ROLE_OF_METHOD, may_call
from protos.transport_security import Security, current

RECHECK_S = 5.0
"""Time between two looks at the callers of the calls that last."""

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]


def guarded_server(*, security: Security | None = None, calls_max: int | None = None) -> grpc.aio.Server:
    """An asyncio server that accepts what `transport.channel` sends, from callers with the roles for it.

    Args:
      security: of the server; None: the process's own. Bind it with the same.
      calls_max: most calls at a time.

    Raises:
      CertificateError: there are certificates that cannot be used.
    """
    security = security or current()
    interceptors = () if security.open_to_all else (Guard(security),)
    server = grpc.aio.server(
        interceptors=interceptors, options=transport.server_options(), maximum_concurrent_rpcs=calls_max
    )
    access_pb2_grpc.add_AccessServicer_to_server(_Access(security), server)
    return server


@contextlib.contextmanager
def own_address(server: grpc.aio.Server, bound: str, security: Security | None = None) -> Iterator[str]:
    """An address at which a process may call its own server, which is bound to `bound` and has not started.

    Where that is TLS, a process would have to be its own client, by a name that its certificate may not have; so the
    server gets a socket besides, in a directory of its own, while the context lasts.
    """
    if bound.startswith("unix:") or (security or current()).certificates is None:
        yield bound
        return
    directory = Path(tempfile.mkdtemp(prefix="temper-"))
    try:
        yield transport.bind(server, f"unix:{directory / 'own.sock'}", security)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Refusal(Exception):
    """A call is not let through; the message is for the caller.

    Attributes:
      status: what it gets.
    """

    def __init__(self, status: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.status = status


class Guard(grpc.aio.ServerInterceptor):
    """Checks each call as it begins, and those that last now and then. For one asyncio loop."""

    def __init__(self, security: Security) -> None:
        self._security = security
        self._calls: dict[asyncio.Task[Any], tuple[Context, str]] = {}
        self._cut: dict[asyncio.Task[Any], Refusal] = {}
        self._rechecking: asyncio.TimerHandle | None = None
        if security.certificates is not None:
            self._report(asyncio.get_running_loop())

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The method's handler with a check before it."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        # A method that no service of this server has answers for itself.
        return handler if handler is None else _guarded(handler, functools.partial(self._call, method))

    async def _call(self, method: str, inner: Callable[..., Any], request: Any, context: Context) -> Any:
        try:
            self._check(method, context)
        except Refusal as refusal:
            await context.abort(refusal.status, f"{refusal}; nothing was done")
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._calls[task] = context, method
        self._recheck_later()
        try:
            if inspect.iscoroutinefunction(inner):
                return await inner(request, context)
            async with contextlib.aclosing(inner(request, context)) as responses:
                async for response in responses:
                    await context.write(response)
        except asyncio.CancelledError:
            if (cut := self._cut.get(task)) is None:
                raise
            task.uncancel()
            await context.abort(cut.status, f"{cut}; the call was cut off")
        finally:
            del self._calls[task]
            self._cut.pop(task, None)

    def _check(self, method: str, context: Context) -> None:
        """Raises Refusal, counted and logged, unless the caller may call the method."""
        certificates = tuple(context.auth_context().get("x509_pem_cert", ()))
        if certificates:
            try:
                identity = self._security.admit(certificates[0], context.peer())
            except CertificateError as error:
                message = f"the caller is not let in: {error}"
                raise self._refusal(grpc.StatusCode.UNAUTHENTICATED, message, context) from error
            name, roles = repr(identity.name), identity.roles
        else:
            name, roles = "a caller on this host", self._security.local_roles
        if not may_call(roles, method):
            needed = ROLE_OF_METHOD.get(method, "that nobody has")
            needed = "a role" if needed == ANY_ROLE else f"the role {needed}"
            held = ", ".join(sorted(roles)) or "none"
            message = f"{name} may not call {method}: it needs {needed}, and has {held}"
            raise self._refusal(grpc.StatusCode.PERMISSION_DENIED, message, context)

    def _refusal(self, status: grpc.StatusCode, message: str, context: Context) -> Refusal:
        authenticated = status == grpc.StatusCode.PERMISSION_DENIED
        self._security.refused(f"refused {context.peer()}: {message}", authenticated=authenticated)
        return Refusal(status, message)

    def _recheck_later(self) -> None:
        if self._rechecking is None and self._security.certificates is not None:
            self._rechecking = asyncio.get_running_loop().call_later(RECHECK_S, self._recheck)

    def _recheck(self) -> None:
        self._rechecking = None
        for task, (context, method) in list(self._calls.items()):
            try:
                self._check(method, context)
            except Refusal as refusal:
                self._cut[task] = refusal
                task.cancel()
        if self._calls:
            self._recheck_later()

    def _report(self, loop: asyncio.AbstractEventLoop) -> None:
        """Now and then for as long as the loop runs: who does not get as far as a call wakes nobody."""
        self._security.connections.report()
        loop.call_later(REPORT_S, self._report, loop)


class _Access(access_pb2_grpc.AccessServicer):
    def __init__(self, security: Security) -> None:
        self._security = security

    async def Callers(self, _request: access_pb2.CallersRequest, _context: Context) -> access_pb2.CallersResponse:
        """See the service's definition."""
        return access_pb2.CallersResponse(**self._security.counts()._asdict())


def _guarded(handler: Handler, call: Callable[..., Awaitable[Any]]) -> Handler:
    """The same handler behind `call`, which gets what it calls, the request or requests, and the context."""
    make, inner = {
        (False, False): (grpc.unary_unary_rpc_method_handler, handler.unary_unary),
        (False, True): (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
        (True, False): (grpc.stream_unary_rpc_method_handler, handler.stream_unary),
        (True, True): (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
    }[bool(handler.request_streaming), bool(handler.response_streaming)]

    # A function of its own: gRPC looks at what kind of function it is given.
    async def guarded(request: Any, context: Context) -> Any:
        return await call(inner, request, context)

    return make(
        guarded,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
