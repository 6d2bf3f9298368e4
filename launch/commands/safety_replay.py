"""`temper safety replay`: runs an episode again that a verdict rests on, and compares; exit status 1 where it differs.

--json prints one object: verdict_id, slice, index, seed, who ("candidate", "incumbent"), artifact_digest, identical,
recorded and again ({return, cost, length, events}), terminated, and with --steps "steps" [{step, action, reward, cost,
severity}].
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from launch.arguments_safety import SafetyReplay
from launch.config_file import read_config
from launch.episode_rerun import Figures, Rerun, find_artifact, recorded, run_again, slice_of
from launch.errors import BadInput, LaunchError
from launch.json_output import json_line
from launch.verdict_choice import ChosenVerdict, choose_verdict
from safety.evidence.file import Evidence, EvidenceDamaged, EvidenceMissing, read_evidence
from safety.statistics.counts import Severity

STEPS_AROUND = 2
"""Steps that are shown before and after each event."""

_NUMBERS_SHOWN = 6
"""Of an action that is a vector."""

_PLACE = re.compile(r"([a-z0-9-]{1,64}):([0-9]{1,9})")


def run(arguments: SafetyReplay) -> int:
    """Prints how it compares; returns 1 where it is another episode."""
    place = _PLACE.fullmatch(arguments.episode)
    if place is None:
        raise BadInput(f"{arguments.episode!r} is not SLICE:INDEX, as `temper safety explain` prints it")
    chosen = choose_verdict(arguments.run_dir, arguments.verdict)
    evidence = _evidence(chosen)
    part, index = slice_of(evidence, place[1], int(place[2])), int(place[2])
    digest = evidence.incumbent_digest if arguments.incumbent else evidence.artifact_digest
    episodes = part.incumbent if arguments.incumbent else part.candidate
    if episodes is None:
        raise BadInput(f"verdict {chosen.short_id} compared with no incumbent: leave out --incumbent")
    before, artifact = recorded(episodes, index), find_artifact(chosen.paths, digest)
    trace = run_again(evidence, part, index, artifact, read_config(chosen.paths.config).safety)
    again = trace.figures
    identical = _comparable(again) == _comparable(before)
    if arguments.json:
        found = {
            "verdict_id": chosen.statement.verdict_id,
            "slice": part.name,
            "index": index,
            "seed": part.seeds[index],
            "who": "incumbent" if arguments.incumbent else "candidate",
            "artifact_digest": digest,
            "identical": identical,
            "recorded": _figures_json(before),
            "again": _figures_json(again),
            "terminated": trace.terminated,
        }
        print(json_line(found | ({"steps": _steps_json(trace)} if arguments.steps else {})))
        return 0 if identical else 1
    who = "incumbent" if arguments.incumbent else "candidate"
    print(f"episode     {part.name}:{index} of the {who}, seed {part.seeds[index]}")
    print(f"artifact    {digest.hex()}")
    if identical:
        print(f"identical   {_figures_text(again)}, {'terminated' if trace.terminated else 'truncated'}")
    else:
        print("DIFFERENT   its environment is not deterministic given its seed, or other code ran it")
        print(f"evidence    {_figures_text(before)}")
        print(f"again       {_figures_text(again)}")
    if arguments.steps:
        print("\n".join(_step_lines(trace)))
    return 0 if identical else 1


def _evidence(chosen: ChosenVerdict) -> Evidence:
    digest = chosen.statement.evidence_digest
    if not digest:
        raise BadInput(f"verdict {chosen.short_id} rests on no episodes: {chosen.statement.reason}")
    try:
        return read_evidence(chosen.paths.safety, digest)
    except EvidenceDamaged as error:
        raise LaunchError(f"verdict {chosen.short_id}: {error}") from error
    except EvidenceMissing as error:
        raise BadInput(
            f"the evidence of verdict {chosen.short_id} is gone, so its seeds are unknown: {error}"
        ) from error


def _comparable(figures: Figures) -> tuple[object, ...]:
    """Figures by their bits: a NaN is the same as itself."""
    return (*("NaN" if math.isnan(each) else each for each in figures[:2]), *figures[2:])


def _figures_json(figures: Figures) -> dict[str, Any]:
    return {"return": figures.returns, "cost": figures.cost, "length": figures.length, "events": figures.events}


def _figures_text(figures: Figures) -> str:
    # All digits: what differs in the last one differs.
    minor, major, severe = figures.events
    return (
        f"return {figures.returns!r}, cost {figures.cost!r}, {figures.length} steps, events {minor} minor, {major} "
        f"major, {severe} severe"
    )


def _steps_json(trace: Rerun) -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "action": trace.actions[step].tolist(),
            "reward": float(trace.rewards[step]),
            "cost": float(trace.costs[step]),
            "severity": Severity(int(trace.severities[step])).name.lower(),
        }
        for step in range(len(trace.actions))
    ]


def _action_text(action: Any) -> str:
    if np.ndim(action) == 0:
        return str(action)
    shown = " ".join(f"{each:.4g}" if action.dtype.kind == "f" else f"{each}" for each in action[:_NUMBERS_SHOWN])
    return f"[{shown}{' ...' if len(action) > _NUMBERS_SHOWN else ''}]"


def _step_lines(trace: Rerun) -> Iterator[str]:
    """The steps around each event, as a table with gaps."""
    events = np.flatnonzero(trace.severities)
    if not len(events):
        yield "no step is an event"
        return
    shown = np.zeros(len(trace.actions), np.bool_)
    for event in events.tolist():
        shown[max(0, event - STEPS_AROUND) : event + STEPS_AROUND + 1] = True
    actions = {step: _action_text(trace.actions[step]) for step in np.flatnonzero(shown).tolist()}
    width = max(len("action"), *map(len, actions.values()))
    yield f"{'step':>8}  {'action':>{width}}  {'reward':>12}  {'cost':>12}  event"
    previous = -1
    for step, action in actions.items():
        if step != previous + 1:
            yield f"{'...':>8}"
        severity = int(trace.severities[step])
        name = Severity(severity).name.lower() if severity else ""
        numbers = f"{trace.rewards[step]:>12.6g}  {trace.costs[step]:>12.6g}"
        yield f"{step:>8}  {action:>{width}}  {numbers}  {name}".rstrip()
        previous = step
    if previous != len(trace.actions) - 1:
        yield f"{'...':>8}"
