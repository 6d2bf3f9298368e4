"""The process in which candidates run: reads artifacts, makes environments, reports outcomes. It holds no key.

Started by `safety.evaluator` as `python -m safety.worker PARENT_PID MEMORY_BYTES [HIDDEN_DIRECTORY ...]`; it confines
itself before it hears of any environment (see `safety.confinement`). Frames come in on standard input and go out on
what was standard output. Standard output itself is joined to standard error, so that an environment that prints cannot
damage the frames.

    in   {"kind": "configure", "environment": {...}}                       first, once
    out  {"kind": "ready", "environment": {...}, "confinement": {...}} | {"kind": "unsupported", "reason"}
    in   {"kind": "evaluate", "seeds", "digest", "action_selection", "lanes_max"} + artifact
    out  {"kind": "progress", "episodes"}*, then
         {"kind": "outcomes"} + returns f8 [N], costs f8 [N], lengths i8 [N] | {"kind": "failed", "reason"}
"""

from __future__ import annotations

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

from actors.config import EnvironmentConfig
from actors.environment import EnvironmentSpec, EnvironmentUnsupported
from actors.environments.catalog import make_vector
from policies.artifact import Artifact, ArtifactError
from policies.inference import make_policy
from policies.spec import mismatch
from safety.confinement import Confinement, confine
from safety.evaluation import EpisodeOutcomes, EvaluationError, evaluate_policy
from safety.frames import Frame, FrameClosed, receive_frame, send_frame

ARTIFACT_BYTES_MAX = 2**32
PROGRESS_S = 0.1
"""Shortest time between two progress frames."""

_PR_SET_PDEATHSIG = 1

Send = Callable[[Mapping[str, Any], bytes], None]


def main(arguments: list[str]) -> int:
    """Serves frames until standard input ends; returns the exit status."""
    _die_with(parent=int(arguments[0]))
    confinement = confine((), int(arguments[1]), [Path(directory) for directory in arguments[2:]])
    frames_out = os.dup(1)
    os.dup2(2, 1)
    send: Send = functools.partial(_send, frames_out)
    try:
        config = EnvironmentConfig(**receive_frame(0, 0, None).header["environment"])
        spec = _describe(config, confinement, send)
        while spec is not None:
            header, body = _evaluate(receive_frame(0, ARTIFACT_BYTES_MAX, None), config, spec, send)
            send(header, body)
    except FrameClosed:
        return 0
    return 2


def environment_to_header(spec: EnvironmentSpec) -> dict[str, Any]:
    """A JSON object from which `environment_from_header` makes the same specification."""
    return dataclasses.asdict(spec) | {"code_digest": spec.code_digest.hex()}


def environment_from_header(header: Mapping[str, Any]) -> EnvironmentSpec:
    """Inverse of `environment_to_header`. Raises KeyError, TypeError or ValueError where it is none."""
    shape = tuple(int(size) for size in header["observation_shape"])
    return EnvironmentSpec(
        **{**header, "code_digest": bytes.fromhex(header["code_digest"]), "observation_shape": shape}
    )


def _die_with(parent: int) -> None:
    """Ends with the service, now if that has ended."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        # It died before the call above; nobody would ever read what we write.
        sys.exit(1)


def _describe(config: EnvironmentConfig, confinement: Confinement, send: Send) -> EnvironmentSpec | None:
    """Makes the environment once to describe it; None where it cannot be made."""
    try:
        probe = make_vector(config, 1)
        spec = probe.spec
        probe.close()
    except EnvironmentUnsupported as error:
        send({"kind": "unsupported", "reason": str(error)}, b"")
        return None
    except Exception as error:  # noqa: BLE001 - foreign code: whatever it raises has to reach the person who named it
        reason = f"environment {config.name!r} cannot be made: {type(error).__name__}: {error}"
        send({"kind": "unsupported", "reason": reason}, b"")
        return None
    ready = {"kind": "ready", "environment": environment_to_header(spec)}
    send({**ready, "confinement": dataclasses.asdict(confinement)}, b"")
    return spec


def _evaluate(
    request: Frame, config: EnvironmentConfig, spec: EnvironmentSpec, send: Send
) -> tuple[Mapping[str, Any], bytes]:
    """The answer to one request; whatever goes wrong with the candidate is an answer, too."""
    try:
        outcomes = _run(request, config, spec, send)
    except (ArtifactError, EvaluationError) as error:
        return {"kind": "failed", "reason": str(error)}, b""
    except MemoryError:
        return {"kind": "failed", "reason": "the evaluation needs more memory than the evaluator may have"}, b""
    except Exception as error:  # noqa: BLE001 - foreign code: what it raises is a finding about it, not our end
        return {"kind": "failed", "reason": f"the evaluation raised {type(error).__name__}: {error}"}, b""
    return {"kind": "outcomes"}, b"".join(column.tobytes() for column in outcomes)


def _run(request: Frame, config: EnvironmentConfig, spec: EnvironmentSpec, send: Send) -> EpisodeOutcomes:
    artifact = Artifact.from_bytes(request.body, bytes.fromhex(request.header["digest"])).check_finite()
    misfit = mismatch(artifact.spec, spec)
    if misfit:
        raise EvaluationError(f"the policy does not fit the environment: {misfit}")
    last_sent = time.monotonic()

    def on_progress(episodes: int) -> None:
        nonlocal last_sent
        if time.monotonic() - last_sent >= PROGRESS_S:
            last_sent = time.monotonic()
            send({"kind": "progress", "episodes": episodes}, b"")

    # Non-finite logits are looked for in every step: NumPy's warnings about them would only fill the log.
    with np.errstate(all="ignore"):
        return evaluate_policy(
            make_policy(artifact, "numpy"),
            functools.partial(make_vector, config),
            request.header["seeds"],
            action_selection=request.header["action_selection"],
            lanes_max=request.header["lanes_max"],
            on_progress=on_progress,
        )


def _send(descriptor: int, header: Mapping[str, Any], body: bytes) -> None:
    send_frame(descriptor, Frame(header, body), None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
