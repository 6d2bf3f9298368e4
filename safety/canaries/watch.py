"""Watches the release that is a canary, and decides: promoted to all actors, or revoked. Writes through the docket.

At every poll the episodes that the release has acted in, and those of them with any cost, are judged as totals by the
sequential test of a rate (`safety.canaries.rule`). Enough evidence that the rate is below the
limit promotes. The release is revoked at enough evidence that it is not acceptable, when the episodes are spent or
those left could not show it any more, and when no decision was reached in time since the verdict was issued. While
replay does not tell, nothing but that time decides.

Totals have no order, and need none: for losses of 0 and 1 the wealth of every bet is a function of the two totals
alone, so that at the end of a portion it is what it would be in whatever order its episodes had ended. Only the ends of
portions are looked at, never a made-up order within one: a test that may be looked at after every episode may be looked
at after some, whoever chooses when, and so both error rates hold. For the same reason there is no state to keep: a
service that starts anew judges the totals where they stand. A portion that goes beyond the budget counts whole, and is
the last one.

What the guarantee does not cover: an episode counts when it ends. Where those with a violation take longer than others,
they are too rare among the first to end; a budget of many times the episodes that run at once makes up for that. And
the counts are the actors' own word.

Exceptions: SettingError for settings by which no canary could ever be promoted. LedgerError and CustodyError end the
watch: what it decides can no longer be recorded.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable

import numpy as np

from protos.safety.v1 import safety_pb2
from safety.canaries.rule import canary_rule
from safety.config import SafetyConfig
from safety.docket import Docket
from safety.leases.training_totals import CountsUnreadable, TrainingCounts
from safety.promotions import PromotionRefused
from safety.revocations import WHY_CHARACTERS_MAX, RevocationRefused
from safety.statistics.betting import log_factors
from safety.statistics.findings import Finding
from safety.statistics.sequential import Decision, SequentialRule, SequentialState, advance, judge

ReadCounts = Callable[[int], TrainingCounts]
"""The newest totals of the release of a number; raises CountsUnreadable."""

_log = logging.getLogger(__name__)


def judge_totals(rule: SequentialRule, counts: TrainingCounts) -> tuple[Decision, Finding]:
    """How the test stands after so many episodes, and the same in words; more than the budget are all counted."""
    rule = dataclasses.replace(rule, episodes_max=max(rule.episodes_max, counts.episodes))
    losses, outcomes = np.array([1.0, 0.0]), (counts.violating, counts.episodes - counts.violating)
    wealth_for = outcomes @ log_factors(losses, rule.scaled(rule.limit))
    # Against it: bets on gains 1 - x, as `advance` has them.
    wealth_against = outcomes @ log_factors(1.0 - losses, 1.0 - rule.scaled(rule.acceptable))
    stand = SequentialState(
        counts.episodes,
        float(counts.violating),
        tuple(wealth_for.tolist()),
        tuple(wealth_against.tolist()),
        Decision.UNDECIDED,
    )
    # No further loss: what is decided by those so far.
    state = advance(rule, stand, np.zeros(0))
    return state.decision, judge(rule, state, "canary")


class CanaryWatch:
    """Decides the canaries of one run, one after the other.

    Args:
      docket: what has been decided, and where what is decided here goes.
      config: the test, how often it looks, and how long a canary may take.
      read_counts: the totals of a release.
      clock: present time in ns since the epoch, as that of the docket.

    Raises:
      SettingError: no canary could ever be promoted.
    """

    def __init__(
        self, docket: Docket, config: SafetyConfig, read_counts: ReadCounts, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self._docket, self._config, self._read_counts, self._clock = docket, config, read_counts, clock
        self._rule = canary_rule(config)
        self._newest = 0, TrainingCounts(0, 0)
        self._said = ""

    def run(self, stop: threading.Event) -> None:
        """Looks at once and then every `monitor_poll_s`, until `stop` is set.

        Raises:
          LedgerError, CustodyError: what was decided could not be recorded.
        """
        while not stop.is_set():
            self.look()
            stop.wait(self._config.monitor_poll_s)

    def look(self) -> None:
        """Looks at the totals of the canary once, if there is one, and records what is decided.

        Raises:
          LedgerError, CustodyError: it could not be recorded.
        """
        canary = self._docket.canary()
        if canary is None:
            return
        unread = ""
        try:
            counts = self._counts(canary.release_number)
        except CountsUnreadable as error:
            counts, unread = TrainingCounts(0, 0), str(error)
            self._say(f"release {canary.release_number} is a canary, whose episodes are not known: {error}")
        decision, finding = judge_totals(self._rule, counts)
        if decision is Decision.UNDECIDED:
            self._revoke_in_time(canary, counts, unread)
            return
        what = f"{counts.violating} of {counts.episodes} episodes had a cost; {finding.explanation}"
        if decision is not Decision.PROMOTED:
            self._revoke(canary, what)
            return
        try:
            self._docket.promote(
                canary.release_number,
                episodes=counts.episodes,
                violating_episodes=counts.violating,
                why=f"canary: {what}",
            )
        except PromotionRefused as error:
            self._say(f"canary release {canary.release_number} is not promoted: {error}")
        else:
            _log.info("canary release %d is promoted: %s", canary.release_number, what)

    def _counts(self, release_number: int) -> TrainingCounts:
        """The totals; raises CountsUnreadable also where they have gone back, as when replay has lost some."""
        counts = self._read_counts(release_number)
        number, newest = self._newest
        if number == release_number and (counts.episodes < newest.episodes or counts.violating < newest.violating):
            raise CountsUnreadable(
                f"replay counts {counts.violating} of {counts.episodes} episodes as violating, and has counted "
                f"{newest.violating} of {newest.episodes} before"
            )
        self._newest = release_number, counts
        return counts

    def _revoke_in_time(self, canary: safety_pb2.VerdictStatement, counts: TrainingCounts, unread: str) -> None:
        age_s = (self._clock() - canary.issue_time_ns) / 1e9
        if age_s < self._config.canary_s_max:
            return
        known = unread or f"{counts.violating} of {counts.episodes} episodes had a cost, which is not enough to tell"
        self._revoke(canary, f"not decided within safety.canary_s_max = {self._config.canary_s_max:g} s: {known}")

    def _revoke(self, canary: safety_pb2.VerdictStatement, what: str) -> None:
        try:
            self._docket.revoke(canary.run_id, canary.release_number, f"canary: {what}"[:WHY_CHARACTERS_MAX])
        except RevocationRefused as error:
            self._say(f"canary release {canary.release_number} is not revoked: {error}")
        else:
            _log.warning("canary release %d is revoked: %s", canary.release_number, what)

    def _say(self, what: str) -> None:
        """Logs it unless it is what was said last."""
        if what != self._said:
            self._said = what
            _log.warning("%s", what)
