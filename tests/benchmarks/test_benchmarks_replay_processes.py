"""The replay benchmark's processes: what fails or is interrupted is told, and leaves nobody and nothing behind."""

from __future__ import annotations

import contextlib
import io
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import pytest

from benchmarks import replay_worker
from benchmarks.process_group import BenchmarkError, uninterrupted
from benchmarks.replay_measure import Timing, fill, inserts, server
from benchmarks.replay_payloads import make, save
from benchmarks.replay_process import ROOT, BenchmarkProcess, all_started, started
from benchmarks.replay_systems import Counted, Disk, Load, Served, Spec

DEADLINE_S = 60.0
IDLE = "import sys; print('up', flush=True); sys.stdin.read()"
ENDS_AT_ONCE = "import sys; print('ready', flush=True); sys.stdin.readline(); print('{}', flush=True); sys.stdin.read()"


def _wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"no {what} in {DEADLINE_S:.0f} s"
        time.sleep(0.05)


class _Nothing:
    """A server that stores nothing, and whose writers write nothing."""

    name = "nothing"
    environment: Mapping[str, str] = {}

    def __init__(self) -> None:
        self.processes: Sequence[BenchmarkProcess] = ()

    @contextlib.contextmanager
    def serving(self, scratch: Path, load: Load, way: Spec) -> Iterator[Served]:
        with started([sys.executable, "-c", IDLE], scratch / "log") as process:
            self.processes = (process,)
            yield self

    def writing(self, size: str) -> Mapping[str, Spec]:
        return {"the only one": {}}

    def sampling(self, size: str) -> Mapping[str, Spec]:
        return {}

    def counted(self) -> Counted:
        return Counted(time.monotonic(), 0, 0)

    def disk(self) -> Disk:
        return Disk(0, 0, 0)

    def worker(self, role: str, spec: Spec) -> Sequence[str]:
        return [sys.executable, "-c", ENDS_AT_ONCE]


@pytest.fixture
def nothing_of(tmp_path: Path) -> Load:
    return Load("cartpole", tmp_path / "payloads", 100)


def test_a_server_that_was_not_filled_is_not_measured(tmp_path: Path, nothing_of: Load) -> None:
    system = _Nothing()
    filled = pytest.raises(BenchmarkError, match="nothing took in 0 of 100 records")
    with server(system, tmp_path / "server", nothing_of) as served, filled:
        fill(system, served, nothing_of, 100)
    assert not (tmp_path / "server").exists()


def test_writers_that_end_too_soon_are_no_measurement(tmp_path: Path, nothing_of: Load) -> None:
    system = _Nothing()
    measured = pytest.raises(BenchmarkError, match="ended before")
    with server(system, tmp_path / "server", nothing_of) as served, measured:
        inserts(system, served, nothing_of, {}, Timing(0.2, 0.2))


def test_a_process_that_is_gone_cannot_be_measured(tmp_path: Path) -> None:
    with started([sys.executable, "-c", "print('up')"], tmp_path / "log") as process:
        assert process.line() == "up"
        _wait_for(process.has_answered, "end of its output")
        psutil.wait_procs([psutil.Process(process.pid)], 0)
        process.end()
        with pytest.raises(BenchmarkError, match="gone"):
            process.cpu_s()
        with pytest.raises(BenchmarkError, match="gone"):
            process.memory()


def test_what_a_process_started_ends_with_it(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    with started([sys.executable, "-c", script], tmp_path / "log") as process:
        child = psutil.Process(int(process.line()))
        assert child.is_running()
    _wait_for(lambda: not child.is_running(), "end of the child")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_waits_for_what_is_half_done(number: signal.Signals) -> None:
    done = []
    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), uninterrupted():
            signal.raise_signal(number)
            done.append(1)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    assert done == [1]


def test_a_worker_that_is_not_ready_ends_the_others(tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", IDLE]] * 2
    refused = pytest.raises(BenchmarkError, match="was to say ready, and said 'up'")
    with refused, all_started(commands, tmp_path / "log"):
        pass


def test_a_writer_whose_stream_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def __init__(self, spec: Spec, columns: object, number: int) -> None:
            self.latencies_s = [1.0]

        def run(self, timed_s: float, end_s: float) -> None:
            raise ConnectionError("refused")

    save(make("tiny", 0), tmp_path / "payloads")
    monkeypatch.setattr(replay_worker, "Stream", Failing)
    monkeypatch.setattr(sys, "stdin", io.StringIO("0 1\n"))
    with pytest.raises(ConnectionError, match="refused"):
        replay_worker.write({"payloads": str(tmp_path / "payloads"), "actors": [0, 1]})


@pytest.mark.robustness
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_no_process_and_no_file(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.replay", "--section", "inserts", "--sizes", "cartpole", "--peers"]
    command += ["--seconds", "60", "--scratch", str(tmp_path)]
    benchmark = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        of_it = psutil.Process(benchmark.pid)
        _wait_for(lambda: len(of_it.children()) == 3, "server with two writers")
        children = of_it.children(recursive=True)
        benchmark.send_signal(number)
        benchmark.send_signal(number)  # the impatient do it again: it must not stop the clearing up
        assert benchmark.wait(DEADLINE_S) == 128 + number
        assert not [child for child in children if child.is_running()]
        assert list(tmp_path.iterdir()) == []
    finally:
        benchmark.kill()
        benchmark.wait()
