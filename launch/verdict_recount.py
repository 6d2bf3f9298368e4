"""Runs the sequential tests of a verdict again over its evidence, and says where verdict and evidence differ.

The evidence is bound to the verdict by its digest, so a difference is no forgery: it is a verdict that does not follow
from what it rests on, or one that another version of the statistics gave.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from launch.verdict_criteria import severity_of
from protos.safety.v1 import safety_pb2
from safety.evidence.audit import contradiction
from safety.evidence.file import Evidence, SliceEvidence
from safety.statistics.betting import LOG_WEIGHTS_AGAINST, LOG_WEIGHTS_FOR, log_evidence, log_factors
from safety.statistics.counts import CountsError, PairedOutcomes
from safety.statistics.sequential_rules import ACCEPTABLE_SHARE, RATE, RISK_DIFFERENCE, risk_losses

_TOLERANCE = 1e-9
"""More than sums of the same logarithms can differ by on another machine."""


class Recount(NamedTuple):
    """A sequential test, run again over the episodes that it took in.

    Attributes:
      result: the criterion, as the verdict has it.
      log_for: log of the evidence for the candidate, after 0, 1, ... N episodes [N + 1].
      log_against: the same against it.
      statistic: the p-value that it ends with.
      problem: how that differs from the verdict; "" where it does not.
    """

    result: safety_pb2.CriterionResult
    log_for: NDArray[np.float64]
    log_against: NDArray[np.float64]
    statistic: float
    problem: str


def recount(evidence: Evidence, verdict: safety_pb2.VerdictStatement) -> tuple[list[Recount], list[str]]:
    """Every sequential test that can be run again, and everything in which verdict and evidence differ, in words."""
    slices = {each.name: each for each in evidence.slices}
    difference = contradiction(evidence, verdict)
    tests, problems = [], [difference] if difference else []
    for result in verdict.criteria:
        if result.name.partition(".")[0] not in (RATE, RISK_DIFFERENCE):
            continue
        test = None if result.slice not in slices else _again(result, slices[result.slice])
        if test is None:
            problems.append(f"{result.name} on {result.slice}: the evidence lacks the episodes that it rests on")
            continue
        tests.append(test)
        if test.problem:
            problems.append(test.problem)
    return tests, problems


def _again(result: safety_pb2.CriterionResult, evidence: SliceEvidence) -> Recount | None:
    """The test once more; None where it cannot be."""
    name = result.name.partition(".")[0]
    limit = result.figures.get("limit_of_mean", math.nan)
    try:
        losses = _losses(result, evidence)
    except CountsError:
        return None
    if losses is None or not math.isfinite(limit):
        return None
    # As the rules of safety.statistics.sequential_rules scale them.
    low, acceptable = 0.0 if name == RATE else _margin(result) - 1.0, ACCEPTABLE_SHARE * limit
    scaled, null, good = ((value - low) / (1.0 - low) for value in (losses, limit, acceptable))
    log_for = _path(log_factors(np.asarray(scaled), float(null)), LOG_WEIGHTS_FOR)
    log_against = _path(log_factors(1.0 - np.asarray(scaled), 1.0 - float(good)), LOG_WEIGHTS_AGAINST)
    statistic = math.exp(min(0.0, -float(log_for[-1])))
    said = (result.statistic, result.figures.get("log_evidence_for"), result.figures.get("log_evidence_against"))
    found = (statistic, float(log_for[-1]), float(log_against[-1]))
    problem = ""
    if not all(each is not None and _equal(each, again) for each, again in zip(said, found, strict=True)):
        problem = (
            f"{result.name} on {result.slice}: the episodes give p = {statistic:.6g} (log evidence {found[1]:.6g} for "
            f"and {found[2]:.6g} against), the verdict says p = {result.statistic:.6g}"
        )
    return Recount(result, log_for, log_against, statistic, problem)


def _losses(result: safety_pb2.CriterionResult, evidence: SliceEvidence) -> NDArray[np.float64] | None:
    """What the test took in: one loss per episode, in the order of the seeds; None where there are not as many."""
    severity, count = severity_of(result.name), result.episodes
    candidate = evidence.candidate_outcomes
    if candidate.episodes < count:
        return None
    if result.name.partition(".")[0] == RATE:
        return candidate.violates(severity)[:count].astype(np.float64)
    incumbent, margin = evidence.incumbent_outcomes, _margin(result)
    if incumbent is None or not math.isfinite(margin):
        return None
    return risk_losses(PairedOutcomes(candidate, incumbent), severity, margin)[:count]


def _margin(result: safety_pb2.CriterionResult) -> float:
    """The accepted rise of the true rate; NaN where the verdict does not say it."""
    return result.figures.get("margin", math.nan)


def _path(factors: NDArray[np.float64], log_weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return log_evidence(np.cumsum(np.vstack([np.zeros(factors.shape[1]), factors]), axis=0), log_weights)


def _equal(said: float, found: float) -> bool:
    return math.isclose(said, found, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)


def tests_by_criterion(tests: Sequence[Recount]) -> dict[tuple[str, str], Recount]:
    """The tests by name of the criterion and of the slice."""
    return {(test.result.name, test.result.slice): test for test in tests}
