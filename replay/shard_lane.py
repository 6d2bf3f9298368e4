"""One shard as a sampler over several sees it: its parts of batches, and how it is doing.

A thread takes parts from the shard's ReplaySampler and lays a few of them ready. How long a shard is waited for is
learnt from it: twice as long as before once it came in time, half as long once it was waited for in vain.

Exceptions: none of its own.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from replay.client_errors import Backoff, ReplayRefused, ReplayUnavailable, SampleTimeout
from replay.client_sample import ReplaySampler, SampledBatch
from replay.schema import SchemaError

PATIENCE_S_MAX = 0.1
"""Longest time that one shard whose turn it is is waited for while others have something."""

_PATIENCE_S_MIN = 0.001
_POLL_S = 1.0
_AGAIN_S_MAX = 10.0
_JOIN_S = 5.0

_log = logging.getLogger(__name__)


class ShardLane:
    """The parts of one shard, as they come. Everything but `close` is for whoever holds `condition`.

    Args:
      make: makes a sampler of the shard, at once and again where one was refused; of a position to go on from.
      ready_max: parts that lie ready here at most.
      condition: notified when something has come, and of what was taken.
      again_from: the position for the first sampler.

    Attributes:
      closing: set by whoever closes it, before `close`.
      patience_s: how long it is waited for when its turn has come (s).
      waited_since_s: since when it is waited for (monotonic, s).
      refusal: why it refuses to deliver, while it does.
      trouble: why it has not delivered for a second or more, "" where it has.
      failure: what has failed meanwhile; "" where nothing has, it has just no records.
    """

    def __init__(
        self,
        make: Callable[[int | None], ReplaySampler],
        ready_max: int,
        condition: threading.Condition,
        again_from: int | None = None,
    ) -> None:
        self.closing = False
        self.patience_s = PATIENCE_S_MAX
        self.waited_since_s: float | None = None
        self.refusal: ReplayRefused | None = None
        self.trouble = ""
        self.failure = ""
        self._make = make
        self._ready_max = ready_max
        self._condition = condition
        self._available = 0
        self._late = True
        self._ready: deque[SampledBatch | SchemaError] = deque()
        self._backoff = Backoff(_AGAIN_S_MAX)
        self._sampler = self._make(again_from)
        self._thread = threading.Thread(target=self._run, name="replay-shard", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether there is a part to be taken."""
        return bool(self._ready)

    @property
    def weight(self) -> float:
        """Records that could be drawn when the part was that is next, or was the last; at least 1."""
        part = self._ready[0] if self._ready else None
        return max(1.0, part.available if isinstance(part, SampledBatch) else self._available)

    def is_expected(self, records: int) -> bool:
        """Whether there should soon be a part: it delivers in time, and had so many records when it last did."""
        return not self._late and self._available >= records

    def take(self) -> SampledBatch | SchemaError:
        """The next part. One that was waited for came in time: the next may take longer."""
        if self.waited_since_s is not None:
            self.patience_s = min(2.0 * self.patience_s, PATIENCE_S_MAX)
            self.waited_since_s = None
        return self._ready.popleft()

    def miss(self) -> None:
        """Leaves the shard out until it delivers again, and waits less for it the next time."""
        self._late = True
        self.patience_s = max(0.5 * self.patience_s, _PATIENCE_S_MIN)
        self.waited_since_s = None

    def close(self) -> None:
        """Ends the connection and the thread, which has been told."""
        self._sampler.close()
        self._thread.join(_JOIN_S)

    def _run(self) -> None:
        while self._wait_for_room():
            try:
                part: SampledBatch | SchemaError = self._sampler.next(_POLL_S)
            except SampleTimeout as error:
                with self._condition:
                    self.trouble, self.failure, self.refusal = str(error), error.why, None
                continue
            except ReplayUnavailable:
                continue  # closed: it was told
            except ReplayRefused as error:
                self._refused(error)
                continue
            except SchemaError as error:
                part = error
            with self._condition:
                self._put(part)

    def _wait_for_room(self) -> bool:
        """Returns whether there is room for a part, as soon as there is or the sampler is closed."""
        with self._condition:
            self._condition.wait_for(lambda: self.closing or len(self._ready) < self._ready_max)
            return not self.closing

    def _put(self, part: SampledBatch | SchemaError) -> None:
        if isinstance(part, SampledBatch):
            self._available = part.available
        self._ready.append(part)
        self._late, self.refusal, self.trouble, self.failure = False, None, "", ""
        self._backoff.reset()
        self._condition.notify_all()

    def _refused(self, error: ReplayRefused) -> None:
        """A sampler that was refused is of no more use: makes another after a pause."""
        with self._condition:
            if self.refusal is None:
                _log.warning("a shard is left out: %s", error)
            self.refusal, self.trouble, self.failure = error, str(error), str(error)
            self._condition.notify_all()
            if self._condition.wait_for(lambda: self.closing, self._backoff.next_s()):
                return
        self._sampler.close()
        # All that it had delivered was taken before it said so.
        sampler = self._make(self._sampler.next_position)
        with self._condition:
            self._sampler, closing = sampler, self.closing
        if closing:
            sampler.close()
