"""The replay service on the wire: translates between gRPC and `handlers.py`, and runs the server.

Status codes: INVALID_ARGUMENT what breaks the contract, exceeds a bound or cannot be read (nothing of that message is
stored); NOT_FOUND an unknown table; RESOURCE_EXHAUSTED no disk space, or too many streams or lists; DATA_LOSS the store
is damaged; UNAVAILABLE shutting down; INTERNAL any other failure of the store. Each comes with one line for a person.
(A unary request that cannot be read never gets here: gRPC answers UNKNOWN.)

Deadlines: Append and Sample are streams without an end of their own; a draw is held as long as its limiter holds it,
and ends with its stream. The server pings idle connections, so a peer that vanished is noticed within 30 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from protos import transport
from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2, replay_pb2_grpc
from protos.transport_guard import guarded_server, own_address
from replay.config import ReplayConfig, check_config
from replay.draws import BatchSizeInvalid, Draw, Followed
from replay.filters import FilterError
from replay.handlers import ReplayHandlers, RequestInvalid
from replay.ingest import Acknowledgement, AppendSession, StreamsExhausted
from replay.ingest_rules import applying_rules, curator_of
from replay.limiter import LimiterError
from replay.memory_store import MemoryStore
from replay.packing import pack
from replay.read_ahead import answer_in_order
from replay.store import RecordInvalid, Store, StoreCorrupt, StoredRecord, StoreError, StoreFull, StoreSettings
from replay.table_set import UnknownTable
from replay.table_spec import TableSpecError
from replay.window import Window
from replay.writer import CommitterClosed, GroupCommitter

SERVICE_NAME = replay_pb2.DESCRIPTOR.services_by_name["Replay"].full_name

RESPONSE_BYTES_TARGET = 512 * 1024
"""Records of a batch are cut into responses of about this size."""

DRAWS_AHEAD = 4
"""Draws of one sample stream in progress at once, so that they share a commit instead of each waiting for its own."""

STOP_GRACE_S = 0.5
"""Streams have no end of their own: at a stop they are given this long and then broken off; clients reconnect."""

_CLOSE_S = 30.0
_SEGMENT_BYTES_MIN = 64 * 1024
_SEGMENT_RECORDS_MIN = 256
_IDLE_S = 5.0
_DETAILS_CHARACTERS_MAX = 1_000

_STATUS: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (RecordInvalid, grpc.StatusCode.INVALID_ARGUMENT),
    (DecodeError, grpc.StatusCode.INVALID_ARGUMENT),
    (BatchSizeInvalid, grpc.StatusCode.INVALID_ARGUMENT),
    (RequestInvalid, grpc.StatusCode.INVALID_ARGUMENT),
    (FilterError, grpc.StatusCode.INVALID_ARGUMENT),
    (TableSpecError, grpc.StatusCode.INVALID_ARGUMENT),
    (LimiterError, grpc.StatusCode.INVALID_ARGUMENT),
    (UnknownTable, grpc.StatusCode.NOT_FOUND),
    (StreamsExhausted, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (StoreFull, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (StoreCorrupt, grpc.StatusCode.DATA_LOSS),
    (CommitterClosed, grpc.StatusCode.UNAVAILABLE),
    (StoreError, grpc.StatusCode.INTERNAL),
)
_ERRORS = tuple(kind for kind, _ in _STATUS)

Context = grpc.aio.ServicerContext[Any, Any]
Request = TypeVar("Request")
Response = TypeVar("Response")


class _Chunk(NamedTuple):
    """What goes into one response: records, and the origins among theirs that the stream has not been sent."""

    records: Sequence[StoredRecord]
    origins: Mapping[int, common_pb2.Origin]


def _answered(
    method: Callable[[ReplayServicer, Request], Awaitable[Response]],
) -> Callable[[ReplayServicer, Request, Context], Awaitable[Response]]:
    """A unary call out of a method that may raise what has a status."""

    @functools.wraps(method)
    async def answer(servicer: ReplayServicer, request: Request, context: Context) -> Response:
        try:
            return await method(servicer, request)
        except _ERRORS as error:
            await _abort(context, error)
            raise

    return answer


class ReplayServicer(replay_pb2_grpc.ReplayServicer):
    """The calls of replay.proto.

    Args:
      handlers: do the work.
      directory: where the store lies, for readers on the same host; None where it is not in files.
      store_id: of that store.
    """

    def __init__(self, handlers: ReplayHandlers, directory: Path | None, store_id: bytes) -> None:
        self._handlers = handlers
        self._located = replay_pb2.LocateResponse(
            directory=str(directory.absolute()) if directory is not None else "", store_id=store_id, takes_batches=True
        )

    async def Append(
        self, request_iterator: AsyncIterator[replay_pb2.AppendRequest], context: Context
    ) -> AsyncIterator[replay_pb2.AppendResponse]:
        """Opens a session with the first message and acknowledges each later one after its commit, in order."""
        ingest = self._handlers.ingest
        try:
            session = await _opened(self._handlers, request_iterator)
            try:
                yield replay_pb2.AppendResponse(
                    opened=replay_pb2.AppendOpened(
                        window_records=ingest.config.window_records,
                        window_bytes=ingest.config.window_bytes,
                        next_sequence=session.next_sequence,
                    )
                )
                ahead = ingest.config.window_records
                # Closed explicitly: the stream counts as open until nothing works for it any more.
                answering = answer_in_order(request_iterator, partial(_append, session), ahead)
                async with contextlib.aclosing(answering) as answers:
                    async for answer in answers:
                        acknowledged = replay_pb2.AppendAcknowledged(
                            sequences=answer.sequences, duplicates=answer.duplicates
                        )
                        yield replay_pb2.AppendResponse(acknowledged=acknowledged)
                        session.delivered(answer)
            finally:
                ingest.close()
        except _ERRORS as error:
            await _abort(context, error)

    async def Sample(
        self, request_iterator: AsyncIterator[replay_pb2.SampleRequest], context: Context
    ) -> AsyncIterator[replay_pb2.SampleResponse]:
        """Answers each request in order with one batch, cut into responses."""
        draws = self._handlers.draws
        try:
            draws.open()
            sent_origins: set[int] = set()
            window = Window(DRAWS_AHEAD, draws.config.sample_bytes_max)
            try:
                begin = partial(self._draw, window, Followed())
                drawing = answer_in_order(_one_by_one(request_iterator), begin, DRAWS_AHEAD)
                async with contextlib.aclosing(drawing) as answers:
                    async for draw, expected_bytes in answers:
                        for response in self._sampled(draw, sent_origins):
                            yield response
                        del draw  # or it would be held until the next one comes
                        window.release(1, expected_bytes)
            finally:
                draws.close()
        except _ERRORS as error:
            await _abort(context, error)

    async def List(self, request: replay_pb2.ListRequest, context: Context) -> AsyncIterator[replay_pb2.ListResponse]:
        """Streams what is in the store when the call begins."""
        sent_origins: set[int] = set()
        try:
            async with contextlib.aclosing(self._handlers.list_records(request)) as groups:
                async for group in groups:
                    for chunk in self._chunks(group.records, sent_origins, group.marks):
                        response = replay_pb2.ListResponse(next_position=chunk.records[-1].position + 1)
                        pack(response.records, chunk.records, group.marks)
                        _add_origins(response, chunk)
                        yield response
                    # Alone where nothing passed: so a client sees how far a filter that passes little has come.
                    yield replay_pb2.ListResponse(next_position=group.next_position)
        except _ERRORS as error:
            await _abort(context, error)

    @_answered
    async def Stats(self, request: replay_pb2.StatsRequest) -> replay_pb2.StatsResponse:
        """All counters."""
        del request
        return self._handlers.stats()

    @_answered
    async def Locate(self, request: replay_pb2.LocateRequest) -> replay_pb2.LocateResponse:
        """Where the store lies."""
        del request
        return self._located

    @_answered
    async def UpdatePriorities(
        self, request: replay_pb2.UpdatePrioritiesRequest
    ) -> replay_pb2.UpdatePrioritiesResponse:
        """Changes priorities of a prioritised table."""
        return replay_pb2.UpdatePrioritiesResponse(updated=self._handlers.update_priorities(request))

    @_answered
    async def Annotate(self, request: replay_pb2.AnnotateRequest) -> replay_pb2.AnnotateResponse:
        """Writes signals about stored records."""
        return replay_pb2.AnnotateResponse(annotated=await self._handlers.annotate(request))

    @_answered
    async def Quarantine(self, request: replay_pb2.QuarantineRequest) -> replay_pb2.QuarantineResponse:
        """Takes records out of use, or lets them back."""
        entry, positions = await self._handlers.quarantine(request)
        return replay_pb2.QuarantineResponse(entry=entry, positions=positions.serialize())

    @_answered
    async def ListQuarantines(self, request: replay_pb2.ListQuarantinesRequest) -> replay_pb2.ListQuarantinesResponse:
        """Every quarantine there is or was."""
        del request
        entries = [quarantine.entry for quarantine in self._handlers.store.quarantines()]
        return replay_pb2.ListQuarantinesResponse(entries=entries)

    @_answered
    async def SetTable(self, request: replay_pb2.SetTableRequest) -> replay_pb2.SetTableResponse:
        """Makes a table, or changes one."""
        return replay_pb2.SetTableResponse(stats=await self._handlers.set_table(request))

    async def _draw(
        self, window: Window, followed: Followed, request: replay_pb2.SampleRequest
    ) -> asyncio.Task[tuple[Draw, int]]:
        """Begins a draw once the stream's draws ahead leave room for it; the task gives the room it takes, too."""
        draws = self._handlers.draws
        expected_bytes = 0 if request.keys_only else draws.expected_bytes(request.batch_size)
        await window.acquire(1, expected_bytes)
        if followed.position is None and request.HasField("again_from"):
            followed.position = request.again_from

        async def draw() -> tuple[Draw, int]:
            drawn = await draws.draw(request.table, request.batch_size, keys_only=request.keys_only, followed=followed)
            return drawn, expected_bytes

        return asyncio.create_task(draw())

    def _sampled(self, draw: Draw, sent_origins: set[int]) -> Iterator[replay_pb2.SampleResponse]:
        probabilities = draw.probabilities.tolist()
        if not draw.records:
            yield replay_pb2.SampleResponse(
                records=replay_pb2.PackedRecords(positions=draw.positions.tolist()),
                probabilities=probabilities,
                available=draw.available,
                end_of_batch=True,
            )
            return
        done = 0
        for chunk in self._chunks(draw.records, sent_origins):
            end = done + len(chunk.records)
            response = replay_pb2.SampleResponse(
                probabilities=probabilities[done:end], available=draw.available, end_of_batch=end == len(draw.records)
            )
            pack(response.records, chunk.records)
            _add_origins(response, chunk)
            done = end
            yield response

    def _chunks(
        self,
        records: Sequence[StoredRecord],
        sent_origins: set[int],
        marks: Mapping[int, common_pb2.RecordMarks] = MappingProxyType({}),
    ) -> Iterator[_Chunk]:
        """Cuts records into responses, each with the origins not in `sent_origins`, and adds these to it."""
        start = size = 0
        origins: dict[int, common_pb2.Origin] = {}
        for index, record in enumerate(records):
            if size >= RESPONSE_BYTES_TARGET:
                yield _Chunk(records[start:index], origins)
                start, size, origins = index, 0, {}
            if record.origin_id not in sent_origins:
                sent_origins.add(record.origin_id)
                origin = origins[record.origin_id] = self._handlers.store.origin(record.origin_id)
                size += origin.ByteSize()
            size += len(record.header_bytes) + len(record.payload)
            if record.position in marks:
                size += marks[record.position].ByteSize()
        if start < len(records):
            yield _Chunk(records[start:], origins)


