"""summary.json from a made-up run directory, whole and in every state of incompleteness."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from launch.releases import newest_release
from launch.summary import compose, last_word, render, write_summary
from launch.verdicts import Counts
from tests.launch import made_up_run


def test_the_summary_of_a_whole_run(tmp_path: Path) -> None:
    paths = made_up_run.begin(tmp_path / "run")
    made_up_run.add_metrics(paths)
    made_up_run.add_final(paths)
    made_up_run.add_releases(paths, 2)
    release = newest_release(paths)
    assert release is not None
    summary = compose("catch", last_word(paths), release, Counts(2, 5, 3, 1), made_up_run.replay_stats())
    assert summary == {
        "recipe": "catch",
        "env_steps": 10_000,
        "wall_s": 4.0,
        "env_steps_per_s": 2500.0,
        "evaluation": {"episodes": 100, "return_mean": 200.0, "return_ci95": [195.0, 205.0]},
        "release": {"version": 20, "digest": release.digest, "verdict_id": f"{2:032x}"},
        "revoked_releases": None,
        "candidates": {"approved": 2, "rejected": 5, "deferred": 3, "void": 1},
        "replay": {"records": 1234, "bytes": 5_600_000},
        "policy_lag": {"mean": 1.5, "p95": 3.0},
    }
    assert len(bytes.fromhex(release.digest)) == 32


def test_a_learner_without_a_last_word_is_known_by_its_newest_figures(tmp_path: Path) -> None:
    paths = made_up_run.begin(tmp_path / "run")
    made_up_run.add_metrics(paths)
    lag = {"mean": 2.0, "p95": 4.0}
    assert last_word(paths) == {"env_steps": 9000, "updates": 40, "wall_s": 3.5, "policy_lag": lag}


def test_a_run_of_which_nothing_is_known(tmp_path: Path) -> None:
    paths = made_up_run.begin(tmp_path / "run")
    assert newest_release(paths) is None
    summary = compose("catch", last_word(paths), None, None, None)
    assert summary == {
        "recipe": "catch",
        "env_steps": None,
        "wall_s": None,
        "env_steps_per_s": None,
        "evaluation": None,
        "release": None,
        "revoked_releases": None,
        "candidates": {"approved": None, "rejected": None, "deferred": None, "void": None},
        "replay": {"records": None, "bytes": None},
        "policy_lag": {"mean": None, "p95": None},
    }
    text = render(summary, paths)
    assert "unknown environment steps" in text
    assert "no release: no candidate was approved" in text
    assert "candidates: unknown; replay: " in text


def test_no_time_means_no_rate(tmp_path: Path) -> None:
    assert compose("catch", {"env_steps": 0, "wall_s": 0.0}, None, None, None)["env_steps_per_s"] is None


def test_the_rendered_summary_says_where_everything_is(tmp_path: Path) -> None:
    paths = made_up_run.begin(tmp_path / "run")
    made_up_run.add_final(paths)
    made_up_run.add_releases(paths, 1)
    summary = compose("catch", last_word(paths), newest_release(paths), Counts(1, 0), made_up_run.replay_stats())
    text = render(summary, paths)
    assert "catch: 10,000 environment steps in 4.0 s (2,500 a second)" in text
    assert "evaluation return 100.00, 95% [95.00, 105.00], 100 episodes" in text
    for place in (paths.summary, paths.policies, paths.replay, paths.tensorboard, paths.logs, paths.config):
        assert str(place) in text


def test_what_became_of_the_candidates_is_told_apart(tmp_path: Path) -> None:
    paths = made_up_run.begin(tmp_path / "run")
    summary = compose("catch", {}, None, Counts(1, 4, 3, 2), None)
    assert "\ncandidates: 1 approved, 4 rejected, 3 deferred, 2 void; replay: " in render(summary, paths)
    # As an earlier version wrote it.
    summary["candidates"] = {"approved": 1, "rejected": 7}
    assert "\ncandidates: 1 approved, 7 rejected; replay: " in render(summary, paths)


def test_the_commands_it_shows_can_be_copied_into_a_shell(tmp_path: Path) -> None:
    paths = made_up_run.begin(tmp_path / "my first run")
    text = render(compose("catch", {}, None, None, None), paths)
    (line,) = (line for line in text.splitlines() if line.startswith("continue"))
    assert shlex.split(line)[1:] == ["temper", "train", str(paths.config), "--run-dir", str(paths.root), "--resume"]


def test_it_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_summary({"recipe": "catch"}, path)
    assert json.loads(path.read_text()) == {"recipe": "catch"}
    assert list(tmp_path.iterdir()) == [path]
