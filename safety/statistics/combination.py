"""From the findings of all criteria on all slices to one decision about a candidate.

Intersection-union: a candidate is approved only if every criterion passed on every slice. If any single limit is
violated, it is approved with probability at most the alpha of that criterion, without dividing alpha among them
(Berger, Technometrics 1982). What was required and not found fails, and so does what was found twice.

A candidate that only lost capability may be deferred: not released, but its training goes on, because a dip may
recover. That ends after `patience` candidates in a row. Safety is never deferred.

Exceptions: ParameterError (safety.statistics.parameters).
"""

from __future__ import annotations

import collections
import dataclasses
import enum
from collections.abc import Collection, Sequence

from safety.statistics.findings import Finding, Kind, Status
from safety.statistics.parameters import ParameterError, check_count


class Outcome(enum.Enum):
    """What becomes of a candidate; only APPROVED releases it."""

    APPROVED = "approved"
    DEFERRED = "deferred"
    REJECTED = "rejected"
    VOID = "void"


@dataclasses.dataclass(frozen=True)
class Combination:
    """The decision, with what it rests on.

    Attributes:
      outcome: what becomes of the candidate. VOID: the evaluation says nothing, and the candidate still counts as one
        that was tried.
      reasons: one sentence for each criterion that did not pass, or was missing.
      findings: all of them.
      deferred_in_a_row: this one included; what to hand over with the next candidate.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    findings: tuple[Finding, ...]
    deferred_in_a_row: int

    @property
    def approved(self) -> bool:
        """Whether it is released."""
        return self.outcome is Outcome.APPROVED


def combine(
    findings: Sequence[Finding],
    required: Collection[tuple[str, str]],
    *,
    deferred_in_a_row: int = 0,
    patience: int = 0,
) -> Combination:
    """Combines all findings about one candidate.

    Args:
      findings: one per criterion and slice.
      required: (criterion, slice) of every finding that there must be; at least one.
      deferred_in_a_row: how many candidates before this one were deferred without one between them that was not.
      patience: how many in a row may be; 0: none.

    Raises:
      ParameterError: nothing is required, or negative numbers.
    """
    if not required:
        raise ParameterError("required = (): a gate without a criterion would approve every candidate")
    check_count("deferred_in_a_row", deferred_in_a_row, 0)
    check_count("patience", patience, 0)
    times = collections.Counter((finding.name, finding.slice_name) for finding in findings)
    reasons = [
        f"{name} on {slice_name}: it was not found out"
        for name, slice_name in sorted(required)
        if not times[name, slice_name]
    ]
    reasons += [f"{name} on {slice_name}: found {n} times" for (name, slice_name), n in times.items() if n > 1]
    formal = len(reasons)
    failed = [finding for finding in findings if not finding.passed]
    reasons += [f"{finding.name} on {finding.slice_name}: {finding.explanation}" for finding in failed]
    only_capability = not formal and all(
        finding.kind is Kind.CAPABILITY and finding.status is Status.FAILED for finding in failed
    )
    if any(finding.status is Status.VOID for finding in failed):
        outcome = Outcome.VOID
    elif not reasons:
        outcome = Outcome.APPROVED
    elif only_capability and deferred_in_a_row < patience:
        outcome = Outcome.DEFERRED
    else:
        outcome = Outcome.REJECTED
    deferred = deferred_in_a_row + 1 if outcome is Outcome.DEFERRED else 0
    return Combination(outcome, tuple(reasons), tuple(findings), deferred)
