"""What the episodes of one slice came to: events by severity, capability, and the same seeds side by side.

Each episode is one independent trial, named by its seed. Whatever is counted per episode is bounded by that: ten severe
events in one episode are one episode with a severe event.

Exceptions: CountsError (a ValueError) for outcomes that no evaluation can have had; whoever evaluates rejects then.
ParameterError (safety.statistics.parameters) where NONE is named as the severity of an event.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from safety.statistics.parameters import ParameterError


class CountsError(ValueError):
    """Outcomes that no evaluation can have: negative or fractional events, values not finite, seeds that differ."""


class Severity(enum.IntEnum):
    """How bad a violation is; in order, so that "at least MAJOR" has a meaning."""

    NONE = 0
    MINOR = 1
    MAJOR = 2
    SEVERE = 3


EVENT_CLASSES = (Severity.MINOR, Severity.MAJOR, Severity.SEVERE)
"""The severities that an event can have: the columns of `SliceOutcomes.events`."""


@dataclasses.dataclass(frozen=True, eq=False)
class SliceOutcomes:
    """N episodes of one policy on one slice, in the order in which their seeds were drawn. N may be 0.

    Attributes:
      name: of the slice.
      seeds: of the episodes; each once [N].
      events: violations by severity, in the order of EVENT_CLASSES, i8 [N, 3].
      capability: what the episodes achieved, in the slice's unit, f8 [N].

    Raises:
      CountsError: shapes that differ, a seed twice, events that are no counts, capability that is not finite.
    """

    name: str
    seeds: tuple[int, ...]
    events: NDArray[np.int64]
    capability: NDArray[np.float64]

    def __post_init__(self) -> None:
        count = len(self.seeds)
        events, capability = np.asarray(self.events), np.asarray(self.capability, np.float64)
        if events.shape != (count, len(EVENT_CLASSES)) or capability.shape != (count,):
            raise CountsError(
                f"slice {self.name}: {count} seeds need events [{count}, {len(EVENT_CLASSES)}] and capability "
                f"[{count}], not {list(events.shape)} and {list(capability.shape)}"
            )
        if len(set(self.seeds)) != count:
            raise CountsError(f"slice {self.name}: a seed occurs twice, so its episode would count twice")
        if not np.issubdtype(events.dtype, np.integer):
            raise CountsError(f"slice {self.name}: events are {events.dtype}, not integers")
        if count and events.min() < 0:
            raise CountsError(f"slice {self.name}: {events.min()} events: violations must not cancel out")
        if not np.all(np.isfinite(capability)):
            raise CountsError(f"slice {self.name}: {int(np.sum(~np.isfinite(capability)))} capabilities are not finite")
        # Copies: what a verdict rests on must not change after it was judged.
        object.__setattr__(self, "events", _frozen(events.astype(np.int64)))
        object.__setattr__(self, "capability", _frozen(capability.copy()))

    @property
    def episodes(self) -> int:
        """N."""
        return len(self.seeds)

    @property
    def worst(self) -> NDArray[np.int64]:
        """The severity of the worst event of every episode, i8 [N]."""
        ranks = np.array(EVENT_CLASSES, np.int64)
        worst: NDArray[np.int64] = np.max(np.where(self.events > 0, ranks, int(Severity.NONE)), axis=1, initial=0)
        return worst

    def violates(self, severity: Severity) -> NDArray[np.bool_]:
        """Which episodes have an event at least that severe, [N]."""
        if severity is Severity.NONE:
            raise ParameterError("severity = NONE: every episode is at least that; name the severity of an event")
        return self.worst >= int(severity)

    def violating(self, severity: Severity) -> int:
        """How many episodes have an event at least that severe."""
        return int(np.sum(self.violates(severity)))


class Discordance(NamedTuple):
    """How N pairs of episodes differ in having an event: only the candidate's, only the incumbent's."""

    candidate_only: int
    incumbent_only: int
    episodes: int


@dataclasses.dataclass(frozen=True, eq=False)
class PairedOutcomes:
    """A candidate and the incumbent release on the same slice and the same seeds, in the same order.

    Raises:
      CountsError: they are not.
    """

    candidate: SliceOutcomes
    incumbent: SliceOutcomes

    def __post_init__(self) -> None:
        if self.candidate.name != self.incumbent.name:
            raise CountsError(f"slices {self.candidate.name} and {self.incumbent.name} cannot be paired")
        if self.candidate.seeds != self.incumbent.seeds:
            raise CountsError(f"slice {self.candidate.name}: candidate and incumbent ran on different seeds")

    @property
    def name(self) -> str:
        """Of the slice."""
        return self.candidate.name

    @property
    def episodes(self) -> int:
        """Pairs."""
        return self.candidate.episodes

    def discordance(self, severity: Severity) -> Discordance:
        """In how many pairs only one of the two has an event at least that severe."""
        ours, theirs = self.candidate.violates(severity), self.incumbent.violates(severity)
        return Discordance(int(np.sum(ours & ~theirs)), int(np.sum(theirs & ~ours)), self.episodes)

    def capability_losses(self) -> NDArray[np.float64]:
        """How much less the candidate achieved than the incumbent, f8 [N]."""
        losses: NDArray[np.float64] = self.incumbent.capability - self.candidate.capability
        return losses


def _frozen(array: NDArray[np.generic]) -> NDArray[np.generic]:
    array.flags.writeable = False
    return array
