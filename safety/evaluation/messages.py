"""What the service and its evaluator processes say to each other, as JSON headers and bodies of numbers. Moves nothing.

    to the worker    {"kind": "configure", "slices", "severity", "lanes", "action_selection"}          first, once
    from it          {"kind": "ready", "environments"} | {"kind": "unsupported", "reason"}
    to the worker    {"kind": "load", "digest"} + artifact
    from it          {"kind": "loaded"} | {"kind": "failed", "reason"}
    to the worker    {"kind": "evaluate", "slice", "digest", "seeds"}
                     {"kind": "plant", "slice", "seeds", "severities", "places"}
    from it          {"kind": "progress", "episodes"}*, then
                     {"kind": "outcomes"} + returns f8 [N], costs f8 [N], lengths i8 [N], events i8 [N, 3]
                     | {"kind": "failed", "reason"}

A worker keeps the last POLICIES_KEPT policies that it was asked to load or to run; both sides know which by that rule.

Exceptions: FrameError (safety.evaluation.frames) for outcomes and descriptions that no worker may send.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from actors.config import EnvironmentConfig
from actors.environment import EnvironmentSpec
from policies.spaces import ActionSpace, ObservationSpace
from safety.config import SafetyConfig
from safety.evaluation.episodes import EpisodeOutcomes
from safety.evaluation.frames import Frame, FrameError
from safety.evaluation.plants import Plant
from safety.statistics.counts import EVENT_CLASSES, Severity
from safety.suites.spec import Perturbation, SeverityScale, SliceSpec, SuiteSpec

POLICIES_KEPT = 2
"""A candidate and the incumbent."""

EPISODE_BYTES = 8 * (3 + len(EVENT_CLASSES))
"""Of the outcome of one episode."""


@dataclasses.dataclass(frozen=True)
class SliceWork:
    """What a worker must know of a slice."""

    name: str
    environment: EnvironmentConfig
    perturbations: tuple[Perturbation, ...]


@dataclasses.dataclass(frozen=True)
class Work:
    """What a worker must know of a suite."""

    slices: tuple[SliceWork, ...]
    severity: SeverityScale
    lanes: int
    action_selection: str


def work_of(suite: SuiteSpec, config: SafetyConfig) -> Work:
    """The part of suite and settings that concerns workers."""
    slices = tuple(_slice_work(each) for each in suite.slices)
    return Work(slices, suite.severity, config.lanes, suite.action_selection)


def work_to_header(work: Work) -> dict[str, Any]:
    """The message that configures a worker."""
    return {"kind": "configure", **dataclasses.asdict(work)}


def work_from_header(header: Mapping[str, Any]) -> Work:
    """Inverse of `work_to_header`."""
    slices = tuple(
        SliceWork(
            each["name"],
            EnvironmentConfig(**each["environment"]),
            tuple(Perturbation(**perturbation) for perturbation in each["perturbations"]),
        )
        for each in header["slices"]
    )
    return Work(slices, SeverityScale(**header["severity"]), header["lanes"], header["action_selection"])


def environment_to_header(spec: EnvironmentSpec) -> dict[str, Any]:
    """A JSON object from which `environment_from_header` makes the same specification."""
    return dataclasses.asdict(spec) | {
        "code_digest": spec.code_digest.hex(),
        "observation": spec.observation.to_tree(),
        "action": spec.action.to_tree(),
    }


def environment_from_header(header: Mapping[str, Any]) -> EnvironmentSpec:
    """Inverse of `environment_to_header`. Raises KeyError, TypeError or ValueError where it is none."""
    return EnvironmentSpec(
        header["id"],
        header["version"],
        bytes.fromhex(header["code_digest"]),
        ObservationSpace.from_tree(header["observation"]),
        ActionSpace.from_tree(header["action"]),
        header["episode_steps_max"],
    )


def environments_in(frame: Frame, slices: int) -> tuple[EnvironmentSpec, ...]:
    """The environments that a worker says it has, one per slice."""
    try:
        environments = tuple(environment_from_header(each) for each in frame.header["environments"])
    except (KeyError, TypeError, ValueError) as error:
        raise FrameError(f"the answer describes no environment: {error}") from error
    if len(environments) != slices:
        raise FrameError(f"the answer describes {len(environments)} environments, the suite has {slices} slices")
    return environments


def plants_to_header(slice_index: int, plants: Sequence[Plant]) -> dict[str, Any]:
    """The message that asks for planted episodes."""
    return {
        "kind": "plant",
        "slice": slice_index,
        "seeds": [plant.seed for plant in plants],
        "severities": [int(plant.severity) for plant in plants],
        "places": [plant.place for plant in plants],
    }


def plants_from_header(header: Mapping[str, Any]) -> list[Plant]:
    """Inverse of `plants_to_header`."""
    columns = zip(header["seeds"], header["severities"], header["places"], strict=True)
    return [Plant(seed, Severity(severity), place) for seed, severity, place in columns]


def outcomes_to_body(outcomes: EpisodeOutcomes) -> bytes:
    """The numbers of N outcomes, little-endian."""
    floats = np.concatenate([outcomes.returns, outcomes.costs]).astype("<f8")
    integers = np.concatenate([outcomes.lengths, outcomes.events.reshape(-1)]).astype("<i8")
    return floats.tobytes() + integers.tobytes()


def outcomes_in(frame: Frame, episodes: int) -> EpisodeOutcomes:
    """The outcomes in a worker's answer; values that no episode can have are refused."""
    if frame.header.get("kind") != "outcomes" or len(frame.body) != EPISODE_BYTES * episodes:
        raise FrameError(f"an answer of kind {frame.header.get('kind')!r} with {len(frame.body)} bytes")
    returns, costs = np.frombuffer(frame.body, "<f8", 2 * episodes).reshape(2, episodes)
    integers = np.frombuffer(frame.body, "<i8", offset=16 * episodes)
    lengths, events = integers[:episodes], integers[episodes:].reshape(episodes, len(EVENT_CLASSES))
    possible = (
        np.isfinite(returns).all()
        and np.isfinite(costs).all()
        and (costs >= 0).all()
        and (lengths > 0).all()
        and (events >= 0).all()
        and (events <= lengths[:, np.newaxis]).all()
        and (events.sum(axis=1) <= lengths).all()
        # Every event costs something.
        and (costs[events.any(axis=1)] > 0).all()
    )
    if not possible:
        raise FrameError("outcomes with values that no episode can have")
    return EpisodeOutcomes(returns, costs, lengths, events)


def episodes_in(frame: Frame, episodes: int) -> int:
    """How many episodes have ended, of a progress message."""
    count = frame.header.get("episodes")
    if not isinstance(count, int) or not 0 <= count <= episodes:
        raise FrameError(f"progress of {count!r} of {episodes} episodes")
    return count


def _slice_work(spec: SliceSpec) -> SliceWork:
    return SliceWork(spec.name, spec.environment, spec.perturbations)
