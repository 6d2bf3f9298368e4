"""Evaluates candidates in a child process that is started once, kept warm, and replaced whenever it fails.

The service never runs a candidate or an environment itself: a candidate that crashes, hangs, exits, exhausts memory or
makes its process write garbage costs that process, and comes back as EvaluationFailed with the reason. The process is
`safety.worker`; messages are those of `safety.frames`.

It contains failures, not malice: a candidate is data and cannot act, but the environment's code runs as the user of the
service and could read its directory. Whoever chooses the environment is trusted.

Exceptions:
  EvaluationFailed: the candidate could not be judged; the message is the reason, for the ledger.
  EvaluatorClosed: the evaluator was closed meanwhile; nothing can be said about the candidate.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from actors.config import EnvironmentConfig
from actors.environment import EnvironmentSpec, EnvironmentUnsupported
from safety.config import SafetyConfig
from safety.evaluation import EpisodeOutcomes
from safety.frames import Frame, FrameClosed, FrameError, FrameTimeout, receive_frame, send_frame
from safety.worker import environment_from_header

START_S_MAX = 60.0
"""Time a worker has to import what it needs and make its environment."""

LOG_BYTES_MAX = 16 * 1024 * 1024
"""The worker's log is emptied before an evaluation once it is larger."""

REASON_CHARACTERS_MAX = 1000
"""A longer reason is cut off."""

_OUTCOME_BYTES = 24
_EXIT_S_MAX = 1.0


class EvaluationFailed(Exception):
    """A candidate could not be evaluated; the message says why, in one printable line.

    Parts of it are the candidate's or the environment's own words, and it goes to ledgers, logs and terminals.
    """

    def __init__(self, reason: str) -> None:
        printable = "".join(character if character.isprintable() else " " for character in reason)
        super().__init__(" ".join(printable.split())[:REASON_CHARACTERS_MAX])


class EvaluatorClosed(Exception):
    """The evaluation was abandoned because the service stops."""


@dataclasses.dataclass(frozen=True)
class _Worker:
    to_worker: int
    from_worker: int


