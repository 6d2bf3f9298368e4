"""Whether evidence and verdict say the same: every count is made again from the episodes, one by one.

Pure. It knows the evidence to be what the verdict binds; what is checked is that whoever wrote both was not mistaken,
or lying in one of them. It does not judge anew, and runs nothing again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from protos.safety.v1 import safety_pb2
from safety.criteria import OUTCOMES, criterion_result
from safety.evaluation.plants import draw_plants
from safety.evidence.counts import detector_calibration, seeds_digest, slice_counts, violating_episodes
from safety.evidence.file import Evidence, SliceEvidence
from safety.statistics.counts import CountsError, Severity
from safety.suites.manifest import draw_seeds
from safety.suites.spec import SeverityScale


def contradiction(evidence: Evidence, statement: safety_pb2.VerdictStatement) -> str:
    """The first difference, for a person; "" where there is none."""
    try:
        return next(_differences(evidence, statement), "")
    except CountsError as error:
        return str(error)


def _differences(evidence: Evidence, statement: safety_pb2.VerdictStatement) -> Iterator[str]:
    for name in _BOUND:
        theirs, ours = getattr(evidence, name), getattr(statement, name)
        if theirs != ours:
            yield f"{name} is {_text(theirs)}, the verdict has {_text(ours)}"
    if OUTCOMES[evidence.outcome] != statement.outcome:
        yield f"the outcome is {evidence.outcome.value}"
    if "; ".join(evidence.reasons) != statement.reason:
        yield "the reasons differ"
    if seeds_digest(evidence.slices) != statement.seed_manifest_digest:
        yield "the seeds are others"
    for each in evidence.slices:
        if each.seeds != draw_seeds(evidence.seed_key, each.name, len(each.seeds)):
            yield f"the seeds of slice {each.name} do not follow from the key"
        if not _plants_follow(each, evidence.seed_key, evidence.severity):
            yield f"the planted episodes of slice {each.name} do not follow from the key"
    if [slice_counts(each) for each in evidence.slices] != list(statement.slices):
        yield "the episodes do not add up to the counts of the slices"
    violating = violating_episodes(evidence.slices)
    if violating != statement.violating_episodes:
        yield f"{violating} episodes have a cost, the verdict has {statement.violating_episodes}"
    if detector_calibration(evidence.slices) != statement.detector:
        yield "the planted episodes do not add up to what the verdict says of the detector"
    results = [criterion_result(finding) for finding in evidence.findings]
    if not _same(results, statement.criteria):
        yield "the criteria came out otherwise"


_BOUND = (
    "run_id",
    "version",
    "artifact_digest",
    "incumbent_digest",
    "suite_digest",
    "criteria_digest",
    "seed_key",
    "lifetime_index",
    "error_level",
)
"""What stands under the same name in both."""


def _plants_follow(each: SliceEvidence, key: bytes, scale: SeverityScale) -> bool:
    plants = each.plants
    violating = sum(severity is not Severity.NONE for severity in plants.severities)
    drawn = draw_plants(key, each.name, violating, len(plants.seeds) - violating, scale)
    return [tuple(plant) for plant in drawn] == list(zip(plants.seeds, plants.severities, plants.places, strict=True))


def _same(ours: Sequence[safety_pb2.CriterionResult], theirs: Sequence[safety_pb2.CriterionResult]) -> bool:
    """Whether they are equal; of numbers that are not finite the evidence only knows that they are not."""
    return [_finite(each) for each in ours] == [_finite(each) for each in theirs]


def _finite(result: safety_pb2.CriterionResult) -> safety_pb2.CriterionResult:
    plain = safety_pb2.CriterionResult()
    plain.CopyFrom(result)
    for name in ("statistic", "limit", "estimate"):
        if not math.isfinite(getattr(plain, name)):
            plain.ClearField(name)
    for name, value in result.figures.items():
        if not math.isfinite(value):
            plain.figures[name] = 0.0
    return plain


def _text(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
