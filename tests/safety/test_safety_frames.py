"""Frames over pipes: everything sent arrives, and every silent, dead or lying peer ends in an error."""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safety.evaluation.frames import Frame, FrameClosed, FrameError, FrameTimeout, receive_frame, send_frame


class Pipe:
    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.write_end, False)

    def close_writer(self) -> None:
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    def close(self) -> None:
        self.close_writer()
        if self.read_end >= 0:
            os.close(self.read_end)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    try:
        yield pipe
    finally:
        pipe.close()


def soon() -> float:
    return time.monotonic() + 10.0


json_values = st.recursive(st.integers(-(2**64), 2**64) | st.text(max_size=20) | st.booleans(), st.lists, max_leaves=5)


@given(st.dictionaries(st.text(max_size=10), json_values, max_size=4), st.binary(max_size=1000))
@settings(max_examples=30, deadline=None, derandomize=True, database=None)
def test_what_is_sent_is_received(header: dict[str, object], body: bytes) -> None:
    pipe = Pipe()
    try:
        send_frame(pipe.write_end, Frame(header, body), soon())
        assert receive_frame(pipe.read_end, 1000, soon()) == Frame(header, body)
    finally:
        pipe.close()


def test_frames_larger_than_the_pipe_pass_in_pieces(pipe: Pipe) -> None:
    body = os.urandom(3_000_000)
    sender = threading.Thread(target=send_frame, args=(pipe.write_end, Frame({"n": 1}, body), soon()))
    sender.start()
    try:
        assert receive_frame(pipe.read_end, len(body), soon()).body == body
    finally:
        sender.join(10)


def test_a_silent_writer_ends_in_a_timeout(pipe: Pipe) -> None:
    began = time.monotonic()
    with pytest.raises(FrameTimeout):
        receive_frame(pipe.read_end, 0, began + 0.05)
    os.write(pipe.write_end, b"\0\0")
    with pytest.raises(FrameTimeout):
        receive_frame(pipe.read_end, 0, time.monotonic() + 0.05)
    assert time.monotonic() - began < 5


def test_a_reader_that_does_not_read_ends_in_a_timeout(pipe: Pipe) -> None:
    with pytest.raises(FrameTimeout):
        send_frame(pipe.write_end, Frame({}, bytes(10_000_000)), time.monotonic() + 0.05)


def test_closed_ends_are_told(pipe: Pipe) -> None:
    os.write(pipe.write_end, b"\0\0\0")
    pipe.close_writer()
    with pytest.raises(FrameClosed):
        receive_frame(pipe.read_end, 0, soon())


def test_a_closed_reader_is_told(pipe: Pipe) -> None:
    os.close(pipe.read_end)
    pipe.read_end = -1
    with pytest.raises(FrameClosed):
        send_frame(pipe.write_end, Frame({}, b"x"), soon())


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 64,
        struct.pack(">IQ", 2, 11) + b"{}" + bytes(11),
        struct.pack(">IQ", 2**31, 0),
        struct.pack(">IQ", 4, 0) + b"nope",
        struct.pack(">IQ", 2, 0) + b"[]",
        struct.pack(">IQ", 2, 0) + b"\xff\xff",
        struct.pack(">IQ", 100_000, 0) + b"[" * 100_000,
    ],
)
def test_garbage_is_refused_before_it_is_believed(pipe: Pipe, data: bytes) -> None:
    fcntl.fcntl(pipe.write_end, fcntl.F_SETPIPE_SZ, 1 << 20)
    assert os.write(pipe.write_end, data) == len(data)
    with pytest.raises(FrameError):
        receive_frame(pipe.read_end, 10, soon())
