"""The process in which an evaluated episode runs again, as it ran: one thread, no key.

Started by `launch.episode_rerun` as `python -m launch.episode_worker MEMORY_BYTES [READABLE_DIRECTORY ...]`; it is
confined as an evaluator is (safety.confinement.confine). One frame (safety.evaluation.frames) comes in on standard
input, one goes out on what was standard output, and that is all it does. Standard output itself is joined to standard
error, so that an environment that prints cannot damage the frame.

    in   {"slice", "lanes", "index", "seed", "action_selection", "severity", "digest"} + artifact
    out  {"kind": "trace", "steps": T, "action": {"type", "shape"}, "terminated", "return", "cost", "length", "events"}
             + actions [T, *shape] of that type, rewards f4 [T], costs f4 [T], severities i8 [T]
         | {"kind": "failed", "reason"}
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from actors.config import EnvironmentConfig
from actors.environment import EnvironmentUnsupported
from actors.environments.catalog import make_vector
from launch.process import die_with_supervisor
from policies.artifact import Artifact, ArtifactError
from policies.inference import make_policy
from safety.confinement.confine import confine
from safety.evaluation.episode_replay import EpisodeTrace, replay_episode
from safety.evaluation.episodes import EvaluationError
from safety.evaluation.frames import Frame, FrameError, receive_frame, send_frame
from safety.suites.spec import Perturbation, SeverityScale, SliceLimits, SliceSpec

ARTIFACT_BYTES_MAX = 2**32

TRACE_TYPES = ("<f4", "<f4", "<i8")
"""Of the columns of a trace after its actions, in their order."""

ACTION_TYPES = ("<i4", "<f4")
"""Of actions: choices, or real numbers."""


def main(arguments: list[str]) -> int:
    """Answers one request; returns the exit status."""
    die_with_supervisor()
    confine([Path(directory) for directory in arguments[1:]], int(arguments[0]))
    frames_out = os.dup(1)
    os.dup2(2, 1)
    try:
        request = receive_frame(0, ARTIFACT_BYTES_MAX, None)
    except FrameError:
        return 1
    send_frame(frames_out, _answer(request), None)
    return 0


def _answer(request: Frame) -> Frame:
    """The episode; whatever goes wrong in it is an answer, too."""
    try:
        trace = _run(request.header, request.body)
    except (ArtifactError, EvaluationError, EnvironmentUnsupported) as error:
        return Frame({"kind": "failed", "reason": str(error)}, b"")
    except MemoryError:
        return Frame({"kind": "failed", "reason": "the episode needs more memory than an evaluator may have"}, b"")
    except Exception as error:  # noqa: BLE001 - foreign code: what it raises has to reach whoever asked
        return Frame({"kind": "failed", "reason": f"the episode raised {type(error).__name__}: {error}"}, b"")
    action_type = trace.actions.dtype.newbyteorder("<").str
    columns = (trace.actions, trace.rewards, trace.costs, trace.severities)
    body = b"".join(
        np.ascontiguousarray(column, kind).tobytes()
        for column, kind in zip(columns, (action_type, *TRACE_TYPES), strict=True)
    )
    outcome = trace.outcome
    header = {
        "kind": "trace",
        "steps": len(trace.actions),
        "action": {"type": action_type, "shape": list(trace.actions.shape[1:])},
        "terminated": trace.terminated,
        "return": float(outcome.returns[0]),
        "cost": float(outcome.costs[0]),
        "length": int(outcome.lengths[0]),
        "events": outcome.events[0].tolist(),
    }
    return Frame(header, body)


def _run(header: Mapping[str, Any], artifact: bytes) -> EpisodeTrace:
    checked = Artifact.from_bytes(artifact, bytes.fromhex(header["digest"])).check_finite()
    return replay_episode(
        make_policy(checked, "numpy"),
        make_vector,
        _slice_in(header["slice"]),
        lanes=header["lanes"],
        index=header["index"],
        seed=header["seed"],
        action_selection=header["action_selection"],
        severity=SeverityScale(**header["severity"]),
    )


def _slice_in(fields: Mapping[str, Any]) -> SliceSpec:
    return SliceSpec(
        fields["name"],
        EnvironmentConfig(**fields["environment"]),
        tuple(Perturbation(**each) for each in fields["perturbations"]),
        SliceLimits(**fields["limits"]),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
