"""`temper safety check`: reads a suite, and tries it out: every slice's environment is made and played in a worker.

It prints what each slice is, what an untrained policy comes to there, whether planted violations are found, and how
many episodes a candidate without any violation needs at the error rates that are left to the 1st, 2nd, 10th and 100th
candidate of a run, none before it having been approved. --json prints one object: suite, file, usable, interface
{observation, action}, slices [{name, environment, perturbations, limits, untrained,
planted}], candidates [{number, error_level, slices [{name, episodes, episodes_max}]}]; episodes is null where nothing
could pass.

All slices must need the same policies; with --environment, those that are trained in the environment of that name,
which also is that of slices that name none.

Exit status 1 where a planted violation is not found, or an untrained policy cannot be run.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.config import EnvironmentConfig
from actors.environment import EnvironmentSpec
from launch.arguments import SafetyCheck
from launch.config_file import read_config
from launch.errors import LaunchError
from launch.json_output import json_line, printable
from launch.recipes import is_config_file, make_recipe
from policies.artifact import artifact_digest
from safety.config import SafetyConfig
from safety.evaluation.blank_policy import blank_artifact
from safety.evaluation.episodes import EpisodeOutcomes
from safety.evaluation.evaluator import EvaluationFailed
from safety.evaluation.plants import Plant, count_plants, draw_plants
from safety.evaluation.pool import EvaluatorPool, Job, PlantJob, PolicyJob
from safety.statistics.counts import EVENT_CLASSES
from safety.suite_file import read_suite
from safety.suite_fit import check_fit
from safety.suites.manifest import draw_seeds
from safety.suites.spec import SliceSpec, SuiteSpec
from safety.trials.attainability import need_of

CANDIDATES = (1, 2, 10, 100)
"""Of a run, whose error rates and needs are shown."""

_EPISODES = 8
_PLANTED, _CLEAN = 6, 2
# A check shows nothing that must stay secret.
_KEY = bytes(32)


def run(arguments: SafetyCheck) -> int:
    """Prints what was found; returns 1 where the suite is sound, but does not work."""
    of_file = is_config_file(arguments.recipe)
    recipe = read_config(Path(arguments.recipe)) if of_file else make_recipe(arguments.recipe)
    environment = recipe.environment
    if arguments.environment:
        environment = dataclasses.replace(environment, name=arguments.environment)
    suite = read_suite(arguments.suite, recipe.safety, environment)
    trained_in = environment if arguments.environment else None
    environments, slices = _try_out(suite, dataclasses.replace(recipe.safety, workers=1), trained_in)
    interface = next(iter(environments.values()))
    report = {
        "suite": suite.name,
        "file": str(arguments.suite),
        "usable": all(each["planted"]["found"] == each["planted"]["violating"] for each in slices),
        "interface": {
            "observation": interface.observation.describe(),
            "action": interface.action.describe(),
        },
        "slices": slices,
        "candidates": [_candidate(suite, number) for number in CANDIDATES],
    }
    print(json_line(report) if arguments.json else "\n".join(_lines(suite, report)))
    return 0 if report["usable"] else 1


def _try_out(
    suite: SuiteSpec, config: SafetyConfig, trained_in: EnvironmentConfig | None
) -> tuple[Mapping[str, EnvironmentSpec], list[dict[str, Any]]]:
    """Environments, which must fit `trained_in` if one is given, and what a few episodes of each slice came to."""
    plants = [draw_plants(_KEY, each.name, _PLANTED, _CLEAN, suite.severity) for each in suite.slices]
    with tempfile.TemporaryDirectory(prefix="temper-check-") as directory:
        pool = EvaluatorPool(suite, config, Path(directory))
        try:
            pool.start()
            environments = pool.environments
            if trained_in is not None:
                check_fit(suite, trained_in, environments, config, directory=Path(directory))
            blank = blank_artifact(environments[suite.slices[0].name]).to_bytes()
            digest = artifact_digest(blank)
            jobs: list[Job] = [
                PolicyJob(blank, digest, index, 0, draw_seeds(_KEY, each.name, _EPISODES))
                for index, each in enumerate(suite.slices)
            ]
            jobs += [PlantJob(index, drawn) for index, drawn in enumerate(plants)]
            outcomes = pool.run(jobs, time.monotonic() + config.evaluation_s_max, _not_shown)
        except EvaluationFailed as error:
            raise LaunchError(f"the suite is sound, but its episodes cannot be run: {error}") from error
        finally:
            pool.close()
            pool.release()
    untrained, planted = outcomes[: len(suite.slices)], outcomes[len(suite.slices) :]
    rows = zip(suite.slices, untrained, plants, planted, strict=True)
    return environments, [_slice(each, environments[each.name], one, drawn, found) for each, one, drawn, found in rows]


def _slice(
    spec: SliceSpec,
    environment: EnvironmentSpec,
    untrained: EpisodeOutcomes,
    plants: Sequence[Plant],
    planted: EpisodeOutcomes,
) -> dict[str, Any]:
    return {
        "name": spec.name,
        "environment": {
            "id": environment.id,
            "version": environment.version,
            "code_digest": environment.code_digest,
            "episode_steps_max": environment.episode_steps_max,
            "settings": dataclasses.asdict(spec.environment),
        },
        "perturbations": [dataclasses.asdict(each) for each in spec.perturbations],
        "limits": dataclasses.asdict(spec.limits),
        "untrained": {
            "episodes": len(untrained.returns),
            "return_mean": float(untrained.returns.mean()),
            "length_mean": float(untrained.lengths.mean()),
            **{severity.name.lower(): int((untrained.events[:, severity - 1] > 0).sum()) for severity in EVENT_CLASSES},
        },
        "planted": dataclasses.asdict(count_plants(plants, planted)),
    }


def _candidate(suite: SuiteSpec, number: int) -> dict[str, Any]:
    needs = [need_of(suite, each, number) for each in suite.slices]
    return {
        "number": number,
        "error_level": needs[0].alpha,
        "slices": [
            {"name": each.name, "episodes": need.episodes, "episodes_max": need.episodes_max}
            for each, need in zip(suite.slices, needs, strict=True)
        ],
    }


def _lines(suite: SuiteSpec, report: Mapping[str, Any]) -> list[str]:
    """The report for a person."""
    interface, number = report["interface"], len(report["slices"])
    severity = ", ".join(
        f"{name} above {above:g}" if math.isfinite(above) else f"{name} never"
        for name, above in dataclasses.asdict(suite.severity).items()
    )
    lines = [
        f"suite {suite.name}: {number} slice{'s' if number > 1 else ''}, a candidate must pass on all of them",
        f"  interface      {interface['observation']}, {interface['action']}, everywhere",
        f"  events         cost of a step: {severity}",
        f"  error rate     {suite.error_rate:g} over all candidates of the run ({suite.error_schedule})",
    ]
    for each in report["slices"]:
        lines += ["", f"slice {each['name']}", *_slice_lines(each)]
    names = [each["name"] for each in report["slices"]]
    lines += ["", "episodes that a candidate without any violation needs, of those it may use, none before it approved"]
    lines.append("  ".join([f"{'candidate':>9}", f"{'error level':>11}", *(f"{name:>13}" for name in names)]))
    for candidate in report["candidates"]:
        cells = [f"{one['episodes'] or 'never'} / {one['episodes_max']}" for one in candidate["slices"]]
        widths = zip(cells, names, strict=True)
        row = [f"{candidate['number']:>9}", f"{candidate['error_level']:>11.3g}"]
        lines.append("  ".join([*row, *(f"{cell:>{max(13, len(name))}}" for cell, name in widths)]))
    if not report["usable"]:
        lines += ["", "NOT USABLE: planted violations are not found"]
    return lines


def _slice_lines(each: Mapping[str, Any]) -> list[str]:
    environment, untrained, planted, limits = each["environment"], each["untrained"], each["planted"], each["limits"]
    steps = environment["episode_steps_max"]
    perturbations = ", ".join(f"{one['kind']} {one['amount']:g}" for one in each["perturbations"])
    return [
        f"  environment    {printable(environment['id'])} ({printable(environment['version'])}), "
        f"{f'at most {steps} steps' if steps else 'no limit of steps'}, code {environment['code_digest'].hex()[:12]}",
        f"  perturbations  {perturbations or 'none'}",
        f"  limits         {', '.join(f'{name} {value:g}' for name, value in limits.items())}",
        f"  untrained      {untrained['episodes']} episodes: mean return {untrained['return_mean']:.4g}, mean length "
        f"{untrained['length_mean']:.4g}; with an event: {untrained['minor']} minor, {untrained['major']} major, "
        f"{untrained['severe']} severe",
        f"  planted        {planted['found']} of {planted['violating']} violations found, {planted['false_alarms']} "
        f"of {planted['clean']} clean episodes flagged",
    ]


def _not_shown(_: int) -> None:
    """A few episodes are over before anybody could read how far they are."""
