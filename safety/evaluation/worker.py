"""The process in which candidates run: reads artifacts, makes environments, reports outcomes. It holds no key.

Started by `safety.evaluation.evaluator` as `python -m safety.evaluation.worker PARENT_PID MEMORY_BYTES [--readable
PATH] [--hidden PATH]`; it confines itself before it hears of any environment (see `safety.confinement.confine`).
Frames come in on standard input and go out on what was standard output. Standard output itself is joined to standard
error, so that an environment that prints cannot damage the frames. What the frames say is in
`safety.evaluation.messages`.

Before it says that it is ready, every environment has been made and stepped and a policy has acted, so that all code
is loaded by the time the first candidate comes.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from actors.environment import EnvironmentSpec, EnvironmentUnsupported, VectorEnvironment
from actors.environments.catalog import make_vector
from policies.artifact import Artifact, ArtifactError, artifact_digest
from policies.inference import make_policy
from policies.policy import Policy
from policies.spaces import SpecError
from policies.spec import mismatch
from safety.confinement.confine import confine
from safety.evaluation.blank_policy import blank_artifact
from safety.evaluation.episodes import EpisodeOutcomes, EvaluationError, evaluate_policy
from safety.evaluation.frames import Frame, FrameClosed, receive_frame, send_frame
from safety.evaluation.messages import (
    POLICIES_KEPT,
    SliceWork,
    Work,
    environment_to_header,
    outcomes_to_body,
    plants_from_header,
    work_from_header,
)
from safety.evaluation.perturbations import perturb
from safety.evaluation.plants import run_plants

ARTIFACT_BYTES_MAX = 2**32
PROGRESS_S = 0.1
"""Shortest time between two progress frames."""

_PR_SET_PDEATHSIG = 1

Send = Callable[[Mapping[str, Any], bytes], None]


def main(arguments: list[str]) -> int:
    """Serves frames until standard input ends; returns the exit status."""
    parser = argparse.ArgumentParser(prog="safety.evaluation.worker")
    parser.add_argument("parent", type=int)
    parser.add_argument("memory_bytes", type=int)
    for directories in ("--readable", "--hidden"):
        parser.add_argument(directories, type=Path, action="append", default=[])
    started = parser.parse_args(arguments)
    _die_with(started.parent)
    confinement = confine(started.readable, started.memory_bytes, started.hidden)
    frames_out = os.dup(1)
    os.dup2(2, 1)
    send: Send = functools.partial(_send, frames_out)
    try:
        work = work_from_header(receive_frame(0, 0, None).header)
        try:
            environments = [_prepared(each, len(work.slices)) for each in work.slices]
        except EnvironmentUnsupported as error:
            send({"kind": "unsupported", "reason": str(error)}, b"")
            return 2
        described = [environment_to_header(spec) for spec in environments]
        send({"kind": "ready", "environments": described, "confinement": dataclasses.asdict(confinement)}, b"")
        desk = _Desk(work, environments, send)
        while True:
            send(*desk.answer(receive_frame(0, ARTIFACT_BYTES_MAX, None)))
    except FrameClosed:
        return 0


class _Desk:
    """Answers requests one by one."""

    def __init__(self, work: Work, environments: list[EnvironmentSpec], send: Send) -> None:
        self._work, self._environments, self._send_frame = work, environments, send
        self._policies: dict[str, Policy] = {}
        self._sent_s = 0.0

    def answer(self, request: Frame) -> tuple[Mapping[str, Any], bytes]:
        """The answer to one request; whatever goes wrong with the candidate is an answer, too."""
        try:
            # Non-finite logits are looked for in every step: NumPy's warnings about them would only fill the log.
            with np.errstate(all="ignore"):
                if request.header["kind"] == "load":
                    self._load(request)
                    return {"kind": "loaded"}, b""
                outcomes = self._plant(request) if request.header["kind"] == "plant" else self._evaluate(request)
        except (ArtifactError, EvaluationError) as error:
            return {"kind": "failed", "reason": str(error)}, b""
        except MemoryError:
            return {"kind": "failed", "reason": "the evaluation needs more memory than the evaluator may have"}, b""
        except Exception as error:  # noqa: BLE001 - foreign code: what it raises is a finding about it, not our end
            return {"kind": "failed", "reason": f"the evaluation raised {type(error).__name__}: {error}"}, b""
        return {"kind": "outcomes"}, outcomes_to_body(outcomes)

    def _load(self, request: Frame) -> None:
        digest = request.header["digest"]
        # Before the new one is made: two of the greatest are what the memory is for.
        while len(self._policies) >= POLICIES_KEPT:
            del self._policies[next(iter(self._policies))]
        artifact = Artifact.from_bytes(request.body, bytes.fromhex(digest)).check_finite()
        self._policies[digest] = make_policy(artifact, "numpy")

    def _evaluate(self, request: Frame) -> EpisodeOutcomes:
        header = request.header
        policy = self._policies.pop(header["digest"])
        self._policies[header["digest"]] = policy
        misfit = mismatch(policy.spec, self._environments[header["slice"]])
        if misfit:
            raise EvaluationError(f"the policy does not fit the environment: {misfit}")
        return evaluate_policy(
            policy,
            functools.partial(_make, self._work.slices[header["slice"]]),
            header["seeds"],
            lanes=self._work.lanes,
            scale=self._work.severity,
            action_selection=self._work.action_selection,
            on_progress=self._progress,
        )

    def _plant(self, request: Frame) -> EpisodeOutcomes:
        work = self._work.slices[request.header["slice"]]
        return run_plants(
            functools.partial(make_vector, work.environment),
            functools.partial(perturb, perturbations=work.perturbations),
            plants_from_header(request.header),
            lanes=self._work.lanes,
            scale=self._work.severity,
            on_progress=self._progress,
        )

    def _progress(self, episodes: int) -> None:
        if time.monotonic() - self._sent_s >= PROGRESS_S:
            self._sent_s = time.monotonic()
            self._send_frame({"kind": "progress", "episodes": episodes}, b"")


def _die_with(parent: int) -> None:
    """Ends with the service, now if that has ended."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        # It died before the call above; nobody would ever read what we write.
        sys.exit(1)


