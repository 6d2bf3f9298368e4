"""RUN_DIR/summary.json: what a run came to, in one small file for scripts, and the same in a few lines for a person.

Composed from what the others left behind: the learner's final.json (or its last figures, where it died), the newest
release, the gate's count of verdicts, and the replay's last counters. What is not known is null, never a guess.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.distillation_summary import distillation_lines
from launch.metrics_tail import Metrics, read_all
from launch.run_paths import RunPaths
from launch.verdicts import Counts, Verdict, describe_revoked, revocation_json
from policies.revocation import Revocation
from protos.replay.v1 import replay_pb2


def compose(
    recipe: str,
    learned: Mapping[str, Any],
    release: Verdict | None,
    counts: Counts | None,
    replay: replay_pb2.StatsResponse | None,
    *,
    revoked: Sequence[Revocation] | None = None,
) -> dict[str, Any]:
    """The summary as it is written.

    Args:
      recipe: name of the recipe.
      learned: the learner's last word (env_steps, wall_s, policy_lag {mean, p95}); {} where there is none.
      release: the verdict of the newest release, None where there is none.
      counts: candidates judged, None where the gate's ledger could not be read.
      replay: the replay's last counters, None where they could not be had.
      revoked: what was taken back, oldest first; None where that is not known.
    """
    steps, wall_s = learned.get("env_steps"), learned.get("wall_s")
    lag = learned.get("policy_lag") or {}
    return {
        "recipe": recipe,
        "env_steps": steps,
        "wall_s": wall_s,
        "env_steps_per_s": steps / wall_s if steps is not None and wall_s else None,
        "evaluation": None
        if release is None
        else {
            "episodes": release.episodes,
            "return_mean": release.return_mean,
            "return_ci95": list(release.return_ci95),
        },
        "release": None
        if release is None
        else {"version": release.version, "digest": release.digest, "verdict_id": release.verdict_id},
        "revoked_releases": None if revoked is None else [revocation_json(revocation) for revocation in revoked],
        "candidates": {name: getattr(counts, name, None) for name in ("approved", "rejected", "deferred", "void")},
        "replay": {
            "records": replay.records if replay else None,
            "bytes": replay.payload_bytes if replay else None,
        },
        "policy_lag": {"mean": lag.get("mean"), "p95": lag.get("p95")},
    }


def last_word(paths: RunPaths) -> dict[str, Any]:
    """What the learner reached: its final.json, or its newest figures where it never came to write one."""
    try:
        final: dict[str, Any] = json.loads(paths.final.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return _from_metrics(read_all(paths.metrics))
    return final


def write_summary(summary: Mapping[str, Any], path: Path) -> None:
    """Writes it so that a reader sees a whole file or none."""
    unfinished = path.with_suffix(".json.unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        json.dump(summary, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def render(summary: Mapping[str, Any], paths: RunPaths) -> str:
    """The summary for a person, with where everything is."""
    release, evaluation = summary["release"], summary["evaluation"]
    # None where it is not known, and in the summary of an earlier version.
    revoked: Sequence[Mapping[str, Any]] = summary.get("revoked_releases") or ()
    lines = [
        f"{summary['recipe']}: {_count(summary['env_steps'])} environment steps in {_fixed(summary['wall_s'], 1)} s "
        f"({_count(summary['env_steps_per_s'])} a second)"
    ]
    if release is None:
        lines.append("no release: every one was revoked" if revoked else "no release: no candidate was approved")
    else:
        low, high = evaluation["return_ci95"]
        since = ", revoked since" if release["digest"] in {each["artifact_digest"] for each in revoked} else ""
        lines.append(
            f"release {release['digest'][:12]} (update {release['version']}){since}: evaluation return "
            f"{evaluation['return_mean']:.2f}, 95% [{low:.2f}, {high:.2f}], {evaluation['episodes']} episodes, "
            f"verdict {release['verdict_id'][:12]}"
        )
    if revoked:
        lines.append(f"revoked: {describe_revoked([(each['release_number'], each['why']) for each in revoked])}")
    lines += distillation_lines(summary)
    candidates, replay, lag = summary["candidates"], summary["replay"], summary["policy_lag"]
    lines += [
        f"candidates: {_candidates(candidates)}; "
        f"replay: {_count(replay['records'])} records, {_count(replay['bytes'])} bytes; "
        f"policy lag: {_fixed(lag['mean'], 1)} updates, p95 {_fixed(lag['p95'], 1)}",
        *_places(paths),
    ]
    return "\n".join(lines)


def _places(paths: RunPaths) -> Sequence[str]:
    root = paths.root
    return (
        f"summary      {paths.summary}",
        f"policies     {paths.policies}   (temper policy list {_word(root)})",
        f"trajectories {paths.replay}",
        f"ledger       {paths.safety / 'ledger.jsonl'}",
        f"TensorBoard  tensorboard --logdir {_word(paths.tensorboard)}",
        f"logs         {paths.logs}",
        f"repeat       temper train {_word(paths.config)}",
        f"continue     temper train {_word(paths.config)} --run-dir {_word(root)} --resume",
    )


def _word(path: Path) -> str:
    """A path as a shell takes it, to be copied from the screen."""
    return shlex.quote(str(path))


def _from_metrics(lines: Sequence[Metrics]) -> dict[str, Any]:
    if not lines:
        return {}
    newest = lines[-1]
    return {
        "env_steps": newest.get("env_steps"),
        "updates": newest.get("updates"),
        "wall_s": newest.get("time_s"),
        "policy_lag": {"mean": newest.get("policy_lag_mean"), "p95": newest.get("policy_lag_p95")},
    }


def _candidates(counts: Mapping[str, int | None]) -> str:
    # A summary of an earlier version has no more than approved and rejected.
    known = {name: count for name, count in counts.items() if count is not None}
    return Counts.of(known).describe() if known else "unknown"


def _count(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.0f}"


def _fixed(value: float | None, digits: int) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}"
