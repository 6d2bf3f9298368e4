"""Runs one command to its end in a process group of its own, and ends all of that group whatever happens.

What is measured starts dozens of processes; a benchmark that is interrupted, fails or runs out of time must leave none
of them behind, or they would take part in the next measurement.

Exceptions: BenchmarkError where the command fails or exceeds its time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLL_S = 0.05
"""Between two looks at a running command: the resolution of what a watcher times."""

GRACE_S = 15.0
"""From the request to end to the kill."""

LOG_LINES_SHOWN = 30


class BenchmarkError(RuntimeError):
    """A measurement could not be made; the message says which command, and ends with its last lines of output."""


@dataclass(frozen=True)
class Finished:
    """When a command ran, on the clock of `time.time`."""

    started_time_s: float
    wall_s: float


def run_to_end(
    command: Sequence[str],
    *,
    log: Path,
    directory: Path,
    seconds_max: float,
    environment: Mapping[str, str] | None = None,
    watch: Callable[[float], None] | None = None,
) -> Finished:
    """Runs a command until it exits by itself.

    Args:
      command: program and arguments; "{started}" in an argument becomes the starting time, in seconds since the epoch.
      log: takes its output and errors.
      directory: its working directory.
      seconds_max: it is ended after this time.
      environment: its environment variables, this process's own by default.
      watch: called every POLL_S seconds, and once after the end, with the seconds since the start.

    Raises:
      BenchmarkError: it exited with another status than 0, or was ended for its time.
    """
    with log.open("wb") as output, contextlib.ExitStack() as ending:
        started_time_s, started = time.time(), time.monotonic()
        with uninterrupted():
            process = subprocess.Popen(
                [argument.replace("{started}", repr(started_time_s)) for argument in command],
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            ending.callback(end_group, process)
        while process.poll() is None:
            elapsed_s = time.monotonic() - started
            if elapsed_s > seconds_max:
                raise BenchmarkError(f"{command[0]} ... had not ended after {seconds_max:.0f} s\n{_last_lines(log)}")
            if watch is not None:
                watch(elapsed_s)
            time.sleep(POLL_S)
        wall_s = time.monotonic() - started
    if process.returncode != 0:
        raise BenchmarkError(f"{' '.join(command)} exited with status {process.returncode}\n{_last_lines(log)}")
    if watch is not None:
        watch(wall_s)
    return Finished(started_time_s, wall_s)


def end_group(process: subprocess.Popen[Any]) -> None:
    """Asks a group to end, waits until nobody is left in it, and kills those who will not go.

    Not at once: the helpers that remove shared memory and semaphores end by themselves, after those who used them.
    """
    with uninterrupted():
        if process.poll() is None:
            _signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        while (process.poll() is None or _signal_group(process, 0)) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        _signal_group(process, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Within it SIGINT and SIGTERM wait: what is half started would be known to nobody, what is half ended to none."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is ever interrupted
        return
    arrived: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: arrived.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])


def _signal_group(process: subprocess.Popen[Any], number: int) -> bool:
    """Whether there was anybody in the group to take the signal."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def _last_lines(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-LOG_LINES_SHOWN:])
