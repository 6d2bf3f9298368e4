"""The processes of the replay benchmark: started, spoken to in lines, ended whatever happens.

Servers, writers and samplers of every system speak the same way, so that the same clock starts and stops all of them:
a server prints its address, then answers each line of standard input with one line; a worker prints "ready", waits for
a line that says for how long, and prints one line of JSON with what it found.

Exceptions: BenchmarkError where a process fails, is gone, or does not answer in time.
"""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.process_group import BenchmarkError, end_group, uninterrupted

ROOT = Path(__file__).resolve().parent.parent
ANSWER_S = 90.0
LOG_CHARACTERS_SHOWN = 2000


class MemoryUse(NamedTuple):
    """Resident memory of a process (bytes): all of it, and what is its own, without pages of files that it maps."""

    resident_bytes: int
    own_bytes: int


class BenchmarkProcess:
    """One process that is spoken to in lines. Make it with `started`."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def say(self, line: str) -> None:
        """Writes a line to its standard input. Raises BenchmarkError."""
        if self._process.stdin is None:
            raise BenchmarkError("a process without a standard input cannot be told anything")
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise BenchmarkError(f"a process took no line ({error})\n{self._story()}") from error

    def line(self, timeout_s: float = ANSWER_S) -> str:
        """The next line of its standard output. Raises BenchmarkError."""
        output = self._process.stdout
        if output is None or not select.select([output], [], [], timeout_s)[0]:
            raise BenchmarkError(f"a process gave no answer in {timeout_s:.0f} s\n{self._story()}")
        line = output.readline()
        if not line:
            raise BenchmarkError(f"a process ended without an answer\n{self._story()}")
        return line.strip()

    def ask(self, line: str, timeout_s: float = ANSWER_S) -> dict[str, Any]:
        """Says a line and returns the JSON of the answer. Raises BenchmarkError."""
        self.say(line)
        return self.result(timeout_s)

    def result(self, timeout_s: float = ANSWER_S) -> dict[str, Any]:
        """The next line as JSON. Raises BenchmarkError."""
        answer = self.line(timeout_s)
        try:
            value: dict[str, Any] = json.loads(answer)
        except ValueError:
            raise BenchmarkError(f"a process answered {answer!r}\n{self._story()}") from None
        return value

    def has_answered(self) -> bool:
        """Whether there is a line to read, or never will be one again."""
        output = self._process.stdout
        return output is None or bool(select.select([output], [], [], 0.0)[0])

    def memory(self) -> MemoryUse:
        """Its resident memory now. Raises BenchmarkError."""
        with self._there():
            used = psutil.Process(self.pid).memory_info()
        return MemoryUse(used.rss, used.rss - used.shared)

    def cpu_s(self) -> float:
        """Processor time that it has used (s). Raises BenchmarkError."""
        with self._there():
            used = psutil.Process(self.pid).cpu_times()
        return float(used.user + used.system)

    def end(self) -> None:
        """Closes its standard input, asks it and all it started to stop, and kills those who do not."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        end_group(self._process)
        if self._process.stdout is not None:
            self._process.stdout.close()

    @contextlib.contextmanager
    def _there(self) -> Iterator[None]:
        try:
            yield
        except psutil.Error as error:
            raise BenchmarkError(f"a process that is measured is gone ({error})\n{self._story()}") from error

    def _story(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-LOG_CHARACTERS_SHOWN:]


@contextlib.contextmanager
def started(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[BenchmarkProcess]:
    """Starts a process and ends it at the end of the context.

    Args:
      command: program and arguments.
      log: takes its standard error.
      environment: its environment variables; this process's own by default.
    """
    with contextlib.ExitStack() as ending:
        with uninterrupted(), log.open("ab") as errors:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
            running = BenchmarkProcess(process, log)
            ending.callback(running.end)
        yield running


@contextlib.contextmanager
def all_started(
    commands: Sequence[Sequence[str]], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[list[BenchmarkProcess]]:
    """Starts several workers at once and waits until each is ready. Raises BenchmarkError."""
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(started(command, log, environment)) for command in commands]
        for worker in workers:
            if (line := worker.line()) != "ready":
                raise BenchmarkError(f"a worker was to say ready, and said {line!r}")
        yield workers