def _make(work: SliceWork, lanes: int) -> VectorEnvironment:
    return perturb(make_vector(work.environment, lanes), work.perturbations)


def _prepared(work: SliceWork, slices: int) -> EnvironmentSpec:
    """Makes the environment of a slice, takes a step in it, and describes it.

    Raises:
      EnvironmentUnsupported: that cannot be done, whatever the reason.
    """
    where = f"slice {work.name}: " if slices > 1 else ""
    try:
        probe = _make(work, 1)
        try:
            _rehearse(probe)
        finally:
            probe.close()
    except (EnvironmentUnsupported, SpecError) as error:
        raise EnvironmentUnsupported(f"{where}{error}") from error
    except Exception as error:
        # Foreign code: whatever it raises has to reach the person who named it.
        name = work.environment.name
        reason = f"{where}environment {name!r} cannot be made or stepped: {type(error).__name__}: {error}"
        raise EnvironmentUnsupported(reason) from error
    return probe.spec


def _rehearse(environment: VectorEnvironment) -> None:
    """One step of a policy without an opinion, by all the code that a candidate meets."""
    data = blank_artifact(environment.spec).to_bytes()
    policy = make_policy(Artifact.from_bytes(data, artifact_digest(data)).check_finite(), "numpy")
    policy.act(environment.reset(np.arange(1), [0]), np.random.Generator(np.random.PCG64(0)))
    environment.step(environment.spec.action.zeros(1), np.ones(1, np.bool_))


def _send(descriptor: int, header: Mapping[str, Any], body: bytes) -> None:
    send_frame(descriptor, Frame(header, body), None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
