"""What is to be said of records after their episodes have been run again: verified, mismatch, or unverifiable.

    verified       everything that re-execution can tell was compared, and agrees
    mismatch       the record says something that did not happen, contradicts itself, or the records before it
    unverifiable   some of it could not be run again, for a reason that is given; what could, agrees

Compared are observations (the last row too), rewards, costs, discounts, the places of boundary rows, and the signals
that follow from them. Not compared are log_prob and logits, which are the policy's: the curation rule `fidelity` looks
at them. Where a record's last step ended an episode, its last row is the first of the next one and follows a discount
of 0: it is compared where the next record, which holds that seed, is known.

A record that goes on from one that left the course of its episode cannot be judged until the next episode begins,
unless the state that it begins in is the right one after all. An altered action whose effect no observation shows at
once is therefore found where it does show, which may be in a later record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isclose
from typing import Literal, NamedTuple

import numpy as np

from actors.agreement import Disagreement, compare, different_parts, same_state
from actors.claims import Case, Claim
from actors.reexecution import EpisodeOutcome
from replay.record import LoggedRecord

_FOLLOWS = "it goes on from a record that is not what happened"

_SIGNAL_TOLERANCE = 1e-6
"""Relative; sums of the same numbers in another order differ by less."""


class Verdict(NamedTuple):
    """What is to be said of one record."""

    position: int
    status: Literal["verified", "mismatch", "unverifiable"]
    chosen: bool
    """Whether it was to be judged, or came to notice on the way."""
    what: str = ""
    """mismatch: the column, the field of the header, or signals.NAME."""
    row: int = 0
    """mismatch: the first row of the record's columns where it is wrong; 0 for the header."""
    reason: str = ""
    """unverifiable: why."""
    error: float = 0.0
    """Largest absolute difference of any number compared."""


class _Result(NamedTuple):
    """What a record leaves to the next one of its lane."""

    doubtful: bool
    """Whether it is a mismatch, or goes on from one: what contradicts it may well be right."""
    on_course: bool
    """Whether it leaves its episode in the state that it says."""


def judge(
    cases: Sequence[Case], outcomes: Sequence[EpisodeOutcome | str], fetch: Callable[[int], LoggedRecord | None]
) -> list[Verdict]:
    """Compares cases with what happened.

    Args:
      cases: those of one lane in log order.
      outcomes: of the episodes that the cases' claims name, or why there is none.
      fetch: a record by position with its payload, None where it is not in the store.

    Returns one verdict for each chosen case, and one for each other that turned out to be a mismatch.
    """
    results: dict[int, _Result] = {}
    verdicts = []
    for case in cases:
        before = results.get(case.subject.previous) if case.subject.previous is not None else None
        trial = _Trial(case, before, outcomes)
        trial.hear(fetch)
        results[case.subject.record.position] = _Result(trial.doubtful, trial.on_course)
        if case.subject.chosen or trial.found is not None:
            verdicts.append(trial.verdict())
    return verdicts


class _Trial:
    """One case. `found` is the first thing wrong with it; the rest is what it leaves to the next record."""

    def __init__(self, case: Case, before: _Result | None, outcomes: Sequence[EpisodeOutcome | str]) -> None:
        self._case = case
        self._before = before
        self._outcomes = outcomes
        self._record = case.subject.record
        self._reasons = list(case.reasons)
        self._error = 0.0
        self._astray = before is not None and not before.on_course
        self.found = case.contradiction
        # What it leaves open is known only once it has been compared.
        self.on_course = False

    def hear(self, fetch: Callable[[int], LoggedRecord | None]) -> None:
        case = self._case
        if case.discontinuity is not None:
            if self._before is not None and self._before.doubtful:
                self._reasons.append(_FOLLOWS)
                self._astray = True
            else:
                self._find(case.discontinuity)
        if case.follows_unknown:
            self._reasons.append(_FOLLOWS)
        for claim in case.claims:
            self._compare(claim)
        if case.next_replay is not None:
            self._compare_last_row(self._outcomes[case.next_replay], fetch)
        if case.subject.chosen and self.found is None and not self._reasons:
            self._compare_signals()

    def _compare(self, claim: Claim) -> None:
        outcome = self._outcomes[claim.replay]
        if isinstance(outcome, str):
            self._reasons.append(outcome)
            self.on_course = False
            return
        astray = claim.piece.continues and self._astray
        if astray and not same_state(self._record.columns, claim.piece.first_row, outcome, claim.first_step):
            self._reasons.append(_FOLLOWS)
            self.on_course = False
            return
        agreement = compare(self._record.columns, claim.piece, claim.first_step, outcome)
        self._error = max(self._error, agreement.error)
        self.on_course = agreement.on_course
        if agreement.disagreement is not None:
            self._find(agreement.disagreement)

    def _compare_last_row(self, outcome: EpisodeOutcome | str, fetch: Callable[[int], LoggedRecord | None]) -> None:
        """The first observation of the next episode; the seed is the next record's, and might be what is false."""
        last_row, following = self._record.header.steps, self._case.subject.next_position
        if following is None or isinstance(outcome, str):
            return
        different = different_parts(self._record.columns, last_row, outcome, 0)
        if not different:
            return
        record = fetch(following)
        if record is not None and same_state(record.columns, 0, outcome, 0):
            self._find(Disagreement(last_row, different[0]))

    def _compare_signals(self) -> None:
        """Signals of the header that follow from the steps and from whole episodes."""
        expected = _expected_signals(self._case, self._outcomes)
        given = self._record.header.signals
        for name, value in expected.items():
            if name in given and not isclose(given[name], value, rel_tol=_SIGNAL_TOLERANCE, abs_tol=_SIGNAL_TOLERANCE):
                self._find(Disagreement(0, f"signals.{name}"))
                return

    @property
    def doubtful(self) -> bool:
        return self.found is not None or _FOLLOWS in self._reasons

    def _find(self, disagreement: Disagreement) -> None:
        if self.found is None or disagreement.row < self.found.row:
            self.found = disagreement

    def verdict(self) -> Verdict:
        position, chosen = self._record.position, self._case.subject.chosen
        if self.found is not None:
            what, row = self.found.what, self.found.row
            return Verdict(position, "mismatch", chosen, what=what, row=row, error=self._error)
        if self._reasons:
            return Verdict(position, "unverifiable", chosen, reason=self._reasons[0], error=self._error)
        return Verdict(position, "verified", chosen, error=self._error)


def _expected_signals(case: Case, outcomes: Sequence[EpisodeOutcome | str]) -> dict[str, float]:
    """Signals as a rollout writes them (actors.rollout): of the steps in the record, and the episodes that ended in it.

    An episode has ended with its last step, also where the boundary row after it is in the next record.
    """
    columns = case.subject.record.columns
    expected = {
        "steps": float(np.count_nonzero(columns["mask"])),
        "cost": float(columns["cost"].sum(dtype=np.float64)),
        "episodes": 0.0,
        "return": 0.0,
        "episode_steps": 0.0,
        "violating_episodes": 0.0,
    }
    for claim in case.claims:
        outcome, end = outcomes[claim.replay], claim.first_step + claim.piece.steps
        if isinstance(outcome, str):
            continue
        if claim.piece.steps and (outcome.terminated[end - 1] or outcome.truncated[end - 1]):
            expected["episodes"] += 1.0
            expected["return"] += float(outcome.reward[:end].sum(dtype=np.float64))
            expected["episode_steps"] += end
            expected["violating_episodes"] += float((outcome.cost[:end] > 0).any())
    return expected
