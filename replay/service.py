"""The replay service on the wire: translates between gRPC and `handlers.py`, and runs the server.

Status codes: INVALID_ARGUMENT what breaks the contract or cannot be read (nothing of that message is stored); NOT_FOUND
an unknown table; RESOURCE_EXHAUSTED no disk space, or too many streams; DATA_LOSS the store is damaged; UNAVAILABLE
shutting down; INTERNAL any other failure of the store. Each comes with one line for a person. (A unary request that
cannot be read never gets here: gRPC answers UNKNOWN.)

Deadlines: Append and Sample are streams without an end of their own; a draw is held as long as its limiter holds it,
and ends with its stream. The server pings idle connections, so a peer that vanished is noticed within 30 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from protos import transport
from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2, replay_pb2_grpc
from replay.config import ReplayConfig, check_config
from replay.handlers import (
    Acknowledgement,
    AppendSession,
    BatchSizeInvalid,
    Draw,
    ReplayHandlers,
    StreamsExhausted,
    UnknownTable,
)
from replay.memory_store import MemoryStore
from replay.read_ahead import answer_in_order
from replay.store import RecordInvalid, Store, StoreCorrupt, StoredRecord, StoreError, StoreFull, StoreSettings
from replay.writer import CommitterClosed, GroupCommitter

SERVICE_NAME = replay_pb2.DESCRIPTOR.services_by_name["Replay"].full_name

RESPONSE_BYTES_TARGET = 512 * 1024
"""Records of a batch are cut into responses of about this size."""

DRAWS_AHEAD = 4
"""Draws of one sample stream in progress at once, so that they share a commit instead of each waiting for its own."""

STOP_GRACE_S = 0.5
"""Streams have no end of their own: at a stop they are given this long and then broken off; clients reconnect."""

_CLOSE_S = 30.0
_IDLE_S = 5.0

_STATUS: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (RecordInvalid, grpc.StatusCode.INVALID_ARGUMENT),
    (DecodeError, grpc.StatusCode.INVALID_ARGUMENT),
    (BatchSizeInvalid, grpc.StatusCode.INVALID_ARGUMENT),
    (UnknownTable, grpc.StatusCode.NOT_FOUND),
    (StreamsExhausted, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (StoreFull, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (StoreCorrupt, grpc.StatusCode.DATA_LOSS),
    (CommitterClosed, grpc.StatusCode.UNAVAILABLE),
    (StoreError, grpc.StatusCode.INTERNAL),
)
_ERRORS = tuple(kind for kind, _ in _STATUS)

Context = grpc.aio.ServicerContext[Any, Any]


class _Chunk(NamedTuple):
    """What goes into one response: records, and the origins among theirs that the stream has not been sent."""

    records: Sequence[StoredRecord]
    origins: Mapping[int, common_pb2.Origin]


class ReplayServicer(replay_pb2_grpc.ReplayServicer):
    """The four calls of replay.proto."""

    def __init__(self, handlers: ReplayHandlers) -> None:
        self._handlers = handlers

    async def Append(
        self, request_iterator: AsyncIterator[replay_pb2.AppendRequest], context: Context
    ) -> AsyncIterator[replay_pb2.AppendResponse]:
        """Opens a session with the first message and acknowledges each later one after its commit, in order."""
        try:
            session = await _opened(self._handlers, request_iterator)
            try:
                yield replay_pb2.AppendResponse(
                    opened=replay_pb2.AppendOpened(
                        window_records=self._handlers.config.window_records,
                        window_bytes=self._handlers.config.window_bytes,
                        next_sequence=session.next_sequence,
                    )
                )
                ahead = self._handlers.config.window_records
                # Closed explicitly: the stream counts as open until nothing works for it any more.
                answering = answer_in_order(request_iterator, partial(_append, session), ahead)
                async with contextlib.aclosing(answering) as answers:
                    async for answer in answers:
                        acknowledged = replay_pb2.AppendAcknowledged(
                            sequences=answer.sequences, duplicates=answer.duplicates
                        )
                        yield replay_pb2.AppendResponse(acknowledged=acknowledged)
            finally:
                self._handlers.close_append()
        except _ERRORS as error:
            await _abort(context, error)

    async def Sample(
        self, request_iterator: AsyncIterator[replay_pb2.SampleRequest], context: Context
    ) -> AsyncIterator[replay_pb2.SampleResponse]:
        """Answers each request in order with one batch, cut into responses."""
        try:
            self._handlers.open_sample()
            sent_origins: set[int] = set()
            try:
                async with contextlib.aclosing(answer_in_order(request_iterator, self._draw, DRAWS_AHEAD)) as draws:
                    async for draw in draws:
                        left = len(draw.records)
                        for chunk in self._chunks(draw.records, sent_origins):
                            left -= len(chunk.records)
                            response = replay_pb2.SampleResponse(end_of_batch=not left)
                            _fill(response, chunk, draw.probability)
                            yield response
            finally:
                self._handlers.close_sample()
        except _ERRORS as error:
            await _abort(context, error)

    async def List(self, request: replay_pb2.ListRequest, context: Context) -> AsyncIterator[replay_pb2.ListResponse]:
        """Streams what is in the store when the call begins."""
        sent_origins: set[int] = set()
        try:
            async for records in self._handlers.list_records(request):
                for chunk in self._chunks(records, sent_origins):
                    response = replay_pb2.ListResponse()
                    _fill(response, chunk, 1.0)
                    yield response
        except _ERRORS as error:
            await _abort(context, error)

    async def Stats(self, request: replay_pb2.StatsRequest, context: Context) -> replay_pb2.StatsResponse:
        """All counters."""
        del request
        try:
            return self._handlers.stats()
        except _ERRORS as error:
            await _abort(context, error)
            raise

    async def _draw(self, request: replay_pb2.SampleRequest) -> asyncio.Task[Draw]:
        return asyncio.create_task(self._handlers.draw(request.table, request.batch_size))

    def _chunks(self, records: Sequence[StoredRecord], sent_origins: set[int]) -> Iterator[_Chunk]:
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
        if start < len(records):
            yield _Chunk(records[start:], origins)


async def serve(
    config: ReplayConfig,
    directory: Path,
    address: str,
    *,
    on_ready: Callable[[str], None],
    stop: asyncio.Event,
) -> None:
    """Runs the service until `stop` is set, then commits what was submitted and closes the store.

    Args:
      config: checked here.
      directory: of the durable store; not touched by the memory store.
      address: "unix:PATH" or "HOST:PORT", port 0 for any.
      on_ready: called with the address actually bound, once calls are answered.
      stop: set by the caller for an orderly stop.

    Raises:
      SettingError, LimiterError, StoreBusy, StoreFormatError, StoreError, AddressError: nothing was started.
    """
    check_config(config)
    with contextlib.ExitStack() as cleanup:
        store = _open_store(config, directory)
        cleanup.callback(store.close)
        committer = GroupCommitter(
            store, commit_records_max=config.commit_records_max, commit_ms_max=config.commit_ms_max
        )
        cleanup.callback(committer.close, _CLOSE_S)
        server = grpc.aio.server(options=transport.server_options())
        handlers = ReplayHandlers(config, store, committer)
        replay_pb2_grpc.add_ReplayServicer_to_server(ReplayServicer(handlers), server)
        health = transport.add_health_and_reflection(server, [SERVICE_NAME])
        bound = transport.bind(server, address)
        await server.start()
        try:
            await transport.set_serving(health, [SERVICE_NAME])
            on_ready(bound)
            await stop.wait()
        finally:
            await server.stop(STOP_GRACE_S)
            await _until_idle(handlers)


async def _until_idle(handlers: ReplayHandlers) -> None:
    """Waits until broken off streams have let go of the store, which is closed next."""
    deadline_s = time.monotonic() + _IDLE_S
    while handlers.open_streams and time.monotonic() < deadline_s:
        await asyncio.sleep(0.005)


def _open_store(config: ReplayConfig, directory: Path) -> Store:
    settings = StoreSettings(config.records_max, config.payload_bytes_max, config.signal_totals)
    if config.store == "memory":
        return MemoryStore(settings)
    try:
        from replay.lmdb_store import LmdbStore  # noqa: PLC0415  a service in memory needs no LMDB
    except ModuleNotFoundError as error:
        raise StoreError(
            f"replay.store = 'lmdb' needs the module {error.name}: install it with pip install 'temper[replay]'"
        ) from error
    return LmdbStore(directory, settings, map_bytes=config.map_bytes)


async def _opened(handlers: ReplayHandlers, requests: AsyncIterator[replay_pb2.AppendRequest]) -> AppendSession:
    async for request in requests:
        if request.WhichOneof("kind") != "open":
            break
        return handlers.open_append(request.open)
    raise RecordInvalid("an append stream must begin with `open`: nothing was stored")


async def _append(session: AppendSession, request: replay_pb2.AppendRequest) -> asyncio.Task[Acknowledgement]:
    if request.WhichOneof("kind") != "batch":
        raise RecordInvalid("after `open` an append stream carries batches only: the stream ends here")
    submission = await session.append(request.batch.records)
    return asyncio.create_task(submission.acknowledged())


def _fill(response: replay_pb2.SampleResponse | replay_pb2.ListResponse, chunk: _Chunk, probability: float) -> None:
    for origin_id, origin in chunk.origins.items():
        response.origins[origin_id].CopyFrom(origin)
    for record in chunk.records:
        response.records.add(
            position=record.position,
            origin_id=record.origin_id,
            header=record.header,
            payload=record.payload,
            probability=probability,
        )


async def _abort(context: Context, error: Exception) -> None:
    code = next(code for kind, code in _STATUS if isinstance(error, kind))
    # gRPC reads a message when it is asked for the next one: one that cannot be read fails here, after those before it.
    unreadable = "; the stream ends here and nothing of that message was stored"
    await context.abort(code, f"{error}{unreadable if isinstance(error, DecodeError) else ''}")
