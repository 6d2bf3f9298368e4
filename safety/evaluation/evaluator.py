"""Evaluates candidates in a child process that is started once, kept warm, and replaced whenever it fails.

The service never runs a candidate or an environment itself: a candidate that crashes, hangs, exits, exhausts memory or
makes its process write garbage costs that process, and comes back as EvaluationFailed with the reason. The process is
`safety.evaluation.worker`; what is said is in `safety.evaluation.messages`, how it travels in
`safety.evaluation.frames`.

A candidate is data and cannot act; the environment's code can, and is confined (`safety.confinement.confine`) as far
as this kernel lets it be. What it counts as a cost is believed: whoever chooses the environment is trusted.

Exceptions:
  EvaluationFailed: the candidate could not be judged; the message is the reason, for the ledger.
    EvaluatorKilled: because somebody, perhaps itself, sent the process a signal that ends it.
  EvaluatorClosed: the evaluator was closed meanwhile; nothing can be said about the candidate.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.environment import EnvironmentSpec, EnvironmentUnsupported
from policies.spec import mismatch
from safety.config import SafetyConfig
from safety.confinement.confine import KEPT_VARIABLES, Confinement, confinement_from_header
from safety.evaluation.episodes import EpisodeOutcomes
from safety.evaluation.frames import Frame, FrameClosed, FrameError, FrameTimeout, receive_frame, send_frame
from safety.evaluation.messages import (
    EPISODE_BYTES,
    POLICIES_KEPT,
    environments_in,
    episodes_in,
    outcomes_in,
    plants_to_header,
    work_of,
    work_to_header,
)
from safety.evaluation.plants import Plant
from safety.suites.spec import SuiteSpec

START_S_MAX = 60.0
"""Time a worker has to import what it needs and make its environments."""

LOG_BYTES_MAX = 16 * 1024 * 1024
"""The worker's log is emptied before an evaluation once it is larger."""

REASON_CHARACTERS_MAX = 1000
"""A longer reason is cut off."""

_EXIT_S_MAX = 1.0

_SENT_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""That somebody sends. The others are of a process's own making, and would come again."""

OnProgress = Callable[[int], None]
"""Called now and then with the number of ended episodes. What it raises ends the evaluation, and the worker with it."""

_log = logging.getLogger(__name__)