async def serve(
    config: ReplayConfig,
    directory: Path,
    address: str,
    *,
    on_ready: Callable[[str], None],
    stop: asyncio.Event,
    shard: int = 0,
) -> None:
    """Runs the service until `stop` is set, then commits what was submitted and closes the store.

    Args:
      config: checked here.
      directory: of the durable store; not touched by the memory store.
      address: "unix:PATH" or "HOST:PORT", port 0 for any.
      on_ready: called with the address actually bound, once calls are answered.
      stop: set by the caller for an orderly stop.
      shard: its number where it is one of several: rules and the filters of tables then see global positions. What
        is asked of the service by itself is about its own.

    Raises:
      SettingError, LimiterError, TableSpecError, RuleError, StoreBusy, StoreFormatError, StoreError, AddressError,
      CertificateError:
        nothing was started.
    """
    check_config(config)
    curator = curator_of(config)
    async with contextlib.AsyncExitStack() as cleanup:
        store, store_id = _open_store(config, directory)
        cleanup.callback(store.close)
        committer = GroupCommitter(
            store, commit_records_max=config.commit_records_max, commit_ms_max=config.commit_ms_max
        )
        cleanup.callback(committer.close, _CLOSE_S)
        server = guarded_server()
        handlers = ReplayHandlers(config, store, committer, shard)
        await handlers.start()
        servicer = ReplayServicer(handlers, directory if config.store == "lmdb" else None, store_id)
        replay_pb2_grpc.add_ReplayServicer_to_server(servicer, server)
        health = transport.add_health_and_reflection(server, [SERVICE_NAME])
        bound = transport.bind(server, address)
        own = cleanup.enter_context(own_address(server, bound)) if curator is not None else bound
        await server.start()
        maintaining = asyncio.create_task(handlers.maintain())
        try:
            await transport.set_serving(health, [SERVICE_NAME])
            async with applying_rules(curator, own, shard):
                on_ready(bound)
                await stop.wait()
        finally:
            maintaining.cancel()
            await server.stop(STOP_GRACE_S)
            await _until_idle(handlers)
            with contextlib.suppress(StoreError):
                await handlers.tables.save_priorities()