class Evaluator:
    """Runs evaluations one at a time; only `close` may be called from another thread meanwhile.

    The thread that starts the worker must live as long as it is used: the worker dies with that thread (the kernel's
    parent death signal belongs to threads).

    Args:
      environment: what candidates are evaluated in.
      config: the limits.
      log_path: file that takes what the worker prints.
    """

    def __init__(self, environment: EnvironmentConfig, config: SafetyConfig, log_path: Path) -> None:
        self._environment = environment
        self._config = config
        self._log_path = log_path
        self._worker: _Worker | None = None
        self._described: EnvironmentSpec | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._closed = False

    @property
    def environment(self) -> EnvironmentSpec:
        """What candidates are evaluated in, as the newest worker says. Raises EvaluationFailed before `start`."""
        if self._described is None:
            raise EvaluationFailed("no evaluator process has been started yet")
        return self._described

    def start(self) -> None:
        """Starts the worker if there is none.

        Raises:
          EnvironmentUnsupported: the environment cannot be made.
          EvaluationFailed: the worker does not come up.
          EvaluatorClosed: see there.
        """
        self._ready()

    def evaluate(
        self, artifact: bytes, digest: bytes, seeds: Sequence[int], on_progress: Callable[[int], None]
    ) -> EpisodeOutcomes:
        """Runs one episode per seed with the policy of an artifact.

        Args:
          artifact: its bytes.
          digest: its digest (32 bytes), checked by the worker.
          seeds: environment seeds, one per episode.
          on_progress: called with the number of ended episodes, now and then.

        Raises:
          EvaluationFailed, EvaluatorClosed: see there. After a failure the next call has a fresh worker.
        """
        try:
            worker = self._ready()
        except EnvironmentUnsupported as error:
            raise EvaluationFailed(f"the environment cannot be made any more: {error}") from error
        # A log that somebody has removed is no reason against a candidate.
        with contextlib.suppress(FileNotFoundError):
            if self._log_path.stat().st_size > LOG_BYTES_MAX:
                # The worker appends to it, so its next line goes to the new end.
                os.truncate(self._log_path, 0)
        header = {
            "kind": "evaluate",
            "seeds": list(seeds),
            "digest": digest.hex(),
            "action_selection": self._config.action_selection,
            "lanes_max": self._config.lanes,
        }
        deadline = time.monotonic() + self._config.evaluation_s_max
        try:
            send_frame(worker.to_worker, Frame(header, artifact), deadline)
            while True:
                frame = receive_frame(worker.from_worker, _OUTCOME_BYTES * len(seeds), deadline)
                if frame.header.get("kind") != "progress":
                    outcomes = _outcomes(frame, len(seeds))
                    on_progress(len(seeds))
                    return outcomes
                on_progress(_episodes(frame, len(seeds)))
        except (FrameError, FrameTimeout, OSError) as error:
            raise self._failure(error, "the evaluation", self._config.evaluation_s_max) from error
        except EvaluationFailed:
            # The candidate's environment may have left anything behind in that process.
            self._discard()
            raise

    def close(self) -> None:
        """Kills the worker; an evaluation in progress raises EvaluatorClosed. May be called twice."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                _kill(self._process)

    def release(self) -> None:
        """Frees the pipes; to be called by the evaluating thread, after `close`."""
        self._discard()

    def _ready(self) -> _Worker:
        """The worker; a fresh one where there is none."""
        if self._worker is None:
            try:
                self._worker = self._spawn(time.monotonic() + START_S_MAX)
            except (FrameError, FrameTimeout, OSError) as error:
                raise self._failure(error, "its start", START_S_MAX) from error
            except EnvironmentUnsupported:
                self._discard()
                raise
        return self._worker

    def _spawn(self, deadline: float) -> _Worker:
        # -P, and the service's own path: what it imports, and nothing that merely lies in the working directory.
        command = [sys.executable, "-P", "-m", "safety.worker", str(os.getpid())]
        command.append(str(self._config.worker_memory_bytes_max))
        # One thread: outcomes must not depend on how a matrix product is divided, and actors want the other cores.
        threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        with self._lock, self._log_path.open("ab", buffering=0) as log:
            if self._closed:
                raise EvaluatorClosed("the evaluator is closed")
            process = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **threads, "PYTHONPATH": paths},
                # Its own group: a Ctrl-C for the service is not for it, and its children go with it.
                start_new_session=True,
            )
            self._process = process
        if process.stdin is None or process.stdout is None:
            raise FrameError("the evaluator process has no pipes")
        to_worker, from_worker = process.stdin.fileno(), process.stdout.fileno()
        os.set_blocking(to_worker, False)
        configure = {"kind": "configure", "environment": dataclasses.asdict(self._environment)}
        send_frame(to_worker, Frame(configure, b""), deadline)
        answer = receive_frame(from_worker, 0, deadline).header
        if answer.get("kind") == "unsupported":
            raise EnvironmentUnsupported(str(answer.get("reason")))
        try:
            self._described = environment_from_header(answer["environment"])
        except (KeyError, TypeError, ValueError) as error:
            raise FrameError(f"the answer describes no environment: {error}") from error
        return _Worker(to_worker, from_worker)

    def _failure(self, error: Exception, phase: str, time_s: float) -> EvaluationFailed | EvaluatorClosed:
        """Discards the worker and says what became of it in this phase, which may take `time_s`."""
        process = self._process
        by_itself = isinstance(error, FrameClosed) and process is not None and _ended(process)
        self._discard()
        if self._closed:
            return EvaluatorClosed("the service stops")
        if isinstance(error, FrameTimeout):
            return EvaluationFailed(f"{phase} took longer than {time_s:g} s and was stopped")
        if by_itself and process is not None:
            ended = process.returncode
            how = f"was killed by {signal.Signals(-ended).name}" if ended < 0 else f"exited with status {ended}"
            return EvaluationFailed(f"the evaluator process {how} during {phase}")
        return EvaluationFailed(f"the evaluator process did not answer as it must: {error}")

    def _discard(self) -> None:
        process, self._worker = self._process, None
        if process is None:
            return
        with self._lock:
            _kill(process)
            self._process = None
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kills the worker and its children, and waits for it."""
    if process.returncode is None:
        # Not waited for yet, so the number is still its own, even if it has ended.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a worker whose pipe is closed ends by itself; leaves it to be waited for, so that `_kill` still can."""
    deadline = time.monotonic() + _EXIT_S_MAX
    while time.monotonic() < deadline:
        try:
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return True
        except ChildProcessError:
            # `close`, in another thread, has killed it and waited for it.
            return True
        time.sleep(0.01)
    return False


def _episodes(frame: Frame, episodes: int) -> int:
    count = frame.header.get("episodes")
    if not isinstance(count, int) or not 0 <= count <= episodes:
        raise FrameError(f"progress of {count!r} of {episodes} episodes")
    return count


def _outcomes(frame: Frame, episodes: int) -> EpisodeOutcomes:
    """The outcomes in a frame; raises EvaluationFailed where it says why there are none, or FrameError."""
    if frame.header.get("kind") == "failed":
        raise EvaluationFailed(str(frame.header.get("reason")))
    if frame.header.get("kind") != "outcomes" or len(frame.body) != _OUTCOME_BYTES * episodes:
        raise FrameError(f"an answer of kind {frame.header.get('kind')!r} with {len(frame.body)} bytes")
    returns, costs = np.frombuffer(frame.body, "<f8", 2 * episodes).reshape(2, episodes)
    lengths = np.frombuffer(frame.body, "<i8", offset=16 * episodes)
    outcomes = EpisodeOutcomes(returns, costs, lengths)
    if not (np.isfinite(returns).all() and np.isfinite(costs).all() and (costs >= 0).all() and (lengths > 0).all()):
        raise FrameError("outcomes with values that no episode can have")
    return outcomes
