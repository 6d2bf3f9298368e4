"""Runs one evaluated episode again, in a process of its own, and compares it with what the evidence says of it.

A process of its own, because it runs a candidate and the environment's code, and because matrix products come out the
same only when one thread computes them, which has to be said before NumPy is loaded. As in an evaluation that contains
failures, not malice: the environment's code runs as the user who asks.

Exceptions: launch.errors.BadInput where the evidence has no such episode, or the artifact is not kept;
launch.errors.LaunchError where the episode cannot be run again.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from launch.episode_worker import ACTION_TYPES, TRACE_TYPES
from launch.errors import BadInput, LaunchError
from launch.process import ONE_THREAD, SUPERVISOR_VARIABLE, import_path
from launch.run_paths import RunPaths
from policies.artifact import artifact_digest
from policies.spaces import COMPONENTS_MAX
from safety.config import SafetyConfig
from safety.evaluation.frames import Frame, FrameClosed, FrameError, FrameTimeout, receive_frame, send_frame
from safety.evidence.file import CANDIDATES_DIRECTORY, EpisodeEvidence, Evidence, SliceEvidence

RUN_S_MAX = 120.0
"""An episode that takes longer is given up."""

_BYTES_MAX = 2**30
"""An episode of ten million steps of one-number actions has a quarter of that."""
_REASON_CHARACTERS_MAX = 1000


class Figures(NamedTuple):
    """What an episode came to: undiscounted return, sum of costs, steps, and steps that were events, by class."""

    returns: float
    cost: float
    length: int
    events: tuple[int, ...]


class Rerun(NamedTuple):
    """An episode of T steps that was run again.

    Attributes:
      actions: what the policy chose, before any perturbation, i4 or f4 [T, *action shape].
      rewards, costs: f4 [T].
      severities: of the event that each step is, as `Severity`; 0 where it is none, i8 [T].
      terminated: whether it ended by itself; else it was truncated.
      figures: what it came to, as an evaluation counts it.
    """

    actions: NDArray[Any]
    rewards: NDArray[np.float32]
    costs: NDArray[np.float32]
    severities: NDArray[np.int64]
    terminated: bool
    figures: Figures


def slice_of(evidence: Evidence, name: str, index: int) -> SliceEvidence:
    """The slice with that name, which has an episode with that number. Raises BadInput."""
    parts = {part.name: part for part in evidence.slices}
    if name not in parts:
        raise BadInput(f"the evidence has no slice {name!r}; slices there are: {', '.join(parts)}")
    count = len(parts[name].seeds)
    if not 0 <= index < count:
        known = f"0 to {count - 1}" if count else "none"
        raise BadInput(f"the evidence has no episode {index} of slice {name}; episodes there are: {known}")
    return parts[name]


def recorded(episodes: EpisodeEvidence, index: int) -> Figures:
    """What the evidence says of an episode."""
    return Figures(episodes.returns[index], episodes.costs[index], episodes.lengths[index], episodes.events[index])


def find_artifact(paths: RunPaths, digest: bytes) -> bytes:
    """The artifact with this digest (32 bytes), from wherever the run keeps it. Raises BadInput where it does not."""
    places = [
        paths.safety / CANDIDATES_DIRECTORY / digest.hex(),
        paths.safety / "incumbents" / digest.hex(),
        paths.policies / "artifacts" / f"{digest.hex()}.safetensors",
    ]
    problems = []
    for place in places:
        try:
            data = place.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            problems.append(f"{place}: {error.strerror}")
            continue
        if artifact_digest(data) == digest:
            return data
        problems.append(f"{place} has another digest: it was damaged")
    why = "; ".join(problems) or "it was removed to make room, or never written"
    raise BadInput(f"artifact {digest.hex()} is not kept in {paths.root}, so its episodes cannot be run again: {why}")


def run_again(evidence: Evidence, part: SliceEvidence, index: int, artifact: bytes, limits: SafetyConfig) -> Rerun:
    """Runs episode `index` of a slice again.

    Args:
      evidence: what the verdict rests on.
      part: the slice, of the same evidence.
      index: of the episode.
      artifact: of the policy that is to run it.
      limits: how much memory it may have, and what it may read.

    Raises:
      LaunchError: it cannot be run, or takes longer than RUN_S_MAX.
    """
    header = {
        "slice": {
            "name": part.name,
            "environment": dataclasses.asdict(part.environment),
            "perturbations": [dataclasses.asdict(each) for each in part.perturbations],
            "limits": dataclasses.asdict(part.limits),
        },
        "lanes": evidence.lanes,
        "index": index,
        "seed": part.seeds[index],
        "action_selection": evidence.action_selection,
        "severity": dataclasses.asdict(evidence.severity),
        "digest": artifact_digest(artifact).hex(),
    }
    command = [sys.executable, "-P", "-m", "launch.episode_worker"]
    command += [str(limits.worker_memory_bytes_max), *(str(Path(each).absolute()) for each in limits.readable)]
    environment = {
        **os.environ,
        **ONE_THREAD,
        "MKL_NUM_THREADS": "1",
        "PYTHONPATH": import_path(),
        SUPERVISOR_VARIABLE: str(os.getpid()),
    }
    process = subprocess.Popen(
        command,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        # Its own group, so that its children can be ended with it.
        start_new_session=True,
    )
    try:
        answer = _ask(process, Frame(header, artifact))
    except (FrameError, FrameTimeout, OSError) as error:
        raise LaunchError(f"episode {part.name}:{index} could not be run again: {_why(error, process)}") from error
    finally:
        _end(process)
    if answer.header.get("kind") != "trace":
        reason = "".join(each if each.isprintable() else " " for each in str(answer.header.get("reason")))
        raise LaunchError(f"episode {part.name}:{index} could not be run again: {reason[:_REASON_CHARACTERS_MAX]}")
    return _rerun(answer, f"{part.name}:{index}")


def _ask(process: subprocess.Popen[bytes], request: Frame) -> Frame:
    if process.stdin is None or process.stdout is None:
        raise FrameError("the process has no pipes")
    deadline = time.monotonic() + RUN_S_MAX
    os.set_blocking(process.stdin.fileno(), False)
    send_frame(process.stdin.fileno(), request, deadline)
    return receive_frame(process.stdout.fileno(), _BYTES_MAX, deadline)


def _why(error: Exception, process: subprocess.Popen[bytes]) -> str:
    if isinstance(error, FrameTimeout):
        return f"it took longer than {RUN_S_MAX:g} s"
    if isinstance(error, FrameClosed):
        try:
            status = process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return str(error)
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        return f"its process {how}"
    return str(error)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills what is left of the process, and frees the pipes."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _rerun(answer: Frame, place: str) -> Rerun:
    header = answer.header
    try:
        steps = int(header["steps"])
        figures = Figures(
            float(header["return"]), float(header["cost"]), int(header["length"]), tuple(map(int, header["events"]))
        )
        actions = _actions(answer, steps)
        columns, offset = [], actions.nbytes
        for kind in TRACE_TYPES:
            columns.append(np.frombuffer(answer.body, kind, steps, offset))
            offset += columns[-1].nbytes
    except (KeyError, TypeError, ValueError) as error:
        raise LaunchError(
            f"episode {place} could not be run again: its process wrote no episode ({error!r})"
        ) from error
    rewards, costs, severities = columns
    return Rerun(actions, rewards, costs, severities, bool(header.get("terminated")), figures)


def _actions(answer: Frame, steps: int) -> NDArray[Any]:
    """The actions [T, *action shape] at the beginning of the body. Raises KeyError, TypeError or ValueError."""
    kind, shape = answer.header["action"]["type"], answer.header["action"]["shape"]
    if kind not in ACTION_TYPES or len(shape) > 1 or not all(1 <= int(size) <= COMPONENTS_MAX for size in shape):
        raise ValueError(f"actions of type {kind!r} and shape {shape!r}")
    numbers = int(np.prod(shape, dtype=np.int64))
    return np.frombuffer(answer.body, kind, steps * numbers).reshape(steps, *shape)
