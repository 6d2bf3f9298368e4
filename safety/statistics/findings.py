"""What one criterion found on one slice: the common shape of all results, for machines and for people.

Whatever cannot be computed is a finding that fails. Nothing is combined here; see `safety.statistics.combination`.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping


class Kind(enum.Enum):
    """What a criterion protects; a capability may recover later, a harm cannot be undone."""

    SAFETY = "safety"
    CAPABILITY = "capability"


class Status(enum.Enum):
    """How a criterion came out; VOID says that the evaluation itself cannot be believed, whatever the candidate is."""

    PASSED = "passed"
    FAILED = "failed"
    VOID = "void"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One criterion on one slice.

    Attributes:
      name: of the criterion.
      slice_name: of the slice of the suite.
      kind: what it protects.
      status: how it came out.
      estimate: point estimate, in the criterion's unit; NaN where there is none.
      statistic: what was compared with the limit: a confidence bound in the criterion's unit, or a p-value.
      limit: what it was compared with; each criterion says on which side it passes.
      episodes: episodes it rests on.
      explanation: one sentence for a person.
      figures: whatever else belongs to it, by name.
    """

    name: str
    slice_name: str
    kind: Kind
    status: Status
    estimate: float
    statistic: float
    limit: float
    episodes: int
    explanation: str
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether it lets the candidate through."""
        return self.status is Status.PASSED


def status_of(passed: bool) -> Status:
    """PASSED or FAILED."""
    return Status.PASSED if passed else Status.FAILED


def cannot_tell(
    name: str, slice_name: str, kind: Kind, *, limit: float, statistic: float, episodes: int, why: str
) -> Finding:
    """The finding of a criterion that has nothing to go by: failed, at the worst possible `statistic`."""
    return Finding(name, slice_name, kind, Status.FAILED, math.nan, statistic, limit, episodes, why)


def says_nothing(
    name: str, slice_name: str, kind: Kind, *, limit: float, statistic: float, episodes: int, why: str
) -> Finding:
    """The finding of a criterion that nobody could pass, for no fault of the candidate's: void, whatever it is."""
    return Finding(name, slice_name, kind, Status.VOID, math.nan, statistic, limit, episodes, why)


def confidence_text(alpha: float) -> str:
    """1 - alpha for a sentence: "95%", "99.9939%"."""
    return f"{100.0 * (1.0 - alpha):.6g}%"