class EvaluationFailed(Exception):
    """A candidate could not be evaluated; the message says why, in one printable line.

    Parts of it are the candidate's or the environment's own words, and it goes to ledgers, logs and terminals.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(_one_line(reason))


class EvaluatorKilled(EvaluationFailed):
    """The process was ended by a signal that also comes from outside, e.g. of a kernel that wants memory for others.

    It may have had nothing to do with the candidate: the same work in another process may succeed.
    """


class EvaluatorClosed(Exception):
    """The evaluation was abandoned because the service stops."""


@dataclasses.dataclass
class _Worker:
    to_worker: int
    from_worker: int
    loaded: list[str]
    """Digests of the policies that it keeps, the one used last at the end."""


class Evaluator:
    """Runs evaluations one at a time; only `close` may be called from another thread meanwhile.

    The thread that starts the worker must live as long as it is used: the worker dies with that thread (the kernel's
    parent death signal belongs to threads).

    Args:
      suite: what candidates are evaluated on.
      config: the limits.
      log_path: file that takes what the worker prints.
      hidden: directories that the worker must not read, wherever they lie.
    """

    def __init__(self, suite: SuiteSpec, config: SafetyConfig, log_path: Path, hidden: Sequence[Path] = ()) -> None:
        self._suite = suite
        self._config = config
        self._log_path = log_path
        self._hidden = hidden
        self._confinement: Confinement | None = None
        self._worker: _Worker | None = None
        self._described: tuple[EnvironmentSpec, ...] = ()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._closed = False

    @property
    def environments(self) -> Mapping[str, EnvironmentSpec]:
        """The environment of every slice by its name. Raises EvaluationFailed before `start`."""
        if not self._described:
            raise EvaluationFailed("no evaluator process has been started yet")
        return {each.name: spec for each, spec in zip(self._suite.slices, self._described, strict=True)}

    def start(self) -> None:
        """Starts the worker if there is none.

        Raises:
          EnvironmentUnsupported: an environment cannot be made, or two slices need different policies.
          EvaluationFailed: the worker does not come up, or its environments are not those of an earlier one.
          EvaluatorClosed: see there.
        """
        self._ready()

    def evaluate(
        self,
        artifact: bytes,
        digest: bytes,
        slice_index: int,
        seeds: Sequence[int],
        *,
        deadline: float,
        on_progress: OnProgress,
    ) -> EpisodeOutcomes:
        """Runs one episode per seed with the policy of an artifact, the first of them in row 0.

        Args:
          artifact: its bytes.
          digest: its digest (32 bytes), checked by the worker.
          slice_index: which slice of the suite.
          seeds: environment seeds, one per episode.
          deadline: on the clock of `time.monotonic`.
          on_progress: see there.

        Raises:
          EvaluationFailed, EvaluatorClosed: see there. After a failure the next call has a fresh worker.
        """
        header = {"kind": "evaluate", "slice": slice_index, "digest": digest.hex(), "seeds": list(seeds)}
        with self._conversation(deadline) as worker:
            self._load(worker, artifact, digest.hex(), deadline)
            return self._outcomes(worker, header, len(seeds), deadline, on_progress)

    def plant(
        self, slice_index: int, plants: Sequence[Plant], *, deadline: float, on_progress: OnProgress
    ) -> EpisodeOutcomes:
        """Runs planted episodes, the first of them in row 0; otherwise as `evaluate`."""
        with self._conversation(deadline) as worker:
            return self._outcomes(worker, plants_to_header(slice_index, plants), len(plants), deadline, on_progress)

    def close(self) -> None:
        """Kills the worker; an evaluation in progress raises EvaluatorClosed. May be called twice."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                _kill(self._process)

    def release(self) -> None:
        """Frees the pipes; to be called by the evaluating thread, after `close`."""
        self._discard()

    @contextlib.contextmanager
    def _conversation(self, deadline: float) -> Iterator[_Worker]:
        """A worker to talk to; whatever goes wrong discards it, and comes out as the reason."""
        if time.monotonic() >= deadline:
            # Before anything is said: the worker did nothing wrong.
            raise EvaluationFailed(_too_long("the evaluation", self._config.evaluation_s_max))
        try:
            worker = self._ready()
        except EnvironmentUnsupported as error:
            raise EvaluationFailed(f"the environment cannot be made any more: {error}") from error
        # A log that somebody has removed is no reason against a candidate.
        with contextlib.suppress(FileNotFoundError):
            if self._log_path.stat().st_size > LOG_BYTES_MAX:
                # The worker appends to it, so its next line goes to the new end.
                os.truncate(self._log_path, 0)
        try:
            yield worker
        except (FrameError, FrameTimeout, OSError) as error:
            raise self._failure(error, "the evaluation", self._config.evaluation_s_max) from error
        except BaseException:
            # The candidate's environment may have left anything behind in that process, or is still at work in it.
            self._discard()
            raise

    def _load(self, worker: _Worker, artifact: bytes, digest: str, deadline: float) -> None:
        """Makes the worker have this policy."""
        if digest in worker.loaded:
            worker.loaded.remove(digest)
        else:
            send_frame(worker.to_worker, Frame({"kind": "load", "digest": digest}, artifact), deadline)
            answer = _answer(worker, 0, deadline)
            if answer.header.get("kind") != "loaded":
                raise FrameError(f"an answer of kind {answer.header.get('kind')!r} to an artifact")
            del worker.loaded[: len(worker.loaded) - POLICIES_KEPT + 1]
        worker.loaded.append(digest)

    def _outcomes(
        self, worker: _Worker, header: Mapping[str, Any], episodes: int, deadline: float, on_progress: OnProgress
    ) -> EpisodeOutcomes:
        """Asks for episodes and waits for them."""
        send_frame(worker.to_worker, Frame(header, b""), deadline)
        while True:
            frame = _answer(worker, EPISODE_BYTES * episodes, deadline)
            if frame.header.get("kind") != "progress":
                outcomes = outcomes_in(frame, episodes)
                on_progress(episodes)
                return outcomes
            on_progress(episodes_in(frame, episodes))

    def _ready(self) -> _Worker:
        """The worker; a fresh one where there is none, or where it died while nobody asked it for anything."""
        if self._worker is not None and self._process is not None and _ended(self._process, 0.0):
            self._discard()
        if self._worker is None:
            try:
                self._worker = self._spawn(time.monotonic() + START_S_MAX)
            except (FrameError, FrameTimeout, OSError) as error:
                raise self._failure(error, "its start", START_S_MAX) from error
            except (EnvironmentUnsupported, EvaluationFailed):
                self._discard()
                raise
        return self._worker

    def _spawn(self, deadline: float) -> _Worker:
        # -P, and the service's own path: what it imports, and nothing that merely lies in the working directory.
        command = [sys.executable, "-P", "-m", "safety.evaluation.worker", str(os.getpid())]
        command.append(str(self._config.worker_memory_bytes_max))
        command += [f"--readable={Path(each).absolute()}" for each in self._config.readable]
        command += [f"--hidden={each.absolute()}" for each in self._hidden]
        # One thread: outcomes must not depend on how a matrix product is divided, and actors want the other cores.
        threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        kept = {name: value for name, value in os.environ.items() if name in KEPT_VARIABLES}
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
                env={**kept, **threads, "PYTHONPATH": paths},
                # Its own group: a Ctrl-C for the service is not for it, and its children go with it.
                start_new_session=True,
            )
            self._process = process
        if process.stdin is None or process.stdout is None:
            raise FrameError("the evaluator process has no pipes")
        to_worker, from_worker = process.stdin.fileno(), process.stdout.fileno()
        os.set_blocking(to_worker, False)
        send_frame(to_worker, Frame(work_to_header(work_of(self._suite, self._config)), b""), deadline)
        answer = receive_frame(from_worker, 0, deadline)
        if answer.header.get("kind") == "unsupported":
            raise EnvironmentUnsupported(_one_line(str(answer.header.get("reason"))))
        self._accept(environments_in(answer, len(self._suite.slices)))
        self._note(answer)
        return _Worker(to_worker, from_worker, [])

    def _note(self, answer: Frame) -> None:
        """Logs how the worker is confined, once. Raises FrameError where it does not say."""
        try:
            confinement = confinement_from_header(answer.header["confinement"])
        except (KeyError, TypeError, ValueError) as error:
            raise FrameError(f"the worker does not say how it is confined: {error}") from error
        if confinement != self._confinement:
            self._confinement = confinement
            level = logging.DEBUG if confinement.is_whole else logging.WARNING
            _log.log(level, "the evaluator is confined; %s", confinement.describe())

    def _accept(self, described: tuple[EnvironmentSpec, ...]) -> None:
        """Takes what a worker says of its environments, or refuses it."""
        for each, spec in zip(self._suite.slices, described, strict=True):
            misfit = mismatch(spec, described[0])
            if misfit:
                first = self._suite.slices[0].name
                raise EnvironmentUnsupported(
                    f"slice {each.name} has {misfit.replace('the environment', f'slice {first}')}: no policy could act "
                    "in both"
                )
        if self._described and described != self._described:
            raise EvaluationFailed("the environments are not those of the start any more: start the service anew")
        self._described = described

    def _failure(self, error: Exception, phase: str, time_s: float) -> EvaluationFailed | EvaluatorClosed:
        """Discards the worker and says what became of it in this phase, which may take `time_s`."""
        process = self._process
        by_itself = isinstance(error, FrameClosed) and process is not None and _ended(process, _EXIT_S_MAX)
        self._discard()
        if self._closed:
            return EvaluatorClosed("the service stops")
        if isinstance(error, FrameTimeout):
            return EvaluationFailed(_too_long(phase, time_s))
        if by_itself and process is not None:
            ended = process.returncode
            how = f"was killed by {signal.Signals(-ended).name}" if ended < 0 else f"exited with status {ended}"
            kind = EvaluatorKilled if -ended in _SENT_SIGNALS else EvaluationFailed
            return kind(f"the evaluator process {how} during {phase}")
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
        # Not waited for yet, so the number is still its own, even if it has ended. One that somebody killed before it
        # led a group of its own has none.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()


def _ended(process: subprocess.Popen[bytes], within_s: float) -> bool:
    """Whether a worker ends by itself in that time; leaves it to be waited for, so that `_kill` still can."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return True
        except ChildProcessError:
            # `close`, in another thread, has killed it and waited for it.
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)


def _one_line(reason: str) -> str:
    """What foreign code said, fit for ledgers, logs and terminals."""
    printable = "".join(character if character.isprintable() else " " for character in reason)
    return " ".join(printable.split())[:REASON_CHARACTERS_MAX]


def _too_long(phase: str, time_s: float) -> str:
    return f"{phase} took longer than {time_s:g} s and was stopped"


def _answer(worker: _Worker, body_bytes_max: int, deadline: float) -> Frame:
    """The next frame of a worker; raises EvaluationFailed where it says why there is none."""
    frame = receive_frame(worker.from_worker, body_bytes_max, deadline)
    if frame.header.get("kind") == "failed":
        raise EvaluationFailed(str(frame.header.get("reason")))
    return frame
