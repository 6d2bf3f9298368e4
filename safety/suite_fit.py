"""Whether the candidates of a run can act in the slices of a suite at all: their environments against the run's own.

A suite for other observations or actions would reject every candidate; that is a mistake of whoever started the run,
and is told before the first of them. An evaluator process describes the run's environment where no slice is in it:
nothing of an environment runs here.

Exceptions: EnvironmentUnsupported (actors.environment); EvaluationFailed (safety.evaluation.evaluator) where no process
comes up to describe an environment.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from actors.config import EnvironmentConfig
from actors.environment import EnvironmentSpec, EnvironmentUnsupported
from policies.spec import mismatch
from safety.config import SafetyConfig
from safety.evaluation.evaluator import Evaluator
from safety.suites.spec import DEFAULT_SLICE, SliceSpec, SuiteSpec


def check_slices(environments: Mapping[str, EnvironmentSpec], trained_in: EnvironmentSpec) -> None:
    """Raises EnvironmentUnsupported for the first slice, of those by name, in which no candidate could act."""
    for name, spec in environments.items():
        misfit = mismatch(spec, trained_in)
        if misfit:
            ours = f"the run's environment {trained_in.id}"
            raise EnvironmentUnsupported(
                f"slice {name} has {misfit.replace('the environment', ours)}: none of its candidates could act there"
            )


def check_fit(
    suite: SuiteSpec,
    environment: EnvironmentConfig,
    environments: Mapping[str, EnvironmentSpec],
    config: SafetyConfig,
    *,
    directory: Path,
    hidden: Sequence[Path] = (),
) -> None:
    """The same, where it is not known yet what the run's environment is.

    Args:
      suite: what candidates are evaluated on.
      environment: what they are trained in.
      environments: of every slice by its name, as evaluators describe them.
      config: the limits of an evaluator.
      directory: takes the log of the one that is started, if one must be.
      hidden: directories that it must not read.

    Raises:
      EnvironmentUnsupported: they do not fit, or the run's environment cannot be made.
      EvaluationFailed: see there.
    """
    for each in suite.slices:
        if each.environment == environment:
            check_slices(environments, environments[each.name])
            return
    limits = suite.slices[0].limits
    alone = dataclasses.replace(suite, slices=(SliceSpec(DEFAULT_SLICE, environment, (), limits),))
    evaluator = Evaluator(alone, config, directory / "evaluator-fit.log", hidden)
    try:
        evaluator.start()
        described = evaluator.environments[DEFAULT_SLICE]
    finally:
        evaluator.close()
        evaluator.release()
    check_slices(environments, described)
