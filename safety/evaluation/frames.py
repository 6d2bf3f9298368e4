"""Messages between the service and its evaluator process, over pipes: a JSON header and raw bytes, lengths first.

    uint32 header bytes, uint64 body bytes (both big-endian), header (a JSON object), body

Nothing that arrives is executed or trusted: lengths are bounded before anything is read, and each wait can have a
deadline, so a peer that hangs, dies or writes garbage ends in an error, never in a blocked service.

Exceptions:
  FrameError: the peer broke the protocol.
    FrameClosed: it closed its end.
  FrameTimeout: the deadline passed first.
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
import struct
import time
from collections.abc import Mapping
from typing import Any

_PREFIX = struct.Struct(">IQ")
_HEADER_BYTES_MAX = 16 * 1024 * 1024
_CHUNK_BYTES = 1 << 20


class FrameError(Exception):
    """The bytes are not a frame within the bounds."""


class FrameClosed(FrameError):
    """The other end was closed, which is what the death of its process looks like."""


class FrameTimeout(Exception):
    """The deadline passed before the whole frame had been moved."""


@dataclasses.dataclass(frozen=True)
class Frame:
    """One message: a JSON object and bytes."""

    header: Mapping[str, Any]
    body: bytes


def send_frame(descriptor: int, frame: Frame, deadline: float | None) -> None:
    """Writes a frame.

    Args:
      descriptor: write end of a pipe; non-blocking where there is a deadline.
      frame: what to write.
      deadline: on the clock of `time.monotonic`; None: wait for as long as it takes.

    Raises:
      FrameClosed, FrameTimeout: see there.
    """
    header = json.dumps(frame.header).encode()
    for part in (_PREFIX.pack(len(header), len(frame.body)) + header, frame.body):
        view = memoryview(part)
        while view:
            _wait(descriptor, select.POLLOUT, deadline)
            try:
                view = view[os.write(descriptor, view[:_CHUNK_BYTES]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError as error:
                raise FrameClosed("the reader closed its end") from error


def receive_frame(descriptor: int, body_bytes_max: int, deadline: float | None) -> Frame:
    """Reads a frame.

    Args:
      descriptor: read end of a pipe.
      body_bytes_max: a larger body is refused before it is read.
      deadline: on the clock of `time.monotonic`; None: wait for as long as it takes.

    Raises:
      FrameError, FrameClosed, FrameTimeout: see there.
    """
    header_bytes, body_bytes = _PREFIX.unpack(_read(descriptor, _PREFIX.size, deadline))
    if header_bytes > _HEADER_BYTES_MAX or body_bytes > body_bytes_max:
        raise FrameError(f"a frame claims {header_bytes} header and {body_bytes} body bytes, more than is allowed")
    try:
        header = json.loads(_read(descriptor, header_bytes, deadline))
    except (ValueError, RecursionError) as error:
        raise FrameError(f"a frame's header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise FrameError("a frame's header is not a JSON object")
    return Frame(header, _read(descriptor, body_bytes, deadline))


def _read(descriptor: int, count: int, deadline: float | None) -> bytes:
    parts = []
    while count:
        _wait(descriptor, select.POLLIN, deadline)
        part = os.read(descriptor, min(count, _CHUNK_BYTES))
        if not part:
            raise FrameClosed("the writer closed its end")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _wait(descriptor: int, event: int, deadline: float | None) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    remaining_ms = None if deadline is None else max(0.0, (deadline - time.monotonic()) * 1000)
    if not poll.poll(remaining_ms):
        raise FrameTimeout("the other end did not answer in time")
