"""Runs episodes again in an environment that may raise, stand still, or take for ever: then there is a reason instead.

The episodes are run in a thread of their own, which the caller's watches, so that neither a record that its environment
chokes on nor an environment that stands still keeps all others from being verified. An environment that does not come
back is given up: its thread is left to itself, and nobody touches it any more. One thing nobody can be saved from in
here: code that stands still and does not let go of Python's interpreter lock.

Exceptions: Interrupted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from actors.environment import VectorEnvironment
from actors.known_environments import KnownEnvironments
from actors.reexecution import Courses, EpisodeOutcome, EpisodeReplay

STEP_S_MAX = 120.0
"""Longest time that one step of all lanes may take, the resets before it included."""

_LOOK_S = 0.1
_END_S = 0.5

_SLOW = "running the records gathered with it again took too long"


class Interrupted(Exception):
    """The caller was told to stop; nothing came of it."""


class BoundedReexecution:
    """Runs episodes again. For one thread at a time.

    Args:
      environments: where an environment that does not come back is given up.
      stop: whether to raise Interrupted; asked several times a second.
      seconds_max: longest time for the episodes of one call; 0 for no limit.
    """

    def __init__(
        self,
        environments: KnownEnvironments,
        *,
        stop: Callable[[], bool] = lambda: False,
        seconds_max: float = 0.0,
    ) -> None:
        self._environments = environments
        self._stop = stop
        self._seconds_max = seconds_max

    def run(self, environment: VectorEnvironment, episodes: Sequence[EpisodeReplay]) -> Sequence[EpisodeOutcome | str]:
        """What came of each episode, in their order, or why nothing did. Raises Interrupted."""
        work = _Work(environment, episodes, self._seconds_max)
        work.start()
        stands_still = f"its environment did not come back from a step within {STEP_S_MAX:g} s"
        try:
            if self._watch(work):
                return work.found
        finally:
            # Whatever ended the watch, a KeyboardInterrupt for one.
            if not work.ended.is_set():
                work.abandoned = True
                if not work.ended.wait(_END_S):
                    self._environments.give_up(environment, stands_still)
        return [stands_still] * len(episodes)

    def _watch(self, work: _Work) -> bool:
        """Whether it came to an end; False where it stands still."""
        steps, since_s = 0, time.monotonic()
        while not work.ended.wait(_LOOK_S):
            if self._stop():
                raise Interrupted
            if work.steps != steps:
                steps, since_s = work.steps, time.monotonic()
            elif time.monotonic() - since_s > STEP_S_MAX:
                return False
        return True


class _Abandoned(Exception):
    """Nobody waits for it any more."""


class _Work(threading.Thread):
    """One call's episodes. `steps` grows while the environment comes back."""

    def __init__(self, environment: VectorEnvironment, episodes: Sequence[EpisodeReplay], seconds_max: float) -> None:
        super().__init__(name="reexecution", daemon=True)
        self._environment = environment
        self._episodes = episodes
        self._end_s = time.monotonic() + seconds_max if seconds_max else float("inf")
        self.found: Sequence[EpisodeOutcome | str] = ()
        self.steps = 0
        self.abandoned = False
        self.ended = threading.Event()

    def run(self) -> None:
        try:
            self.found = self._attempt(self._episodes)
        except _Abandoned:
            pass
        finally:
            self.ended.set()

    def _attempt(self, episodes: Sequence[EpisodeReplay]) -> Sequence[EpisodeOutcome | str]:
        """Runs them together; where something is raised, halves of them, until it is known over which."""
        try:
            return self._together(episodes)
        except _Abandoned:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the environment may be anybody's
            if len(episodes) <= 1:
                return [f"its environment raised {type(error).__name__}"] * len(episodes)
            half = len(episodes) // 2
            return [*self._attempt(episodes[:half]), *self._attempt(episodes[half:])]

    def _together(self, episodes: Sequence[EpisodeReplay]) -> Sequence[EpisodeOutcome | str]:
        courses = Courses(self._environment, episodes)
        while time.monotonic() < self._end_s and courses.step():
            self.steps += 1
            if self.abandoned:
                raise _Abandoned
        unfinished = courses.unfinished()
        return [_SLOW if index in unfinished else outcome for index, outcome in enumerate(courses.outcomes())]
