"""One supervised process: start it, see whether it is ready or gone, start it again after a pause, stop it in order.

A child runs in its own process group with its output in a log file, so that a Ctrl-C at the terminal reaches only the
supervisor, and a child that outlives the supervisor by a moment never blocks on a pipe. All methods are non-blocking
and belong to the supervisor's main thread: the kernel's parent-death signal is bound to the thread that started the
child.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launch.errors import BadInput, RunFailed
from launch.process import GAVE_UP, SUPERVISOR_VARIABLE, import_path

HEALTHY_S = 60.0
"""A process that ran this long died of something new: its deaths before that count no more."""

_LOG_TAIL_BYTES = 8192
_READY_MARK = b" ready at "
_FAILURE_LINES = 15


@dataclass(frozen=True)
class ChildSpec:
    """What to run and how to treat it.

    Attributes:
      name: short name, also of its log file.
      command: the command line.
      restart_arguments: added to the command line on every start but the first.
      environment: variables set in addition to the supervisor's own.
      ends_run: whether its own orderly end (exit status 0) is the end of the run; of any other it is a death.
      address: where it serves, or "".
      ready_s_max: how long it may take to print its "ready" line (s); 0: it prints none.
      stop_s_max: how long it may take to stop in order before it is killed (s).
      restarts_max: unexpected deaths in a row, none after HEALTHY_S or more, after which the next one fails the run.
      essential: whether the run fails with it; one without which the run goes on is started again for ever, after
        restarts_max deaths only every HEALTHY_S.
    """

    name: str
    command: Sequence[str]
    restart_arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    ends_run: bool = False
    address: str = ""
    ready_s_max: float = 0.0
    stop_s_max: float = 20.0
    restarts_max: int = 5
    essential: bool = True


@dataclass(frozen=True)
class Backoff:
    """Pause before the n-th restart in a row, n from 1: initial_s * 2**(n-1), at most max_s."""

    initial_s: float = 0.25
    max_s: float = 8.0

    def pause_s(self, restart: int) -> float:
        """How long to wait before this restart (s)."""
        return min(self.initial_s * 2.0 ** (restart - 1), self.max_s)


class Child:
    """A process under supervision, over all its restarts."""

    def __init__(
        self, spec: ChildSpec, log: Path, *, inherited_descriptors: Sequence[int] = (), backoff: Backoff | None = None
    ) -> None:
        self.spec = spec
        self.log = log
        self.restarts = 0
        self.ready = False
        self._inherited_descriptors = tuple(inherited_descriptors)
        self._backoff = backoff or Backoff()
        self._process: subprocess.Popen[bytes] | None = None
        self._deaths = 0
        self._start_again_at: float | None = None
        self._started_at = 0.0
        self._log_start = self._log_read = 0

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    @property
    def state(self) -> str:
        """How it is doing, one word for a person."""
        if self._start_again_at is not None:
            return "restarting"
        if self.pid is None:
            return "stopped"
        return "running" if self.ready or not self.spec.ready_s_max else "starting"

    def start(self) -> None:
        """Starts the process; its output is appended to the log."""
        command = [*self.spec.command, *(self.spec.restart_arguments if self.restarts else ())]
        environment = {**os.environ, **self.spec.environment, SUPERVISOR_VARIABLE: str(os.getpid())}
        environment |= {"PYTHONUNBUFFERED": "1", "PYTHONPATH": import_path()}
        with self.log.open("ab") as log:
            self._log_start = self._log_read = log.tell()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                process_group=0,
                pass_fds=self._inherited_descriptors,
            )
        self._started_at = time.monotonic()
        self._start_again_at = None
        self.ready = False

    def poll(self) -> bool:
        """Looks after the process: notices readiness and death, restarts it when its pause is over.

        Returns:
          True once a process whose end is the end of the run has ended in order, else False.

        Raises:
          BadInput: an essential one refused its input (exit status 2); the message is its own.
          RunFailed: an essential one died more often than its spec allows, or gave up itself (exit status 3).
        """
        if self._start_again_at is not None:
            if time.monotonic() >= self._start_again_at:
                self.restarts += 1
                self.start()
            return False
        if self._process is None:
            return False
        if _is_running(self._process):
            self._look_for_readiness(self._process)
            return False
        status = self._bury(self._process)
        if status == 0 and self.spec.ends_run:
            return True
        if status == 2 and self.spec.essential:
            raise BadInput(self.last_words())
        if status == GAVE_UP and self.spec.essential:
            if self.spec.ends_run:
                # It knows why, and its last line says so; others only know how often.
                raise RunFailed(f"{self.spec.name} gave up: {self.last_words()} (its log is {self.log})")
            raise RunFailed(self._epitaph(f"{self.spec.name} gave up"))
        self._plan_restart(status)
        return False

    def request_stop(self) -> None:
        """Asks it to stop in order (SIGTERM), and cancels a planned restart."""
        self._start_again_at = None
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def has_stopped(self) -> bool:
        """Whether its process is gone, after request_stop; what it left behind in its group is then killed."""
        if self._process is None:
            return True
        if _is_running(self._process):
            return False
        self._bury(self._process)
        return True

    def kill(self) -> None:
        """Kills it and what it started in its group, at once; reaps it."""
        self._start_again_at = None
        if self._process is not None:
            self._bury(self._process)

    def last_words(self) -> str:
        """The last line it wrote since it was started, without the command's name before it."""
        lines = self.log_tail(1)
        return (lines[0] if lines else f"{self.spec.name} said nothing").removeprefix("temper: ")

    def log_tail(self, lines_max: int) -> list[str]:
        """The last non-empty lines it wrote since it was started."""
        with self.log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - _LOG_TAIL_BYTES))
            text = log.read().decode(errors="replace")
        return [line for line in text.splitlines() if line.strip()][-lines_max:]

    def _bury(self, process: subprocess.Popen[bytes]) -> int:
        """Kills what is left of the group (actors of a host, a worker of the evaluator); returns the exit status."""
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        self.ready = False
        return process.wait()

    def _look_for_readiness(self, process: subprocess.Popen[bytes]) -> None:
        if self.ready or not self.spec.ready_s_max:
            return
        with self.log.open("rb") as log:
            log.seek(self._log_read)
            new = log.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._log_read += len(whole)
        self.ready = any(line.startswith(b"temper ") and _READY_MARK in line for line in whole.splitlines())
        if not self.ready and time.monotonic() - self._started_at > self.spec.ready_s_max:
            self._note(f"was not ready after {self.spec.ready_s_max:g} s: killed")
            process.kill()

    def _plan_restart(self, status: int) -> None:
        now = time.monotonic()
        if now - self._started_at >= HEALTHY_S:
            self._deaths = 0
        self._deaths += 1
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        too_often = self._deaths > self.spec.restarts_max
        if too_often and self.spec.essential:
            name, times = self.spec.name, self._deaths
            raise RunFailed(
                self._epitaph(f"{name} died {times} times in a row, each time within {HEALTHY_S:g} s ({how})")
            )
        pause_s = HEALTHY_S if too_often else self._backoff.pause_s(self._deaths)
        self._note(f"ended ({how}); starting it again in {pause_s:g} s")
        self._start_again_at = now + pause_s

    def _epitaph(self, message: str) -> str:
        tail = [f"    {line}" for line in self.log_tail(_FAILURE_LINES)]
        return "\n".join([f"{message}; the end of {self.log}:", *tail])

    def _note(self, text: str) -> None:
        # For a reader of the log only: a full disk must not keep the process from being started again.
        with contextlib.suppress(OSError), self.log.open("a", encoding="utf-8") as log:
            log.write(f"[supervisor] {self.spec.name} {text}\n")


def _is_running(process: subprocess.Popen[bytes]) -> bool:
    # WNOWAIT leaves a dead process unreaped: until it is buried its id, which is also its group's, cannot be reused.
    if process.returncode is not None:
        return False
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
