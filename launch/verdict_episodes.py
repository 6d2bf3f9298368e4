"""The episodes that decided a verdict: of all that were run, the few that a person should look at, worst first.

Where a criterion on rates or risk failed, the episodes with events; where capability was lost, the largest losses to
the incumbent on the same seed; where the detector missed what was planted, those plants; for an approval, the closest
calls.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from launch.verdict_criteria import Speaks, reading_of, severity_of
from protos.safety.v1 import safety_pb2
from safety.evidence.file import EpisodeEvidence, Evidence, SliceEvidence
from safety.statistics.counts import EVENT_CLASSES, Severity

SHOWN_MAX = 10
"""Episodes of one group."""

CLOSEST_MAX = 5
"""Closest calls of one slice."""


@dataclasses.dataclass(frozen=True)
class DecidingEpisode:
    """One episode of the candidate, and of the incumbent on the same seed where there was one.

    Attributes:
      slice_name, index, seed: which.
      returns, cost, length: what it came to.
      events: steps that were events, by class in the order of EVENT_CLASSES.
      incumbent_returns, incumbent_events: of the incumbent; None where there was none.
    """

    slice_name: str
    index: int
    seed: int
    returns: float
    cost: float
    length: int
    events: tuple[int, ...]
    incumbent_returns: float | None
    incumbent_events: tuple[int, ...] | None

    @property
    def place(self) -> str:
        """SLICE:INDEX, as `temper safety replay` takes it."""
        return f"{self.slice_name}:{self.index}"

    @property
    def loss(self) -> float:
        """How much less the candidate achieved than the incumbent; 0 where there was none."""
        return 0.0 if self.incumbent_returns is None else self.incumbent_returns - self.returns

    def severity(self, *, of_incumbent: bool = False) -> Severity:
        """That of the worst event."""
        events = self.incumbent_events if of_incumbent else self.events
        return max((each for each, n in zip(EVENT_CLASSES, events or (), strict=False) if n), default=Severity.NONE)


@dataclasses.dataclass(frozen=True)
class MissedPlant:
    """A planted violation that was not seen as what it was."""

    slice_name: str
    seed: int
    severity: Severity
    place: float
    events: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class DecidingGroup:
    """Episodes that speak for the same.

    Attributes:
      why: what they are, for a person.
      criteria: which criteria they decided; none for the closest calls of an approval.
      slice_name: the slice.
      total: how many there are; at most SHOWN_MAX of them are in `episodes` or `plants`.
      episodes, plants: the worst first.
    """

    why: str
    criteria: tuple[str, ...]
    slice_name: str
    total: int
    episodes: tuple[DecidingEpisode, ...] = ()
    plants: tuple[MissedPlant, ...] = ()


def deciding_episodes(evidence: Evidence, verdict: safety_pb2.VerdictStatement) -> list[DecidingGroup]:
    """The groups of them, slice by slice; groups without an episode are there, too, and say so by `total`."""
    groups: list[DecidingGroup] = []
    for part in evidence.slices:
        if verdict.approved:
            groups.append(_closest_calls(part.name, _episodes(part)))
            continue
        # Several criteria often fail for the same episodes: those are shown once.
        same: dict[tuple[Speaks, Severity], list[safety_pb2.CriterionResult]] = {}
        for result in _decisive(verdict, evidence):
            if result.slice == part.name:
                key = reading_of(result.name).episodes, severity_of(result.name)
                same.setdefault(key, []).append(result)
        groups += [_group(kind, severity, part, results) for (kind, severity), results in same.items()]
    return groups


def _decisive(verdict: safety_pb2.VerdictStatement, evidence: Evidence) -> list[safety_pb2.CriterionResult]:
    """The criteria that failed for good: those that a reason names, not tests that another's failure left undecided."""
    failed = [result for result in verdict.criteria if not result.passed]
    named = [each for each in failed if any(r.startswith(f"{each.name} on {each.slice}: ") for r in evidence.reasons)]
    return named or failed


def _group(
    kind: Speaks, severity: Severity, part: SliceEvidence, results: Sequence[safety_pb2.CriterionResult]
) -> DecidingGroup:
    criteria = tuple(result.name for result in results)
    if kind is Speaks.PLANTS:
        missed = _missed(part)
        return DecidingGroup(kind.value, criteria, part.name, len(missed), plants=tuple(missed[:SHOWN_MAX]))
    # What came after the last episode that was counted decided nothing.
    episodes = _episodes(part)[: max(result.episodes for result in results)]
    if kind is Speaks.LOSSES:
        return _chosen(kind.value, criteria, part.name, (each for each in episodes if each.loss > 0), _by_loss)
    name = severity.name.lower()
    if kind is Speaks.EVENTS:
        violating = (each for each in episodes if each.severity() >= severity)
        return _chosen(f"episodes with an event at least {name}", criteria, part.name, violating, _by_events)
    if kind is Speaks.CANDIDATE_ONLY:
        only = (each for each in episodes if each.severity() >= severity > each.severity(of_incumbent=True))
        why = f"episodes with an event at least {name} of the candidate alone, not of the incumbent on the same seed"
        return _chosen(why, criteria, part.name, only, _by_events)
    return DecidingGroup("nothing is known of how this criterion counts", criteria, part.name, 0)


def _closest_calls(name: str, episodes: Sequence[DecidingEpisode]) -> DecidingGroup:
    """What came nearest to a failure: events, then what was lost to the incumbent, then low returns."""
    closest = sorted(episodes, key=lambda each: (*_by_events(each), each.loss, -each.returns), reverse=True)[
        :CLOSEST_MAX
    ]
    return DecidingGroup("closest calls", (), name, len(closest), tuple(closest))


def _chosen(
    why: str,
    criteria: tuple[str, ...],
    slice_name: str,
    episodes: Iterable[DecidingEpisode],
    badness: Callable[[DecidingEpisode], tuple[float, ...]],
) -> DecidingGroup:
    # sorted is stable: of equals, the one that ran first.
    worst_first = sorted(episodes, key=badness, reverse=True)
    return DecidingGroup(why, criteria, slice_name, len(worst_first), tuple(worst_first[:SHOWN_MAX]))


def _by_events(episode: DecidingEpisode) -> tuple[float, ...]:
    return (*reversed(episode.events), episode.cost)


def _by_loss(episode: DecidingEpisode) -> tuple[float, ...]:
    return (episode.loss,)


def _episodes(part: SliceEvidence) -> list[DecidingEpisode]:
    return [
        DecidingEpisode(
            part.name,
            index,
            seed,
            part.candidate.returns[index],
            part.candidate.costs[index],
            part.candidate.lengths[index],
            part.candidate.events[index],
            *_of_incumbent(part.incumbent, index),
        )
        for index, seed in enumerate(part.seeds)
    ]


def _of_incumbent(episodes: EpisodeEvidence | None, index: int) -> tuple[float | None, tuple[int, ...] | None]:
    return (None, None) if episodes is None else (episodes.returns[index], episodes.events[index])


def _missed(part: SliceEvidence) -> list[MissedPlant]:
    """Planted violations whose episode has no event as grave, the gravest first."""
    found = [
        MissedPlant(part.name, seed, severity, place, events)
        for seed, severity, place, events in zip(*part.plants, strict=True)
        if severity is not Severity.NONE and not np.any(np.array(events)[severity - 1 :])
    ]
    return sorted(found, key=lambda plant: plant.severity, reverse=True)
