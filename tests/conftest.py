"""What all tests share: short socket paths, a reproducible hypothesis, and a check that nothing is left running."""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SHIPPED = tuple(
    f"{REPOSITORY / name}/" for name in ("protos", "replay", "policies", "actors", "safety", "learner", "launch")
)
GRACE_S = 5.0

hypothesis.settings.register_profile("temper", deadline=None, derandomize=True, database=None, max_examples=50)
hypothesis.settings.load_profile("temper")


# A suite that runs in the background may have been given ignored signals, which it would hand down to every process.
for _number, _handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)


@pytest.fixture
def socket_directory() -> Iterator[Path]:
    """A directory with a path short enough for Unix sockets, which pytest's own tmp_path may not be."""
    with tempfile.TemporaryDirectory(prefix="temper-") as directory:
        yield Path(directory)


@pytest.fixture(scope="module", autouse=True)
def nothing_left_running() -> Iterator[None]:
    """Fails a test file that leaves a child process, or a thread inside Temper's own code, behind."""
    processes, threads = _processes(), _threads()
    yield
    deadline = time.monotonic() + GRACE_S
    while (_processes() - processes or _threads() - threads) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [_describe(process) for process in _processes() - processes]
    left += [f"thread {thread.name!r}" for thread in _threads() - threads]
    assert not left, f"left running after {GRACE_S:.0f} s: {', '.join(sorted(left))}"


def _processes() -> set[psutil.Process]:
    # The tracker of multiprocessing lives as long as the interpreter by design.
    return {
        process
        for process in psutil.Process().children(recursive=True)
        if "multiprocessing.resource_tracker" not in _describe(process)
    }


def _describe(process: psutil.Process) -> str:
    try:
        return f"process {process.pid} ({process.status()}): {' '.join(process.cmdline())}"
    except psutil.Error:
        return f"process {process.pid}, ending"


def _threads() -> set[threading.Thread]:
    """Threads other than this one that have a function of a shipped package on their stack."""
    stacks = sys._current_frames()
    found = set()
    for thread in threading.enumerate():
        frame = stacks.get(thread.ident or 0) if thread is not threading.current_thread() else None
        while frame is not None:
            if frame.f_code.co_filename.startswith(SHIPPED):
                found.add(thread)
            frame = frame.f_back
    return found
