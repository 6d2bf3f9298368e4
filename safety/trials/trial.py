"""One candidate before the gate: which episodes are run next, when it is over, and what becomes of the candidate.

Planted episodes come first, on all slices; then rounds of one chunk of episodes on every slice that still needs some.
Between two rounds all sequential tests are looked at. It is over as soon as one test of safety has failed, for then the
candidate is rejected whatever the others say; or else when every test is decided. What is asked for depends on nothing
but the suite, the key and the outcomes so far, never on time: so the same inputs give the same verdict.

Nothing is run here (`safety.trials.runner` does that), and nothing signed.

Exceptions: CountsError (safety.statistics.counts) for outcomes that no evaluation can have; ParameterError
(safety.statistics.parameters) for a suite, or for a level, at which nothing could pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from safety.evaluation.episodes import EpisodeOutcomes, join_outcomes, no_outcomes
from safety.evaluation.plants import Plant, draw_plants
from safety.evidence.file import EpisodeEvidence, PlantEvidence, SliceEvidence
from safety.statistics.combination import Combination, combine
from safety.statistics.findings import Finding, Kind
from safety.statistics.parameters import ParameterError
from safety.suites.manifest import draw_seeds
from safety.suites.spec import SuiteSpec
from safety.trials.levels import Level, Schedule, next_level
from safety.trials.plant_counts import found_plants, perfect_plants, planted_counts
from safety.trials.slice_trial import SliceTrial, budget


class Portion(NamedTuple):
    """Episodes first .. first + len(seeds) of a slice of the suite."""

    slice_index: int
    first: int
    seeds: tuple[int, ...]


@dataclasses.dataclass
class _Slice:
    """A slice with everything that was run on it."""

    trial: SliceTrial
    seeds: tuple[int, ...]
    plants: tuple[Plant, ...]
    planted: EpisodeOutcomes
    candidate: list[EpisodeOutcomes]
    incumbent: list[EpisodeOutcomes] | None


class Trial:
    """The trial of one candidate; fed with outcomes, in the order in which it asks for them.

    Args:
      suite: what it is tested on, and by which rule.
      level: at which error rate.
      key: of the evaluation: seeds and plants follow from it (32 bytes).
      lanes: episodes of a chunk.
      incumbent: whether there is a release to compare with.

    Raises:
      ParameterError: see there.
    """

    def __init__(self, suite: SuiteSpec, level: Level, key: bytes, *, lanes: int, incumbent: bool) -> None:
        self._suite, self._level, self._lanes = suite, level, lanes
        self._slices: list[_Slice] = []
        violating, clean = planted_counts(suite, level)
        for spec in suite.slices:
            seeds = draw_seeds(key, spec.name, budget(spec, level))
            trial = SliceTrial(suite, spec, level, seeds, incumbent=incumbent)
            plants = draw_plants(key, spec.name, violating, clean, suite.severity)
            self._slices.append(_Slice(trial, seeds, plants, join_outcomes(()), [], [] if incumbent else None))

    @property
    def level(self) -> Level:
        """At which it is held."""
        return self._level

    @property
    def over(self) -> bool:
        """Whether no further episode is needed."""
        return not self.wants()

    @property
    def plants(self) -> Sequence[tuple[Plant, ...]]:
        """The planted episodes of each slice."""
        return [each.plants for each in self._slices]

    @property
    def episodes_max(self) -> int:
        """Most episodes that are run in all: planted ones, the candidate's and the incumbent's."""
        return sum(len(each.plants) + len(each.seeds) * (1 if each.incumbent is None else 2) for each in self._slices)

    def take_plants(self, outcomes: Sequence[EpisodeOutcomes]) -> None:
        """Takes in what the planted episodes of each slice came to; before any other."""
        for each, planted in zip(self._slices, outcomes, strict=True):
            each.planted = planted
            each.trial.judge_plants(found_plants(each.plants, planted, self._suite.severity))

    def wants(self) -> Sequence[Portion]:
        """The next round: at most a chunk for each slice; none where it is over."""
        if any(each.trial.failed for each in self._slices):
            return ()
        portions = []
        for index, each in enumerate(self._slices):
            first, count = each.trial.episodes, min(self._lanes, each.trial.needed)
            if count:
                portions.append(Portion(index, first, each.seeds[first : first + count]))
        return portions

    def ahead(self, portion: Portion, chunks: int) -> Portion:
        """The same and what may be asked for after it, at most so many chunks in all, and within the budget."""
        end = portion.first + chunks * self._lanes
        return portion._replace(seeds=self._slices[portion.slice_index].seeds[portion.first : end])

    def take(self, portion: Portion, candidate: EpisodeOutcomes, incumbent: EpisodeOutcomes | None) -> None:
        """Takes in the episodes of a portion of the newest round, the incumbent's on the same seeds.

        Raises:
          CountsError: outcomes that no evaluation can have; nothing was taken in.
          ParameterError: they were not asked for.
        """
        run = self._slices[portion.slice_index]
        run.trial.take(candidate, incumbent)
        run.candidate.append(candidate)
        if incumbent is not None and run.incumbent is not None:
            run.incumbent.append(incumbent)

    def findings(self) -> tuple[Finding, ...]:
        """What was found on all slices so far."""
        return tuple(finding for each in self._slices for finding in each.trial.findings())

    def conclude(self, *, deferred_in_a_row: int) -> Combination:
        """What becomes of the candidate; whatever was not decided counts against it.

        Its reasons name what decided first, and last, in one sentence, what was left open because of that.

        Args:
          deferred_in_a_row: candidates deferred before this one, without one between them that was not.
        """
        findings = self.findings()
        names = [spec.name for spec in self._suite.slices]
        required = {
            (criterion, name)
            for name, each in zip(names, self._slices, strict=True)
            for criterion in each.trial.required
        }
        combined = combine(findings, required, deferred_in_a_row=deferred_in_a_row, patience=self._suite.patience)
        by_name = dict(zip(names, (each.trial for each in self._slices), strict=True))
        left_open = {(one.name, one.slice_name) for one in findings if by_name[one.slice_name].undecided(one)}
        decided = [one for one in findings if not one.passed and (one.name, one.slice_name) not in left_open]
        reasons = [f"{one.name} on {one.slice_name}: {one.explanation}" for one in decided]
        left_open |= required - {(one.name, one.slice_name) for one in findings}
        if left_open:
            parts = [f"{criterion} on {name}" for criterion, name in sorted(left_open)]
            reasons.append(f"the trial ended there, with nothing known of {', '.join(parts)}")
        return dataclasses.replace(combined, reasons=tuple(reasons))

    def evidence(self) -> tuple[SliceEvidence, ...]:
        """Everything that was run, slice by slice."""
        return tuple(
            SliceEvidence(
                name=spec.name,
                environment=spec.environment,
                perturbations=spec.perturbations,
                limits=spec.limits,
                seeds=each.seeds[: each.trial.episodes],
                candidate=_episodes(each.candidate),
                incumbent=None if each.incumbent is None else _episodes(each.incumbent),
                plants=_plants(each.plants, each.planted),
            )
            for spec, each in zip(self._suite.slices, self._slices, strict=True)
        )


def check_attainable(suite: SuiteSpec) -> None:
    """Raises ParameterError if even a perfect first candidate would be rejected, or a perfect detector not believed.

    What a later candidate needs grows with its smaller share of the error rate, and so does what it may use.
    """
    level = next_level(Schedule(suite.error_rate, suite.error_schedule), ())
    for spec in suite.slices:
        seeds = range(budget(spec, level))
        try:
            trial = SliceTrial(suite, spec, level, seeds, incumbent=True)
            trial.judge_plants(perfect_plants(suite, level))
            if not trial.failed:
                perfect = no_outcomes(len(seeds))
                trial.take(perfect, perfect)
        except ParameterError as error:
            raise ParameterError(f"slice {spec.name}: {error}") from error
        # That of capability depends on the returns, which nobody knows beforehand.
        for finding in trial.findings():
            if finding.kind is Kind.SAFETY and not finding.passed:
                raise ParameterError(
                    f"slice {spec.name}: even a perfect candidate would be rejected: {finding.name}: "
                    f"{finding.explanation}"
                )


def _episodes(parts: Sequence[EpisodeOutcomes]) -> EpisodeEvidence:
    joined = join_outcomes(parts)
    return EpisodeEvidence(
        tuple(joined.returns.tolist()), tuple(joined.costs.tolist()), tuple(joined.lengths.tolist()), _rows(joined)
    )


def _plants(plants: Sequence[Plant], outcomes: EpisodeOutcomes) -> PlantEvidence:
    seen = plants[: len(outcomes.returns)]
    return PlantEvidence(
        tuple(plant.seed for plant in seen),
        tuple(plant.severity for plant in seen),
        tuple(plant.place for plant in seen),
        _rows(outcomes),
    )


def _rows(outcomes: EpisodeOutcomes) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in outcomes.events.tolist())