async def _until_idle(handlers: ReplayHandlers) -> None:
    """Waits until broken off streams have let go of the store, which is closed next."""
    deadline_s = time.monotonic() + _IDLE_S
    while handlers.busy and time.monotonic() < deadline_s:
        await asyncio.sleep(0.005)


def _open_store(config: ReplayConfig, directory: Path) -> tuple[Store, bytes]:
    """The store, and its id where others can find it by that."""
    # A segment is dropped whole: an eighth of what is kept is how far the disk may lag behind that.
    settings = StoreSettings(
        signal_names=config.signal_totals,
        segment_bytes=min(config.segment_bytes, max(_SEGMENT_BYTES_MIN, config.payload_bytes_max // 8)),
        segment_records=max(_SEGMENT_RECORDS_MIN, config.records_max // 8),
        durability="async" if config.durability == "async" else "sync",
        async_ms_max=config.async_ms_max,
    )
    if config.store == "memory":
        return MemoryStore(settings), b""
    try:
        from replay.lmdb_store import LmdbStore  # noqa: PLC0415  a service in memory needs no LMDB
    except ModuleNotFoundError as error:
        raise StoreError(
            f"replay.store = 'lmdb' needs the module {error.name}: install it with pip install 'temper[replay]'"
        ) from error
    store = LmdbStore(directory, settings)
    return store, store.store_id


async def _opened(handlers: ReplayHandlers, requests: AsyncIterator[replay_pb2.AppendRequest]) -> AppendSession:
    async for request in requests:
        if request.WhichOneof("kind") != "open":
            break
        return handlers.ingest.open(request.open, request.acknowledged_below)
    raise RecordInvalid("an append stream must begin with `open`: nothing was stored")


async def _one_by_one(requests: AsyncIterator[replay_pb2.SampleRequest]) -> AsyncIterator[replay_pb2.SampleRequest]:
    """A request for each batch."""
    async for request in requests:
        for _ in range(max(1, request.batches)):
            yield request


async def _append(session: AppendSession, request: replay_pb2.AppendRequest) -> asyncio.Task[Acknowledgement]:
    if request.WhichOneof("kind") != "batch":
        raise RecordInvalid("after `open` an append stream carries batches only: the stream ends here")
    submission = await session.append(request.batch.records)
    return asyncio.create_task(submission.acknowledged())


def _add_origins(response: replay_pb2.SampleResponse | replay_pb2.ListResponse, chunk: _Chunk) -> None:
    for origin_id, origin in chunk.origins.items():
        response.origins[origin_id].CopyFrom(origin)


async def _abort(context: Context, error: Exception) -> None:
    code = next(code for kind, code in _STATUS if isinstance(error, kind))
    # gRPC reads a message when it is asked for the next one: one that cannot be read fails here, after those before it.
    unreadable = "; the stream ends here and nothing of that message was stored"
    details = f"{error}{unreadable if isinstance(error, DecodeError) else ''}"
    # It travels with a bound of its own, beyond which the client would be told of that instead.
    await context.abort(
        code, details if len(details) <= _DETAILS_CHARACTERS_MAX else f"{details[:_DETAILS_CHARACTERS_MAX]}..."
    )
