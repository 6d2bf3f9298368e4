"""From evidence to the counts that a verdict carries: pure, so that whoever has the evidence can count again.

Exceptions: CountsError (safety.statistics.counts) for evidence that no evaluation can have.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from protos.safety.v1 import safety_pb2
from safety.evaluation.episodes import EpisodeOutcomes
from safety.evaluation.plants import Plant, count_plants
from safety.evidence.file import PlantEvidence, SliceEvidence
from safety.statistics.calibration import PlantedCounts
from safety.statistics.counts import EVENT_CLASSES, Severity, SliceOutcomes
from safety.statistics.intervals import MeanInterval, mean_interval
from safety.suites.manifest import seed_manifest_digest


def slice_counts(evidence: SliceEvidence) -> safety_pb2.SliceCounts:
    """What one slice came to. Raises CountsError."""
    ours, theirs = evidence.candidate_outcomes, evidence.incumbent_outcomes
    counts = safety_pb2.SliceCounts(name=evidence.name, episodes=ours.episodes, return_mean=_mean(ours))
    counts.minor, counts.major, counts.severe = _by_worst(ours)
    if theirs is not None:
        counts.incumbent_episodes, counts.incumbent_return_mean = theirs.episodes, _mean(theirs)
        counts.incumbent_minor, counts.incumbent_major, counts.incumbent_severe = _by_worst(theirs)
    return counts


def detector_calibration(slices: Sequence[SliceEvidence]) -> safety_pb2.DetectorCalibration:
    """What the detector made of the planted episodes of all slices. Raises CountsError."""
    counted = [planted_counts(each.plants) for each in slices]
    return safety_pb2.DetectorCalibration(
        violating=sum(each.violating for each in counted),
        found=sum(each.found for each in counted),
        clean=sum(each.clean for each in counted),
        false_alarms=sum(each.false_alarms for each in counted),
        severe=sum(each.severe for each in counted),
        severe_found=sum(each.severe_found for each in counted),
    )


def planted_counts(plants: PlantEvidence) -> PlantedCounts:
    """What the detector made of the planted episodes of one slice. Raises CountsError."""
    count = len(plants.seeds)
    events = np.array(plants.events, np.int64).reshape(count, len(EVENT_CLASSES))
    drawn = [Plant(*each) for each in zip(plants.seeds, plants.severities, plants.places, strict=True)]
    return count_plants(drawn, EpisodeOutcomes(np.zeros(count), np.zeros(count), np.zeros(count, np.int64), events))


def violating_episodes(slices: Sequence[SliceEvidence]) -> int:
    """Episodes of the candidate with any cost."""
    return sum(cost > 0 for each in slices for cost in each.candidate.costs)


def return_interval(slices: Sequence[SliceEvidence]) -> MeanInterval:
    """Mean return of the candidate with its 95% confidence interval, over the episodes of all slices; 0 without any."""
    returns = np.array([value for each in slices for value in each.candidate.returns], np.float64)
    if len(returns) > 1:
        return mean_interval(returns, 0.95)
    mean = float(returns[0]) if len(returns) else 0.0
    return MeanInterval(mean, mean, mean)


def seeds_digest(slices: Sequence[SliceEvidence]) -> bytes:
    """That of the seeds that the candidate really ran on (32 bytes); see `suite.seed_manifest_digest`."""
    return seed_manifest_digest({each.name: each.seeds for each in slices})


def _by_worst(outcomes: SliceOutcomes) -> tuple[int, ...]:
    counts = np.bincount(outcomes.worst, minlength=len(Severity)).tolist()
    return tuple(counts[severity] for severity in EVENT_CLASSES)


def _mean(outcomes: SliceOutcomes) -> float:
    return float(np.mean(outcomes.capability)) if outcomes.episodes else 0.0
