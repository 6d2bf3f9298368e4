"""How a run is doing, from its directory: running (asked live), ended (its summary), failed (why), or interrupted (what
is left).

Reads only; takes no lock for longer than a look.

Exceptions: launch.errors.RunDirectoryError.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.config_file import read_config
from launch.ledger_tail import LedgerTail
from launch.metrics_tail import MetricsTail
from launch.monitor import RunMonitor
from launch.process_list import read_process_list
from launch.releases import revocations_if_known
from launch.run_directory import holder_of
from launch.run_paths import RunPaths, require_run_directory
from launch.services import GateQuestions, ReplayQuestions
from launch.summary import last_word, render
from launch.topology import Addresses
from launch.verdicts import describe_revoked, revocation_json
from launch.view import figures


def gather(root: Path) -> dict[str, Any]:
    """The state of the run in `root` as JSON types.

    Returns:
      state ("running", "ended", "failed" or "interrupted") and recipe; revoked_releases (as in the summary, but as of
      now; null: not known, and revoked_problem says why); running: processes and the newest figures; ended: the
      summary; failed: the reason; failed and interrupted: the learner's last word.

    Raises:
      RunDirectoryError: `root` is no run directory.
    """
    paths = require_run_directory(root)
    revoked, problem = revocations_if_known(paths)
    status: dict[str, Any] = {
        "run_dir": str(root),
        "recipe": read_config(paths.config).recipe,
        "revoked_releases": None if revoked is None else [revocation_json(revocation) for revocation in revoked],
        "revoked_problem": problem,
    }
    holder = holder_of(paths)
    if holder is not None:
        return status | {"state": "running", "supervisor": holder} | _live(paths)
    summary = _read_json(paths.summary)
    if summary is not None:
        return status | {"state": "ended", "summary": summary}
    failure = _read_json(paths.failure)
    if failure is not None:
        return status | {"state": "failed", "reason": str(failure.get("reason", "")), "learner": last_word(paths)}
    return status | {"state": "interrupted", "learner": last_word(paths)}


def describe(status: Mapping[str, Any], root: Path) -> str:
    """The same for a person."""
    revoked = _revoked(status)
    if status["state"] == "ended":
        # Its release may have been revoked after it was written.
        summary = status["summary"] | {"revoked_releases": status["revoked_releases"]}
        unknown = [f"revoked: {revoked}"] if status["revoked_releases"] is None else []
        return "\n".join([f"{status['recipe']}: ended", render(summary, RunPaths(root)), *unknown])
    if status["state"] in {"failed", "interrupted"}:
        steps = status["learner"].get("env_steps")
        reached = "before the first update" if steps is None else f"after about {steps:,} environment steps"
        lines = [f"{status['recipe']}: {status['state']} {reached}; continue with --resume"]
        lines += [f"reason: {status['reason']}"] if status["state"] == "failed" else []
        return "\n".join(lines + ([f"revoked: {revoked}"] if revoked else []))
    lines = [f"{status['recipe']}: running, supervised by process {status['supervisor']}"]
    shown = status["figures"] | ({"revoked": revoked} if revoked else {})
    lines += [f"  {name:<12} {text}" for name, text in shown.items()]
    lines += [_describe_process(process) for process in status["processes"]]
    return "\n".join(lines)


def _revoked(status: Mapping[str, Any]) -> str:
    """The revoked releases in a line, "" where there is none."""
    revoked = status["revoked_releases"]
    if revoked is None:
        return f"not known: {status['revoked_problem']}"
    return describe_revoked([(each["release_number"], each["why"]) for each in revoked])


def _live(paths: RunPaths) -> dict[str, Any]:
    listed = read_process_list(paths) or {}
    processes: Sequence[Mapping[str, Any]] = listed.get("processes", [])
    if "addresses" not in listed:
        return {"processes": processes, "figures": {}, "metrics": {}, "replay_down": []}
    addresses = Addresses(**listed["addresses"])
    with ReplayQuestions(addresses.replay) as replay, GateQuestions(addresses.safety, listed["run_id"]) as gate:
        tails = MetricsTail(paths.metrics), replay, gate, LedgerTail(paths.ledger)
        monitor = RunMonitor(*tails, since_ns=listed.get("started_ns", 0))
        snapshot = monitor.look()
    return {
        "processes": processes,
        "figures": dict(figures(snapshot)),
        "metrics": dict(snapshot.metrics),
        "replay_down": list(snapshot.replay_down),
    }


def _describe_process(process: Mapping[str, Any]) -> str:
    return f"  process      {process['name']} {process['state']}, pid {process['pid']}, restarts {process['restarts']}"


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None
