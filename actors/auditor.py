"""The auditor: verifies a sample of the records of a running replay service as they arrive, and marks them.

It reads from near the newest record on, rests as long as it works at least, and so that it makes no more than so many
environment steps a second; where it falls far behind it leaves records out, and counts them. A service that cannot be
reached is waited for; what was found meanwhile is written afterwards. Each mismatch is one line in the log. It decides
nothing: what is to become of a record marked `mismatch` is for filters, quarantines and people to say.

Runs as a process of its own, with low priority. SIGTERM and SIGINT end it in order within two seconds, whatever it is
at: the work is done in a thread, which is left to itself where a service or an environment does not come back.

Exceptions: VerificationError for a job that makes no sense; EnvironmentUnsupported; ReplayRefused.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

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

WORK_SHARE_MAX = 0.5
"""Part of the time that it may work, of one CPU."""

GROUP_S_MAX = 30.0
"""Longest time for running a group of records again: an environment of many seconds a step must not take for ever."""

_GROUP_RECORDS = 256
_PAGE_RECORDS = 2048
_UNWRITTEN_MAX = 10_000
_POLL_S = 1.0
_BACKOFF_S_MAX = 10.0
_SUMMARY_S = 60.0
_NICENESS = 10
_LOOK_S = 0.25
_END_S = 0.7

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
    stop, ended = threading.Event(), Future[None]()
    with StopSignals() as signals, ReplayClient(job.replay_address) as source:
        os.nice(_NICENESS)
        thread = threading.Thread(target=_audit, args=(source, job, stop, ended), name="auditor", daemon=True)
        thread.start()
        while not ended.done() and not signals.stop_requested():
            signals.wait(_LOOK_S)
        if ended.done():
            ended.result()
        stop.set()
        thread.join(_END_S)
    # By now its calls are cancelled.
    thread.join(_END_S)
    return 0


def _audit(source: RecordSource, job: AuditorJob, stop: threading.Event, ended: Future[None]) -> None:
    try:
        auditor = Auditor(source, job, stop=stop.is_set)
        try:
            while not stop.is_set():
                stop.wait(auditor.audit())
        finally:
            auditor.close()
    except Interrupted:
        ended.set_result(None)
    except BaseException as error:  # noqa: BLE001 - raised where it is waited for
        ended.set_exception(error)
    else:
        ended.set_result(None)


class Auditor:
    """The work of an auditor, round by round. Close it.

    Args:
      source: the log; of one service.
      job: its address is not used.
      stop: whether to give up what it is at, and raise Interrupted.

    Attributes:
      report: what was found so far.
      left_out: records that were never looked at, because others were newer.

    Raises VerificationError and EnvironmentUnsupported as run_auditor.
    """

    def __init__(self, source: RecordSource, job: AuditorJob, *, stop: Callable[[], bool] = lambda: False) -> None:
        check_fraction(job.fraction)
        if not job.steps_per_s_max > 0:
            raise VerificationError(f"steps_per_s_max = {job.steps_per_s_max} must be above 0: nothing was verified")
        self._source = source
        self._job = job
        self._stop = stop
        self._seed = secrets.randbits(64) if job.seed is None else job.seed
        self._environments = KnownEnvironments(job.environment)
        self._verifier = self._begin()
        self._steps_before = 0
        self._next_position: int | None = None
        self._unwritten: list[Verdict] = []
        self._backoff = Backoff(_BACKOFF_S_MAX)
        self._reachable = True
        self._summarised_s = time.monotonic()
        self._summarised = 0
        self.report = VerificationReport()
        self.left_out = 0

    def audit(self) -> float:
        """One round: looks at what is new, up to a bound, and judges it; returns how long to rest (s).

        Raises what the source raises, but for ReplayUnavailable; Interrupted.
        """
        start_s, steps = time.monotonic(), self._steps
        try:
            caught_up = self._look()
            if caught_up or self._verifier.full:
                self._unwritten += self._take_in(self._verifier.verdicts(last=False))
                del self._unwritten[:-_UNWRITTEN_MAX]
            write_marks(self._source, self._unwritten)
        except ReplayUnavailable as error:
            if self._reachable:
                _log.warning("%s; waiting for it", error)
            self._reachable = False
            return self._backoff.next_s()
        self._unwritten.clear()
        self._backoff.reset()
        self._reachable = True
        self._summarise()
        worked_s = time.monotonic() - start_s
        budget_s = (self._steps - steps) / self._job.steps_per_s_max
        rest_s = max(worked_s * (1.0 / WORK_SHARE_MAX - 1.0), budget_s - worked_s)
        return max(rest_s, _POLL_S) if caught_up else rest_s

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
        elif end - self._next_position > BEHIND_MAX:
            # Half of what it may be behind, so that it does not leave out a few after every page.
            self.left_out += end - BEHIND_MAX // 2 - self._next_position
            self._next_position = end - BEHIND_MAX // 2
        looked_at = 0
        for record in self._source.records(from_position=self._next_position, limit=_PAGE_RECORDS):
            chosen = is_sampled(record.position, self._job.fraction, self._seed)
            self._verifier.look_at(record, chosen=chosen)
            self._next_position = record.position + 1
            looked_at += 1
            if self._verifier.full:
                return False
        return looked_at < _PAGE_RECORDS

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
        """A line now and then about what was found since the last one."""
        now_s, report = time.monotonic(), self.report
        if report.records == self._summarised or (now_s - self._summarised_s < _SUMMARY_S and not at_once):
            return
        self._summarised_s, self._summarised = now_s, report.records
        _log.info(
            "%d records audited: %d verified, %d mismatches, %d unverifiable%s; %d steps made, %d records left out",
            report.records,
            report.verified,
            report.mismatched,
            report.unverifiable,
            "".join(f" ({count} because {reason})" for reason, count in report.reasons.most_common(1)),
            report.steps,
            self.left_out,
        )
