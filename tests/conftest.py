"""What all tests share: short socket paths, private keys away from home, a reproducible hypothesis, and a check that
nothing is left running."""

from __future__ import annotations

import contextlib
import os
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

from safety.keys.directory import PLACE_VARIABLE

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


@contextlib.contextmanager
def _private_keys_in(place: Path) -> Iterator[None]:
    before = os.environ.get(PLACE_VARIABLE)
    os.environ[PLACE_VARIABLE] = str(place)
    yield
    if before is None:
        del os.environ[PLACE_VARIABLE]
    else:
        os.environ[PLACE_VARIABLE] = before


@pytest.fixture(scope="session", autouse=True)
def keys_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Private keys of test runs go to a temporary directory, never to the home directory of whoever tests."""
    with _private_keys_in(tmp_path_factory.mktemp("keys")):
        yield


@pytest.fixture(scope="module", autouse=True)
def keys_of_the_module(keys_of_the_session: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run ids of tests recur, keys must not."""
    with _private_keys_in(tmp_path_factory.mktemp("keys")):
        yield


@pytest.fixture(autouse=True)
def keys_of_the_test(keys_of_the_module: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the private keys of this test's runs are made, in a directory for each run id."""
    place = tmp_path_factory.mktemp("keys")
    with _private_keys_in(place):
        yield place


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
