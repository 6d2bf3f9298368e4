"""Runs many `temper train` side by side, so many at once, each to its end; one that fails does not stop the others.

A run whose `temper train` is killed (by somebody, or for want of memory) is continued, RESTARTS_MAX times; one that
ends itself with an error is not. The first of STOP_SIGNALS ends all runs in order, the second kills them. What a run
is, and whether one has come to its end, is told to it.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from launch.output import discard_output
from launch.run_directory import holder_of
from launch.run_paths import RunPaths
from launch.supervisor import STOP_SIGNALS
from launch.sweep.run_process import RunProcess

RESTARTS_MAX = 3
"""Times that a killed run is continued."""

STOP_S_MAX = 180.0
"""How long a run may take to end in order (s): the times of its processes together."""

FREE_S_MAX = 60.0
"""How long processes of a killed run may hold its directory (s)."""

_TICK_S = 0.1

FINISHED = "finished"
FAILED = "failed"
UNFINISHED = "unfinished"


@dataclass(frozen=True)
class Task:
    """One run to be made.

    Attributes:
      name: for a person.
      paths: its run directory.
      log: what it prints is appended here.
      command: of its first start.
      is_over: whether it has come to its end, as far as its directory tells.
      about: what to say when it has.
    """

    name: str
    paths: RunPaths
    log: Path
    command: Sequence[str]
    is_over: Callable[[], bool]
    about: Callable[[], str]


@dataclass(frozen=True)
class Outcome:
    """What became of a task: FINISHED, FAILED and why, or UNFINISHED because the sweep was ended."""

    state: str
    why: str = ""


@dataclass
class _Attempt:
    """A task that is not over, and how often it was killed."""

    task: Task
    process: RunProcess | None = None
    kills: int = 0
    wait_until: float = 0.0


class Scheduler:
    """Runs tasks, at most `parallel` at once. For the main thread; enter `handling_signals` around `run`.

    Args:
      parallel: at least 1.
      inherited_descriptors: that every run keeps open, such as that of a lock.
      say: takes one line for a person. Where nobody takes it any more, all runs are ended.
    """

    def __init__(self, parallel: int, inherited_descriptors: Sequence[int], say: Callable[[str], None]) -> None:
        self._parallel = parallel
        self._descriptors = tuple(inherited_descriptors)
        self._say_line = say
        self._signals: list[int] = []
        self._outcomes: dict[str, Outcome] = {}
        self._count = 0

    @property
    def signal(self) -> int | None:
        """The signal that ended the sweep, if one did."""
        return self._signals[0] if self._signals else None

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Takes STOP_SIGNALS while the block runs; SIGHUP not where it was ignored, as under nohup."""
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        numbers = [number for number in STOP_SIGNALS if number != signal.SIGHUP or not ignored]
        previous = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def run(self, tasks: Sequence[Task], *, on_end: Callable[[], None] = lambda: None) -> dict[str, Outcome]:
        """Runs those that are not over, in order, until all have ended or a signal came; afterwards none runs.

        Args:
          tasks: with different names.
          on_end: called when one of them has ended.

        Returns:
          What became of each, by name.
        """
        self._count = len(tasks)
        self._outcomes = {task.name: Outcome(FINISHED) for task in tasks if task.is_over()}
        waiting = [_Attempt(task) for task in tasks if task.name not in self._outcomes]
        running: list[_Attempt] = []
        if self._outcomes:
            self.say(f"{len(self._outcomes)} of {self._count} runs are finished already and are kept")
        try:
            while (waiting or running) and not self._signals:
                self._start_some(waiting, running)
                for attempt in [each for each in running if self._has_ended(each)]:
                    running.remove(attempt)
                    if attempt.task.name in self._outcomes:
                        on_end()
                    else:
                        waiting.insert(0, attempt)
                time.sleep(_TICK_S)
            self._stop(running)
        finally:
            for attempt in running:
                if attempt.process is not None:
                    attempt.process.kill()
        return {task.name: self._outcomes.get(task.name, Outcome(UNFINISHED)) for task in tasks}

    def say(self, line: str) -> None:
        """Says one line; where that is not possible any more the sweep ends in order, as when its terminal closes."""
        try:
            self._say_line(line)
        except OSError as error:
            discard_output(error)
            self._say_line = _say_nothing
            if not self._signals:
                self._signals.append(signal.SIGPIPE)

    def _start_some(self, waiting: list[_Attempt], running: list[_Attempt]) -> None:
        for attempt in list(waiting):
            if len(running) >= self._parallel:
                return
            task = attempt.task
            if holder := holder_of(task.paths):
                attempt.wait_until = attempt.wait_until or time.monotonic() + FREE_S_MAX
                if time.monotonic() > attempt.wait_until:
                    waiting.remove(attempt)
                    self._fail(task, f"process {holder} holds {task.paths.root}")
                continue
            attempt.wait_until = 0.0
            waiting.remove(attempt)
            goes_on = task.paths.config.is_file()
            task.log.parent.mkdir(parents=True, exist_ok=True)
            command = [*task.command, "--resume"] if goes_on else task.command
            attempt.process = RunProcess(command, task.log, inherited_descriptors=self._descriptors)
            running.append(attempt)
            self.say(f"{task.name}: {'continued' if goes_on else 'started'} as process {attempt.process.pid}")

    def _has_ended(self, attempt: _Attempt) -> bool:
        """Whether its process has; then its outcome is known, or it is to be started again."""
        status = attempt.process.poll() if attempt.process is not None else None
        if status is None or attempt.process is None:
            return False
        task = attempt.task
        if status == 0 and task.is_over():
            self._outcomes[task.name] = Outcome(FINISHED)
            ended = sum(outcome.state == FINISHED for outcome in self._outcomes.values())
            self.say(f"{task.name}: finished ({ended} of {self._count}): {task.about()}")
        elif status < 0:
            attempt.kills += 1
            name = signal.Signals(-status).name
            if attempt.kills > RESTARTS_MAX:
                self._fail(task, f"was killed {attempt.kills} times, the last time by {name}")
            else:
                self.say(f"{task.name}: was killed by {name}; it is continued")
        elif status == 0 or status > 128:
            self._fail(task, "was ended from outside before it came to its end")
        else:
            self._fail(task, attempt.process.last_words() or f"ended with exit status {status}")
        return True

    def _fail(self, task: Task, why: str) -> None:
        self._outcomes[task.name] = Outcome(FAILED, why)
        self.say(f"{task.name}: failed: {why}")

    def _stop(self, running: list[_Attempt]) -> None:
        """Ends in order what still runs; what is left of it after STOP_S_MAX or a second signal is for the caller."""
        if running:
            self.say(f"ending {len(running)} runs in order; once more kills them")
        for attempt in running:
            if attempt.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    attempt.process.request_stop()
        deadline = time.monotonic() + STOP_S_MAX
        while running and len(self._signals) < 2 and time.monotonic() < deadline:
            for attempt in list(running):
                status = attempt.process.poll() if attempt.process is not None else 0
                if status is not None:
                    running.remove(attempt)
                    if status == 0 and attempt.task.is_over():
                        self._outcomes[attempt.task.name] = Outcome(FINISHED)
            time.sleep(_TICK_S / 2)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)


def _say_nothing(_line: str) -> None:
    pass
