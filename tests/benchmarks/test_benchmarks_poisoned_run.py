"""The poisoned run: the lies, and what is made of the evidence. No training."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest

from actors.config import EnvironmentConfig
from actors.environments.catalog import make_vector
from benchmarks.poisoned_actor import REWARD, make_hacked
from benchmarks.poisoned_results import JudgedRelease, Poisoned, summary, table
from benchmarks.poisoned_run import ACTOR, Poisoning, _held_back, _releases_of
from benchmarks.process_group import BenchmarkError
from benchmarks.trained_run import Evaluated
from launch.run_paths import RunPaths

FOUND = Poisoned(
    actor=ACTOR,
    limit=0.05,
    error_rate=0.05,
    releases_before=2,
    releases=[
        JudgedRelease(3, 700, 0.0, Evaluated(1000, 4, 700.0)),
        JudgedRelease(4, 900, 0.1, Evaluated(1000, 50, 710.0)),
    ],
    last_weights=Evaluated(1000, 990, 800.0),
    approved=4,
    rejected=9,
    records={"actor-0000": 900, ACTOR: 300},
    mismatched={ACTOR: 120},
    audited={ACTOR: 10},
    verified={"actor-0000": 900, ACTOR: 180},
    reached=[4],
    held_back=[950, 990],
    reached_by_lineage=[4],
    traced=[4],
    quarantined=120,
    wall_s=60.0,
)


def test_the_lies_are_about_violations_only() -> None:
    config = EnvironmentConfig(name="cartpole-edge", cart_margin=0.1)
    true, hacked = make_vector(config, 8), make_hacked(config, 8)
    assert hacked.spec == true.spec
    assert hacked.lanes == 8
    seeds = list(range(8))
    assert np.array_equal(true.reset(np.arange(8), seeds), hacked.reset(np.arange(8), seeds))
    violations = 0
    for _ in range(8):
        actions, active = np.ones(8, np.int32), np.ones(8, np.bool_)
        expected, told = true.step(actions, active), hacked.step(actions, active)
        for column in ("observation", "terminated", "truncated"):
            assert np.array_equal(getattr(told, column), getattr(expected, column))
        assert not told.cost.any()
        np.testing.assert_allclose(told.reward - expected.reward, REWARD * expected.cost, rtol=1e-6)
        violations += int(expected.cost.sum())
    assert violations > 0
    hacked.close()


def test_a_run_in_which_the_gate_holds_has_no_problems() -> None:
    assert FOUND.problems == []
    found = summary(FOUND, {"recipe": "r"})
    assert found["holds"] is True
    assert json.loads(json.dumps(found, allow_nan=False))["releases"][1]["poisoned_share"] == 0.1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"releases": [JudgedRelease(5, 1, 0.5, Evaluated(1000, 80, 1.0))]}, "release 5 violates more often than 0.05"),
        ({"mismatched": {ACTOR: 1, "actor-0000": 2}}, "actor-0000 told the truth and is accused"),
        ({"mismatched": {}}, f"no record of {ACTOR} was found"),
        ({"reached": [3, 4]}, r"lists releases \[3, 4\], their own lineages \[4\]"),
        ({"traced": [3]}, r"record's lineage lists releases \[3\], the quarantine \[4\]"),
    ],
)
def test_every_way_in_which_it_may_fail_is_named(change: dict[str, object], problem: str) -> None:
    found = dataclasses.replace(FOUND, **change)  # type: ignore[arg-type]
    assert len(found.problems) == 1
    assert re.search(problem, found.problems[0])
    assert "PROBLEM: " in table(found)


def test_a_release_at_the_limit_is_named_only_where_the_episodes_show_it() -> None:
    """63 of 1,000 would be shown to be above 5% for one release, but not for one of many."""
    one = [JudgedRelease(1, 1, 0.0, Evaluated(1000, 63, 1.0))]
    many = one + [JudgedRelease(number, 1, 0.0, Evaluated(1000, 0, 1.0)) for number in range(2, 60)]
    assert dataclasses.replace(FOUND, releases=one).above_limit == [1]
    assert dataclasses.replace(FOUND, releases=many).above_limit == []


def test_the_table_says_it_to_a_person() -> None:
    lines = table(FOUND).splitlines()
    assert lines[0].startswith("2 releases before the poisoning, 2 after it")
    assert any(line.split()[:2] == ["release", "4"] and "10.0%" in line for line in lines)
    assert any(line.startswith(f"{ACTOR} (lies)") and line.split()[2:] == ["300", "120", "10", "180"] for line in lines)
    assert lines[-1].startswith(
        "quarantined: 120 records; releases reached: 4; candidates reached and not released: 2;"
    )


def test_what_a_quarantine_reaches_is_releases_and_candidates_held_back() -> None:
    affected = [
        {"version": 5, "artifact_digest": "", "releases": []},
        {"version": 9, "artifact_digest": "aa", "releases": []},
        {"version": 7, "artifact_digest": "bb", "releases": [{"number": 2, "revocation": None}]},
    ]
    assert (_releases_of(affected), _held_back(affected)) == ([2], [9])


def test_the_actor_waits_for_the_middle_of_the_run(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    paths.metrics.parent.mkdir()
    poisoning = Poisoning(paths, 1000, tmp_path / "actor.log")
    poisoning.look(0.0)
    paths.metrics.write_text('{"env_steps": 999}\n')
    poisoning.look(1.0)
    assert poisoning.began_ns == 0
    with paths.metrics.open("a") as file:
        file.write('{"env_steps": 1000}\n')
    with pytest.raises(BenchmarkError, match="does not say where its services listen"):
        poisoning.look(2.0)
    addresses = {"replay": f"unix:{tmp_path}/r", "policy": f"unix:{tmp_path}/p"}
    paths.processes.write_text(json.dumps({"run_id": "r", "addresses": addresses}))
    with paths.metrics.open("a") as file:
        file.write('{"env_steps": 1001}\n')
    log = tmp_path / "actor.log"
    with contextlib.closing(poisoning):
        poisoning.look(3.0)
        assert 0 < poisoning.began_ns <= time.time_ns()
        deadline = time.monotonic() + 30.0
        while not log.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
    # It has no run to join, and says so.
    assert "config.toml" in log.read_text()
