"""What the replay tests share: an address that nobody serves yet, and a check that clients end their threads."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def no_thread_left_behind() -> Iterator[None]:
    """Fails a test after which any thread is left."""
    before = set(threading.enumerate())
    yield
    deadline_s = time.monotonic() + 20.0
    # grpc.aio keeps one thread of its own for as long as anything asynchronous lives in the process.
    while left := [each for each in set(threading.enumerate()) - before if "_poll_wrapper" not in each.name]:
        assert time.monotonic() < deadline_s, left
        time.sleep(0.01)


@pytest.fixture
def socket() -> Iterator[str]:
    """An address that nobody serves yet."""
    directory = Path(tempfile.mkdtemp(prefix="temper-"))
    yield f"unix:{directory / 's'}"
    shutil.rmtree(directory)
