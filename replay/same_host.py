"""The fast path of a sampler that runs on the replay service's host: payloads straight from the store's own memory map.

The service hands out positions only; this end reads the records itself, read-only, and copies each payload once, from
the map to its place in the batch. This is tried where the service's address is one of this host's own: another host
may see the same directory, over a network file system, but its maps lag behind. Whether the files are the service's is
not guessed from that: the service says where its store lies and which one it is, and the directory must say the same.
Draws, limiters, order and checks are those of the other way.

A record that was evicted between the draw and the reading, or that is damaged, is missing here; the sampler asks for
another in its place, and the service is told of damaged ones by asking it for them (List), which makes it look.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2, replay_pb2_grpc

if TYPE_CHECKING:
    from replay.reader import StoreReader
    from replay.store import StoredRecord

_LOCATE_S = 5.0
_REPORT_S = 5.0

_log = logging.getLogger(__name__)


def is_local(address: str) -> bool:
    """Whether a service's address is one of this host's own: a socket file, or what can be bound here."""
    if address.startswith("unix:"):
        return True
    try:
        resolved = socket.getaddrinfo(address.rpartition(":")[0].strip("[]"), 0, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return any(_can_bind(family, where) for family, _, _, _, where in resolved)


def _can_bind(family: int, where: tuple[Any, ...]) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind(where)
    except OSError:
        return False
    return True


class SameHostReader:
    """Reads records of a service's store from its files. Make it with `find`; close it. For one thread.

    Attributes:
      takes_batches: whether the service lets one request ask for several batches.
    """

    def __init__(self, reader: StoreReader, stub: replay_pb2_grpc.ReplayStub, *, takes_batches: bool) -> None:
        self.takes_batches = takes_batches
        self._reader = reader
        self._stub = stub
        self._origins: dict[int, common_pb2.Origin] = {}

    @classmethod
    def find(cls, stub: replay_pb2_grpc.ReplayStub) -> SameHostReader | None:
        """A reader of the files of the service behind `stub`, or None where they cannot be had from here.

        Raises grpc.RpcError when the service does not answer.
        """
        try:
            located: replay_pb2.LocateResponse = stub.Locate(replay_pb2.LocateRequest(), timeout=_LOCATE_S)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED):
                return None
            raise
        reader = _opened(Path(located.directory)) if located.directory else None
        if reader is not None and reader.store_id != located.store_id:
            reader.close()
            return None
        return cls(reader, stub, takes_batches=located.takes_batches) if reader is not None else None

    @contextlib.contextmanager
    def lend(self, positions: Sequence[int]) -> Iterator[list[StoredRecord]]:
        """Those of the records that can be read, in order; payloads are valid inside the context only.

        Raises StoreError where the files cannot be read at all.
        """
        from replay.store import StoreCorrupt  # noqa: PLC0415

        with contextlib.ExitStack() as stack:
            try:
                records = stack.enter_context(self._reader.lend(positions))
            except StoreCorrupt as error:
                damaged = set(error.positions)
                if not damaged:
                    raise
                self._report(sorted(damaged))
                rest = [position for position in positions if position not in damaged]
                records = stack.enter_context(self._reader.lend(rest))
            yield records

    def origin(self, origin_id: int) -> common_pb2.Origin:
        """The origin that a record names."""
        origin = self._origins.get(origin_id)
        if origin is None:
            origin = self._origins[origin_id] = self._reader.origin(origin_id)
        return origin

    def look(self) -> None:
        """Lets go of what the service has dropped, whose disk space stays taken until then. From any thread."""
        from replay.store import StoreError  # noqa: PLC0415

        with contextlib.suppress(StoreError, OSError):  # the next reading says so
            self._reader.counters()

    def close(self) -> None:
        """Lets go of the files."""
        self._reader.close()

    def _report(self, positions: Sequence[int]) -> None:
        """Makes the service read damaged records itself, which it then no longer hands out."""
        call: Callable[..., Iterator[replay_pb2.ListResponse]] = self._stub.List
        try:
            for _ in call(replay_pb2.ListRequest(positions=positions, with_payload=True), timeout=_REPORT_S):
                pass
        except grpc.RpcError as error:
            _log.warning("the service could not be told of damaged records: %s", error)


def _opened(directory: Path) -> StoreReader | None:
    try:
        from replay.reader import StoreReader  # noqa: PLC0415  thin hosts have no LMDB
        from replay.store import StoreError  # noqa: PLC0415
    except ImportError:
        return None
    try:
        return StoreReader(directory) if directory.is_dir() else None
    except (StoreError, OSError) as error:
        _log.info("sampling over the wire: %s", error)
        return None
