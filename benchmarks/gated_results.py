"""What training with and without the gate comes to: figures for each seed, differences over the seeds. Pure.

A policy's own episodes are independent, so its rate of violations has an exact interval (Clopper and Pearson). The
episodes of one seed's policy are not independent of each other once the policy itself is drawn, so over the seeds each
one counts once: Student's interval of the mean, and of the mean of the differences of the same seed. For the share of
violations that is avoided there is no simple interval: it is bootstrapped over the seeds, which with five of them is
coarse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.trained_run import Evaluated
from safety.statistics.intervals import clopper_pearson_lower, clopper_pearson_upper, mean_interval

RESAMPLES = 10_000

UNGATED, GATED, GATED_LAST = "without the gate", "with the gate", "with the gate, last weights"
"""What is evaluated: the last weights of the run whose gate lets everything through, the newest release of the other
one, and the last weights of that other one, which its gate may have held back."""

FIGURES = ("return_mean", "violation_rate")


@dataclass(frozen=True)
class SeedResult:
    """One seed.

    Attributes:
      seed: of the training runs.
      evaluated: by what was evaluated; GATED is None where the gate released nothing.
      approved, rejected: candidates in the gated run.
      last_let_through: whether the ungated run's gate let its last weights through, as it should.
      wall_s: of the two trainings, ungated and gated.
    """

    seed: int
    evaluated: Mapping[str, Evaluated | None]
    approved: int
    rejected: int
    last_let_through: bool
    wall_s: tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its two-sided 95% interval; NaN where there are too few seeds for one."""

    mean: float
    low: float
    high: float


def rate_interval(result: Evaluated) -> tuple[float, float]:
    """The exact two-sided 95% interval of its rate of violations."""
    return (
        clopper_pearson_lower(result.violating, result.episodes, 0.975),
        clopper_pearson_upper(result.violating, result.episodes, 0.975),
    )


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean over seeds, with Student's interval."""
    if len(values) < 2:
        return Estimate(values[0] if values else float("nan"), float("nan"), float("nan"))
    return Estimate(*mean_interval(np.asarray(values, np.float64), 0.95))


def pairs(results: Sequence[SeedResult], figure: str) -> NDArray[np.float64]:
    """[seeds with a release, 2]: the figure without and with the gate."""
    found = []
    for result in results:
        ungated, gated = result.evaluated[UNGATED], result.evaluated[GATED]
        if ungated is not None and gated is not None:
            found.append((getattr(ungated, figure), getattr(gated, figure)))
    return np.asarray(found, np.float64).reshape(-1, 2)


def relative_change(values: NDArray[np.float64], generator: np.random.Generator) -> Estimate:
    """Mean with the gate over mean without it, less 1; the interval is bootstrapped over the seeds.

    Args:
      values: as of `pairs`.
      generator: draws the resamples; those whose mean without the gate is 0 are left out.
    """
    if not len(values) or not values[:, 0].any():
        return Estimate(float("nan"), float("nan"), float("nan"))
    before, after = values.mean(axis=0)
    means = values[generator.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
    means = means[means[:, 0] != 0]
    low, high = np.quantile(means[:, 1] / means[:, 0] - 1.0, (0.025, 0.975))
    return Estimate(float(after / before - 1.0), float(low), float(high))


def summary(results: Sequence[SeedResult], about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything measured, for a script."""
    return {
        **about,
        "seeds": [_seed_json(result) for result in results],
        "over_seeds": {
            arm: {figure: _json(over_seeds(_values(results, arm, figure))) for figure in FIGURES}
            for arm in (UNGATED, GATED, GATED_LAST)
        },
        "difference": {figure: _json(_difference(results, figure)) for figure in FIGURES},
        "relative_change": {figure: _json(_relative(results, figure)) for figure in FIGURES},
        "seeds_without_release": sum(result.evaluated[GATED] is None for result in results),
    }


def table(results: Sequence[SeedResult]) -> str:
    """The same for a person."""
    head = ("seed", "policy", "return", "violating", "95% interval", "episodes", "candidates", "training s")
    rows = [row for result in results for row in _rows(result)]
    lines = _aligned([head, *rows])
    lines += ["", *_aligned([("over the seeds", "return", "95%", "violation rate", "95%"), *_overall(results)])]
    without = sum(result.evaluated[GATED] is None for result in results)
    if without:
        lines += ["", f"{without} of {len(results)} seeds have no release; they are in no difference"]
    return "\n".join(lines)


def _rows(result: SeedResult) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for arm, found in result.evaluated.items():
        candidates = f"{result.approved} of {result.approved + result.rejected}" if arm == GATED else ""
        seconds = "" if arm == GATED_LAST else f"{result.wall_s[arm == GATED]:.0f}"
        if found is None:
            rows.append((str(result.seed), arm, "no release", "", "", "", candidates, seconds))
            continue
        low, high = rate_interval(found)
        cells = (f"{found.return_mean:.2f}", f"{found.violation_rate:.4f}", f"[{low:.4f}, {high:.4f}]")
        rows.append((str(result.seed), arm, *cells, f"{found.episodes:,}", candidates, seconds))
    return rows


def _overall(results: Sequence[SeedResult]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for arm in (UNGATED, GATED, GATED_LAST):
        found = [over_seeds(_values(results, arm, figure)) for figure in FIGURES]
        rows.append((arm, *_cells(found[0], ".2f"), *_cells(found[1], ".4f")))
    found = [_difference(results, figure) for figure in FIGURES]
    rows.append(("difference", *_cells(found[0], "+.2f"), *_cells(found[1], "+.4f")))
    found = [_relative(results, figure) for figure in FIGURES]
    rows.append(("relative (bootstrap)", *_cells(found[0], "+.1%"), *_cells(found[1], "+.1%")))
    return rows


def _cells(estimate: Estimate, form: str) -> tuple[str, str]:
    return f"{estimate.mean:{form}}", f"[{estimate.low:{form}}, {estimate.high:{form}}]"


def _values(results: Sequence[SeedResult], arm: str, figure: str) -> list[float]:
    found = [result.evaluated[arm] for result in results]
    return [getattr(each, figure) for each in found if each is not None]


def _difference(results: Sequence[SeedResult], figure: str) -> Estimate:
    values = pairs(results, figure)
    return over_seeds((values[:, 1] - values[:, 0]).tolist())


def _relative(results: Sequence[SeedResult], figure: str) -> Estimate:
    return relative_change(pairs(results, figure), np.random.default_rng(0))


def _json(estimate: Estimate) -> dict[str, float | None]:
    # NaN is no JSON.
    return {name: None if np.isnan(value) else value for name, value in asdict(estimate).items()}


def _seed_json(result: SeedResult) -> dict[str, Any]:
    arms = {
        arm: None if found is None else {**asdict(found), "violation_rate95": rate_interval(found)}
        for arm, found in result.evaluated.items()
    }
    return {**asdict(result), "evaluated": arms}


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
