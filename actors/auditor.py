"""The auditor: verifies a sample of the records of a running replay service as they arrive, and marks them.

It reads from near the newest record on. It takes half of one CPU at most, and makes no more than so many environment
steps a second. On a busy machine it gets less, a third of what anybody else does who wants a CPU as much, and then does
not rest: time in which it was kept waiting is rest enough. Where that does not suffice, it does not lag: behind by more
than BEHIND_S_MAX, and falling further behind, it leaves records out, goes on with newer ones, and chooses a greater
share of those, so that as many are run again as were to be. All of that is counted, and logged now and then.

A service that cannot be reached is waited for; what was found meanwhile is written afterwards. Each mismatch is one
line in the log. It decides nothing: what is to become of a record marked `mismatch` is for filters, quarantines and
people to say.

Runs as a process of its own. SIGTERM and SIGINT end it in order within two seconds, whatever it is at; for half of that
it still judges the newest records. The work is done in a thread, which is left to itself where a service or an
environment does not come back.

Exceptions: VerificationError for a job that makes no sense; EnvironmentUnsupported; ReplayRefused.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from actors.bounded_reexecution import Interrupted
from actors.config import EnvironmentConfig
from actors.judgement import Verdict
from actors.known_environments import KnownEnvironments
from actors.lifetime import StopSignals
from actors.verification import (
    LOOK_BACK,
    VerificationError,
    VerificationReport,
    check_fraction,
    is_sampled,
    write_marks,
)
from actors.verifier import Verifier
from replay.client import ReplayClient
from replay.client_errors import Backoff, ReplayUnavailable
from replay.sharding import global_position
from replay.source import RecordSource

BEHIND_MAX = LOOK_BACK
"""How many records it may be behind the newest one before it leaves some out."""

BEHIND_S_MAX = 20.0
"""How long ago a record may have come that it has not looked at, before it leaves some out."""

WORK_SHARE_MAX = 0.5
"""Part of one CPU that it takes at most."""

GATHERED_S_MAX = 5.0
"""Longest time for which chosen records wait for others to be judged with."""

FINISH_S_MAX = 1.0
"""Time for the newest records once it is to stop."""

GROUP_S_MAX = 30.0
"""Longest time for running a group of records again: an environment of many seconds a step must not take for ever."""

_ENDS_MAX = 40
"""How finely it is remembered when the log ended where."""

_GROUP_RECORDS = 256
_PAGE_RECORDS = 2048
_UNWRITTEN_MAX = 10_000
_POLL_S = 1.0
_BACKOFF_S_MAX = 10.0
_SUMMARY_S = 30.0
_LOOK_S = 0.25
_END_S = 0.4

_FINISH_RECORDS = 8_192
"""Newest records for which FINISH_S_MAX suffices."""

_NICENESS = 5
"""Weighs a third of a process that is not nice. With 10 it is a tenth: among four of those nothing gets done."""

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class AuditorJob:
    """What an auditor is to do.

    Attributes:
      environment: what the records were made in.
      replay_address: of the service; of several shards each has its own auditor.
      fraction: which part of the records, in (0, 1].
      seed: of the choice; None: one that nobody knows, so that no actor can tell which of its records are looked at.
      steps_per_s_max: most environment steps a second, on average; above 0.
      shard: number of the service, for the positions in the log.
    """

    environment: EnvironmentConfig
    replay_address: str
    fraction: float = 0.01
    seed: int | None = None
    steps_per_s_max: float = 20_000.0
    shard: int = 0


def run_auditor(job: AuditorJob) -> int:
    """Audits until SIGTERM or SIGINT; returns the exit status, 0. Must be called in the main thread.

    Raises:
      VerificationError: fraction or steps_per_s_max is out of range.
      AddressError: replay_address is malformed.
      EnvironmentUnsupported: the environment cannot be made.
      ReplayRefused: the service refuses what is asked of it, and will again.
    """
    stop, give_up, ended = threading.Event(), threading.Event(), Future[None]()
    with StopSignals() as signals, ReplayClient(job.replay_address) as source:
        os.nice(_NICENESS)
        arguments = (source, job, stop, give_up, ended)
        thread = threading.Thread(target=_audit, args=arguments, name="auditor", daemon=True)
        thread.start()
        while not ended.done() and not signals.stop_requested():
            signals.wait(_LOOK_S)
        if ended.done():
            ended.result()
        stop.set()
        thread.join(FINISH_S_MAX)
        give_up.set()
        thread.join(_END_S)
    # By now its calls are cancelled.
    thread.join(_END_S)
    return 0


def _audit(
    source: RecordSource, job: AuditorJob, stop: threading.Event, give_up: threading.Event, ended: Future[None]
) -> None:
    try:
        auditor = Auditor(source, job, stop=give_up.is_set)
        try:
            while not stop.is_set():
                stop.wait(auditor.audit())
            auditor.finish()
        finally:
            auditor.close()
    except Interrupted:
        ended.set_result(None)
    except BaseException as error:  # noqa: BLE001 - raised where it is waited for
        ended.set_exception(error)
    else:
        ended.set_result(None)


@dataclasses.dataclass
class AuditorMetrics:
    """How an auditor keeps up. In records.

    Attributes:
      looked_at: whose headers were read, chosen or not.
      behind: that were in the log and not looked at yet, as of the newest look.
      left_out: never looked at, because others were newer.
      marked: as verified or mismatch, in the log.
    """

    looked_at: int = 0
    behind: int = 0
    left_out: int = 0
    marked: int = 0


class _End(NamedTuple):
    """Where the log ended at a time (s), and how many records of it had not been looked at."""

    at_s: float
    end: int
    behind: int


class Auditor:
    """The work of an auditor, round by round. Close it.

    Args:
      source: the log; of one service.
      job: its address is not used.
      stop: whether to give up what it is at, and raise Interrupted.
      clock: monotonic time (s).

    Attributes:
      report: what was found so far.
      metrics: how it keeps up.

    Raises VerificationError and EnvironmentUnsupported as run_auditor.
    """

    def __init__(
        self,
        source: RecordSource,
        job: AuditorJob,
        *,
        stop: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_fraction(job.fraction)
        if not job.steps_per_s_max > 0:
            raise VerificationError(f"steps_per_s_max = {job.steps_per_s_max} must be above 0: nothing was verified")
        self._source = source
        self._job = job
        self._stop = stop
        self._clock = clock
        self._seed = secrets.randbits(64) if job.seed is None else job.seed
        self._environments = KnownEnvironments(job.environment)
        self._verifier = self._begin()
        self._steps_before = 0
        self._next_position: int | None = None
        self._unwritten: list[Verdict] = []
        self._backoff = Backoff(_BACKOFF_S_MAX)
        self._reachable = True
        # Where the log ended, at times from BEHIND_S_MAX ago to now.
        self._ends: deque[_End] = deque()
        self._fraction = job.fraction
        self._since_left_out = 0
        self._judged_s = self._summarised_s = clock()
        self._summarised = dataclasses.asdict(AuditorMetrics())
        self.report = VerificationReport()
        self.metrics = AuditorMetrics()

    def audit(self) -> float:
        """One round: looks at what is new, up to a bound, and judges it; returns how long to rest (s).

        Raises what the source raises, but for ReplayUnavailable; Interrupted.
        """
        start_s, start_cpu_s, steps = self._clock(), time.process_time(), self._steps
        try:
            caught_up = self._look()
            if caught_up or self._verifier.full or start_s - self._judged_s >= GATHERED_S_MAX:
                self._judge(last=False)
            self._write()
        except ReplayUnavailable as error:
            if self._reachable:
                _log.warning("%s; waiting for it", error)
            self._reachable = False
            return self._backoff.next_s()
        self._backoff.reset()
        self._reachable = True
        self._summarise()
        wall_s = self._clock() - start_s
        cpu_s = time.process_time() - start_cpu_s
        budget_s = (self._steps - steps) / self._job.steps_per_s_max
        rest_s = max(cpu_s / WORK_SHARE_MAX - wall_s, budget_s - wall_s, 0.0)
        return max(rest_s, _POLL_S) if caught_up else rest_s

    def finish(self) -> None:
        """The last round: the newest records, as far as there is time, and all that was gathered.

        Raises what the source raises, but for ReplayUnavailable; Interrupted.
        """
        end_s = self._clock() + FINISH_S_MAX / 2
        try:
            newest = self._source.stats().appended_records - _FINISH_RECORDS
            if self._next_position is None:
                self._next_position = max(0, newest)
            self._leave_out(newest)
            while not self._look() and self._clock() < end_s:
                if self._verifier.full:
                    self._judge(last=False)
            self._judge(last=True)
            self._write()
        except ReplayUnavailable as error:
            _log.warning("%s; what came last was not audited", error)

    def close(self) -> None:
        """Says what was found, and closes the environments."""
        self._summarise(at_once=True)
        self._environments.close()

    @property
    def _steps(self) -> int:
        return self._steps_before + self._verifier.steps

    def _begin(self) -> Verifier:
        return Verifier(
            self._source,
            self._environments,
            group_records=_GROUP_RECORDS,
            stop=self._stop,
            seconds_max=GROUP_S_MAX,
        )

    def _look(self) -> bool:
        """Looks at the headers of the next records; True where there are no more."""
        end = self._source.stats().appended_records
        if self._next_position is None:
            self._next_position = max(0, end - LOOK_BACK)
        elif end < self._next_position:
            # What it remembers of the lanes is of records that are not there, or of another log.
            _log.warning("the log ends at %d, it went on to %d before: going on from its end", end, self._next_position)
            self._next_position = end
            self._steps_before = self._steps
            self._verifier = self._begin()
            self._ends.clear()
        self._leave_out(self._oldest_wanted(end))
        looked_at = 0
        for record in self._source.records(from_position=self._next_position, limit=_PAGE_RECORDS):
            chosen = is_sampled(record.position, self._fraction, self._seed)
            self._verifier.look_at(record, chosen=chosen)
            self._next_position = record.position + 1
            looked_at += 1
            self.metrics.looked_at += 1
            self._since_left_out += 1
            if self._verifier.full:
                break
        self.metrics.behind = max(0, end - self._next_position)
        caught_up = looked_at < _PAGE_RECORDS and not self._verifier.full
        if caught_up:
            self._fraction = self._job.fraction
        return caught_up

    def _oldest_wanted(self, end: int) -> int:
        """The position to go on from at the earliest: 0 unless it is too far behind, and falls further behind.

        Half of what it may be behind, so that it does not leave out a few after every page.
        """
        now_s, position = self._clock(), self._next_position or 0
        if not self._ends or now_s - self._ends[-1].at_s >= BEHIND_S_MAX / _ENDS_MAX:
            self._ends.append(_End(now_s, end, end - position))
        while len(self._ends) > 1 and self._ends[1].at_s <= now_s - BEHIND_S_MAX:
            self._ends.popleft()
        then = self._ends[0]
        if then.at_s <= now_s - BEHIND_S_MAX and position < then.end and end - position > then.behind:
            return next(each.end for each in self._ends if each.at_s > now_s - BEHIND_S_MAX / 2)
        return end - BEHIND_MAX // 2 if end - position > BEHIND_MAX else 0

    def _leave_out(self, position: int) -> None:
        """Goes on from a position, if it is further on; of what comes next, so much more is looked at."""
        left_out = position - (self._next_position or 0)
        if left_out <= 0:
            return
        self.metrics.left_out += left_out
        self._next_position = position
        gone_through = max(1, self._since_left_out)
        self._fraction = min(1.0, self._job.fraction * (gone_through + left_out) / gone_through)
        self._since_left_out = 0

    def _judge(self, *, last: bool) -> None:
        self._judged_s = self._clock()
        self._unwritten += self._take_in(self._verifier.verdicts(last=last))
        del self._unwritten[:-_UNWRITTEN_MAX]

    def _write(self) -> None:
        self.metrics.marked += write_marks(self._source, self._unwritten)
        self._unwritten.clear()

    def _take_in(self, verdicts: list[Verdict]) -> list[Verdict]:
        """Counts verdicts, and logs the mismatches; returns those that say something new."""
        new = [verdict for verdict in verdicts if self.report.count(verdict)]
        self.report.steps = self._steps
        for verdict in new:
            if verdict.status == "mismatch":
                _log.error(
                    "record %d is not what happened: %s is wrong from row %d on (largest difference %g)",
                    global_position(self._job.shard, verdict.position),
                    verdict.what,
                    verdict.row,
                    verdict.error,
                )
        return new

    def _summarise(self, *, at_once: bool = False) -> None:
        """A line now and then about what was found, and how it keeps up, where anything has changed."""
        now_s, report, metrics = self._clock(), self.report, self.metrics
        if now_s - self._summarised_s < _SUMMARY_S and not at_once:
            return
        self._summarised_s = now_s
        now = dataclasses.asdict(metrics)
        if now == self._summarised:
            return
        self._summarised = now
        _log.info(
            "%d records audited: %d verified, %d mismatches, %d unverifiable%s; %d steps made; %d records looked at, "
            "%d marked, %d behind, %d left out",
            report.records,
            report.verified,
            report.mismatched,
            report.unverifiable,
            "".join(f" ({count} because {reason})" for reason, count in report.reasons.most_common(1)),
            report.steps,
            metrics.looked_at,
            metrics.marked,
            metrics.behind,
            metrics.left_out,
        )
