"""Many light actor processes on one machine: forks them from one warm process, and replaces those that die.

An actor that dies again and again, without having lived for a while in between, dies of what it is made of: a faulty
environment, a service that refuses it. The host then ends them all. Those that merely waited in vain for a policy are
started again for ever.

The host imports everything an actor needs and then forks, so that N actors share that memory. It stays single: it
never opens a channel, starts a thread, imports a learning framework or runs an environment, because a process that
does may not fork safely, and it forks again whenever an actor has died.

Signals: SIGTERM and SIGINT end the actors in order, those that take longer than `stop_s_max` by SIGKILL. The actors
die with their host, and the host stops with the process that started it: to run one detached, start it by something
that stays (setsid, systemd, Slurm, Kubernetes).

Exceptions: ActorsKeepFailing.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import random
import secrets
import signal
import sys
import time
import traceback
from typing import NoReturn

from actors.lifetime import STOP_SIGNALS, StopSignals, die_with_parent
from actors.process import ActorJob, check_job, run_actor
from actors.rollout import NoAuthorisedPolicy

__all__ = ["ActorJob", "ActorsKeepFailing", "run_actors"]

FAULTS_MAX = 6
"""So many faults of one actor in a row are too many."""

_NO_POLICY = 4
"""Exit status of an actor that waited in vain for a policy that may act: no fault of its own."""

_BACKOFF_S_MIN = 0.25
_HEALTHY_S = 15.0
"""An actor that lived this long did not fail because of how it started: its next failure counts as the first."""

_RANDOM = random.SystemRandom()


class ActorsKeepFailing(RuntimeError):
    """An actor failed FAULTS_MAX times in a row; its output says of what. The same job would fail in the same way."""


def run_actors(job: ActorJob) -> int:
    """Runs `job.processes` actors until SIGTERM or SIGINT; returns the exit status, 0 after an orderly stop.

    Must be called in the main thread of a process without other threads, channels or JAX.

    Raises:
      JobError, AddressError, KeyFileError, EnvironmentUnsupported: see `actors.process.check_job`.
      ActorsKeepFailing: see there; no actor is left.
    """
    check_job(job)
    die_with_parent(os.getppid(), signal.SIGTERM)
    with StopSignals() as signals:
        _Host(job, signals).run()
    return 0


@dataclasses.dataclass
class _Slot:
    """One actor and what became of its processes. `pid` is 0 while none runs; faults are failures of its own making."""

    actor_id: str
    pid: int = 0
    start_s: float = 0.0
    failures: int = 0
    faults: int = 0
    restart_s: float = 0.0


class _Host:
    def __init__(self, job: ActorJob, signals: StopSignals) -> None:
        self._job = job
        self._signals = signals
        self._slots = [_Slot(f"{job.actor_prefix}-{index:04d}") for index in range(job.processes)]

    def run(self) -> None:
        # What exists now is shared for good: a collection in a child would touch, and so copy, all of it.
        gc.collect()
        gc.freeze()
        try:
            while not self._signals.stop_requested():
                for slot in self._slots:
                    self._reap(slot)
                    if slot.faults >= FAULTS_MAX:
                        raise ActorsKeepFailing(f"{slot.actor_id} failed {slot.faults} times in a row: giving up")
                    if not slot.pid and time.monotonic() >= slot.restart_s and not self._signals.stop_requested():
                        self._start(slot)
                self._signals.wait(self._pause_s())
        finally:
            self._stop()
            gc.unfreeze()

    def _pause_s(self) -> float:
        """Time until the next restart; a second where none is due, in case a signal went unseen."""
        waits = [slot.restart_s - time.monotonic() for slot in self._slots if not slot.pid]
        return min(max(min(waits, default=1.0), 0.0), 1.0)

    def _start(self, slot: _Slot) -> None:
        run_id = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(8)}"
        sys.stdout.flush()
        sys.stderr.flush()
        parent_pid = os.getpid()
        # Held back until the child has handlers of its own: those it inherits would set the host's flag, not its own.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (*STOP_SIGNALS, signal.SIGCHLD))
        try:
            pid = os.fork()
            if pid == 0:
                _actor_main(self._job, slot.actor_id, run_id, parent_pid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        slot.pid, slot.start_s = pid, time.monotonic()
        _say(f"{slot.actor_id} started: pid {pid}, run id {run_id}")

    def _reap(self, slot: _Slot) -> None:
        """Notices that the process of `slot` has ended, and sets when it is started again."""
        if not slot.pid:
            return
        pid, status = os.waitpid(slot.pid, os.WNOHANG)
        if not pid:
            return
        now_s = time.monotonic()
        if now_s - slot.start_s >= _HEALTHY_S:
            slot.failures = slot.faults = 0
        slot.failures += 1
        slot.faults = 0 if os.waitstatus_to_exitcode(status) == _NO_POLICY else slot.faults + 1
        pause_s = min(_BACKOFF_S_MIN * 2.0 ** min(slot.failures - 1, 32), self._job.actor.restart_backoff_s_max)
        # Jitter: actors that died together of one cause do not all return at once.
        pause_s *= _RANDOM.uniform(0.5, 1.0)
        fate = f"; starts again in {pause_s:.2f} s" if slot.faults < FAULTS_MAX else ""
        _say(f"{slot.actor_id} ended: pid {pid}, {_describe(status)}{fate}")
        slot.pid, slot.restart_s = 0, now_s + pause_s

    def _stop(self) -> None:
        """Ends every actor: in order if it does so in time, by SIGKILL if not. Leaves no zombie."""
        for slot in self._slots:
            if slot.pid:
                os.kill(slot.pid, signal.SIGTERM)
        end_s = time.monotonic() + self._job.actor.stop_s_max
        while (pause_s := end_s - time.monotonic()) > 0 and any(slot.pid for slot in self._slots):
            for slot in self._slots:
                if slot.pid and os.waitpid(slot.pid, os.WNOHANG)[0]:
                    slot.pid = 0
            if any(slot.pid for slot in self._slots):
                self._signals.wait(min(pause_s, 0.2))
        for slot in self._slots:
            if slot.pid:
                os.kill(slot.pid, signal.SIGKILL)
                os.waitpid(slot.pid, 0)
                _say(f"{slot.actor_id} killed: pid {slot.pid} did not stop within {self._job.actor.stop_s_max:.1f} s")
                slot.pid = 0


def _actor_main(job: ActorJob, actor_id: str, run_id: str, parent_pid: int) -> NoReturn:
    """The whole life of a forked actor; SIGTERM and SIGINT are blocked when it begins."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        die_with_parent(parent_pid, signal.SIGKILL)
        with StopSignals() as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOP_SIGNALS, signal.SIGCHLD))
            _say(f"{actor_id} stopped: {run_actor(job, actor_id, run_id, signals.stop_requested)}")
        status = 0
    except NoAuthorisedPolicy as error:
        status = _NO_POLICY
        _say(f"{actor_id} gives up: {error}")
    except BaseException:  # noqa: BLE001 - nothing may unwind into the host's frames, of which this is a copy
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


def _describe(wait_status: int) -> str:
    code = os.waitstatus_to_exitcode(wait_status)
    return f"status {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"


def _say(text: str) -> None:
    print(f"temper actor {text}", flush=True)
