"""Curation at ingest: rules run over records as they arrive, beside whoever stores them and never in their way.

A record can be sampled before the rules have seen it. Nothing of the ingest path waits for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event

from replay.client_errors import Backoff, ReplayUnavailable
from replay.curation.curator import CurationResult, Curator
from replay.source import RecordSource


class IngestCuration:
    """Rules run over records as they arrive, from a thread or a process of their own, at a bounded share of its time.

    It starts at a position, catches up with the end of the log, and then looks for new records every `poll_s`. A
    service that cannot be reached is waited for.

    Args:
      source: of one log, not of several shards, whose ends lie apart; used by no other thread meanwhile.
      curator: the rules.
      filter_text: only records that pass.
      from_position: where to begin.
      batch_records: most records judged at once.
      poll_s: time between two looks at the end of the log (s).
      work_share_max: part of the time that it may work, in (0, 1]: after each batch it rests accordingly.
      on_batch: called with the result of each batch that was not empty.

    Attributes:
      next_position: where to go on, as Curator.next_position.
    """

    def __init__(
        self,
        source: RecordSource,
        curator: Curator,
        *,
        filter_text: str = "",
        from_position: int = 0,
        batch_records: int = 500,
        poll_s: float = 1.0,
        work_share_max: float = 0.5,
        on_batch: Callable[[CurationResult], object] = lambda _result: None,
    ) -> None:
        if not 0 < work_share_max <= 1:
            raise ValueError(f"work_share_max = {work_share_max} must be in (0, 1]")
        self._source = source
        self._curator = curator
        self._filter_text = filter_text
        self._batch_records = batch_records
        self._poll_s = poll_s
        self._rest_per_work = 1.0 / work_share_max - 1.0
        self._on_batch = on_batch
        self._backoff = Backoff(maximum_s=max(poll_s, 10.0))
        self.next_position = from_position

    def run(self, stop: Event) -> None:
        """Goes on until `stop` is set, which is looked at before each record; what was judged by then is written.

        Raises what the source raises, but for ReplayUnavailable.
        """
        while not stop.is_set():
            stop.wait(self._round(stop))

    def _round(self, stop: Event) -> float:
        """Judges one batch; returns how long to wait before the next (s)."""
        start_s = time.monotonic()
        try:
            # What a filter keeps out need not be looked at again: all that is in the log by now.
            end = self._source.stats().appended_records if self._filter_text else 0
            result = self._curator.run(
                self._source,
                filter_text=self._filter_text,
                from_position=self.next_position,
                limit=self._batch_records,
                stop=stop.is_set,
            )
        except ReplayUnavailable:
            self.next_position = max(self.next_position, self._curator.next_position)
            return self._backoff.next_s()
        self._backoff.reset()
        caught_up = result.records < self._batch_records and not stop.is_set()
        self.next_position = max(result.next_position, end) if caught_up else result.next_position
        if result.records:
            self._on_batch(result)
        worked_s = time.monotonic() - start_s
        rest_s = worked_s * self._rest_per_work
        return max(rest_s, self._poll_s) if caught_up else rest_s
