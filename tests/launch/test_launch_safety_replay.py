"""`temper safety replay`: an episode of a real evaluation, run again in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.config import EnvironmentConfig
from actors.environments.catalog import make_vector
from launch import cli, episode_rerun
from launch.commands.safety_replay import _step_lines, _steps_json
from launch.errors import LaunchError
from launch.run_paths import RunPaths
from launch.verdict_choice import choose_verdict
from policies.artifact import artifact_digest
from policies.config import NetworkConfig
from policies.inference import make_policy
from policies.spec import PolicySpec
from policies.testing import make_artifact
from safety.config import SafetyConfig
from safety.evaluation.episode_replay import replay_episode
from safety.evaluation.frames import Frame
from safety.evidence.file import Evidence, evidence_path
from safety.suites.spec import SliceSpec
from tests.actors.spaces_environment import STEERED, SWITCHED
from tests.launch import made_up_evidence
from tests.launch.made_up_evidence import LANES, artifact_of

COUNT = 40
CANDIDATE, INCUMBENT = 5, 6


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunPaths, Evidence]]:
    """A run with two verdicts on one evaluation: the second's evidence was changed before it was signed."""
    root = tmp_path_factory.mktemp("run") / "run"
    gate, evidence = made_up_evidence.begin_really(root, (CANDIDATE, INCUMBENT), COUNT)
    gate.enter(evidence)
    held_out, noisy = evidence.slices
    returns = (*held_out.candidate.returns[:3], held_out.candidate.returns[3] + 1.0, *held_out.candidate.returns[4:])
    changed = dataclasses.replace(held_out, candidate=held_out.candidate._replace(returns=returns))
    gate.enter(dataclasses.replace(evidence, slices=(changed, noisy), seed_key=gate.seed_key, lifetime_index=2))
    gate.close()
    yield gate.paths, evidence


def replayed(
    judged: tuple[RunPaths, Evidence], capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0
) -> str:
    assert cli.main(["safety", "replay", *arguments, "--run-dir", str(judged[0].root)]) == status
    return capsys.readouterr().out


def replayed_json(
    judged: tuple[RunPaths, Evidence], capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0
) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(replayed(judged, capsys, *arguments, "--json", status=status))
    return found


# In the first chunk, in the last and shorter one; with and without perturbations.
@pytest.mark.parametrize("place", [("held-out", 0), ("noisy", LANES + 3), ("noisy", COUNT - 1)])
def test_an_episode_comes_out_the_same(
    place: tuple[str, int], judged: tuple[RunPaths, Evidence], capsys: pytest.CaptureFixture[str]
) -> None:
    name, index = place
    found = replayed_json(judged, capsys, "01", f"{name}:{index}", "--steps")
    part = next(each for each in judged[1].slices if each.name == name)
    assert found["identical"] is True
    assert found["again"] == found["recorded"]
    assert found["recorded"]["return"] == part.candidate.returns[index]
    assert found["seed"] == part.seeds[index]
    assert found["artifact_digest"] == artifact_digest(artifact_of(CANDIDATE)).hex()
    steps = found["steps"]
    assert len(steps) == part.candidate.lengths[index]
    assert sum(step["cost"] for step in steps) == part.candidate.costs[index]
    assert sum(step["severity"] == "major" for step in steps) == part.candidate.events[index][1]
    assert {step["action"] for step in steps} <= {0, 1}


def test_the_incumbent_on_the_same_seed(judged: tuple[RunPaths, Evidence], capsys: pytest.CaptureFixture[str]) -> None:
    (incumbent,) = (each.incumbent for each in judged[1].slices[:1])
    assert incumbent is not None
    found = replayed_json(judged, capsys, "01", "held-out:7", "--incumbent")
    assert (found["who"], found["identical"]) == ("incumbent", True)
    assert found["again"]["return"] == incumbent.returns[7]
    assert found["artifact_digest"] == artifact_digest(artifact_of(INCUMBENT)).hex()
    assert "steps" not in found


def test_for_people_with_the_steps_around_each_event(
    judged: tuple[RunPaths, Evidence], capsys: pytest.CaptureFixture[str]
) -> None:
    events = judged[1].slices[0].candidate.events
    index = next(index for index, each in enumerate(events) if each[1])
    lines = replayed(judged, capsys, "01", f"held-out:{index}", "--steps").splitlines()
    assert lines[0].startswith(f"episode     held-out:{index} of the candidate, seed ")
    assert lines[2].startswith("identical   return ")
    assert lines[3].split() == ["step", "action", "reward", "cost", "event"]
    assert sum(line.endswith("  major") for line in lines) == events[index][1]


def test_an_episode_that_comes_out_otherwise(
    judged: tuple[RunPaths, Evidence], capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = judged[1].slices[0].candidate.returns[3]
    text = replayed(judged, capsys, "02", "held-out:3", status=1)
    assert "DIFFERENT" in text
    assert f"evidence    return {recorded + 1.0!r}," in text
    assert f"again       return {recorded!r}," in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["01", "held-out"], "'held-out' is not SLICE:INDEX"),
        (["01", "elsewhere:0"], "the evidence has no slice 'elsewhere'; slices there are: held-out, noisy"),
        (["01", f"noisy:{COUNT}"], f"no episode {COUNT} of slice noisy; episodes there are: 0 to {COUNT - 1}"),
        (["03", "noisy:0"], "no verdict in"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, judged: tuple[RunPaths, Evidence], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["safety", "replay", *arguments, "--run-dir", str(judged[0].root)]) == 2
    shown = capsys.readouterr()
    assert message in shown.err and len(shown.err.splitlines()) == 1 and not shown.out


def test_an_artifact_that_is_not_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = made_up_evidence.begin(tmp_path / "run")
    command = ["safety", "replay", "02", "held-out:0", "--run-dir", str(paths.root)]
    assert cli.main(command) == 2
    assert "is not kept in" in capsys.readouterr().err
    digest = artifact_digest(artifact_of(200))
    (paths.safety / "candidates").mkdir()
    (paths.safety / "candidates" / digest.hex()).write_bytes(artifact_of(200)[:-1])
    assert cli.main(command) == 2
    assert "has another digest: it was damaged" in capsys.readouterr().err
    # Whole again, it is run; but that evidence was made up.
    (paths.safety / "candidates" / digest.hex()).write_bytes(artifact_of(200))
    assert cli.main(command) == 1
    assert "DIFFERENT" in capsys.readouterr().out


def test_evidence_that_is_gone_or_was_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = made_up_evidence.begin(tmp_path / "run", alter=lambda statement: statement.ClearField("evidence_digest"))
    for path in (paths.safety / "evidence").iterdir():
        path.unlink()
    assert cli.main(["safety", "replay", "02", "held-out:0", "--run-dir", str(paths.root)]) == 2
    assert "the evidence of verdict 02ab02ab is gone" in capsys.readouterr().err
    assert cli.main(["safety", "replay", "03", "held-out:0", "--run-dir", str(paths.root)]) == 2
    assert "verdict 03ab03ab rests on no episodes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os._exit(9)", "its process exited with status 9"),
        ("import os; os.kill(os.getpid(), 11)", "its process was killed by SIGSEGV"),
        ("import time; time.sleep(600)", "it took longer than 2 s"),
        ("x = bytearray(8 * 1024**3)", "memory"),
        ("raise ValueError('broken\\x1b')", "broken"),
    ],
)
def test_an_environment_that_fails_is_told(
    code: str,
    message: str,
    judged: tuple[RunPaths, Evidence],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = f"fails_{zlib.crc32(code.encode())}"
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    if "sleep" in code:
        monkeypatch.setattr(episode_rerun, "RUN_S_MAX", 2.0)
    part = judged[1].slices[0]
    broken = dataclasses.replace(part, environment=dataclasses.replace(part.environment, name=f"gym:{module}:Any-v0"))
    with pytest.raises(LaunchError, match=f"held-out:0 could not be run again: .*{message}") as raised:
        episode_rerun.run_again(judged[1], broken, 0, artifact_of(CANDIDATE), SafetyConfig())
    assert str(raised.value).isprintable()


def test_damaged_evidence_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = made_up_evidence.begin(tmp_path / "run")
    path = evidence_path(paths.safety, choose_verdict(paths.root, "02").statement.evidence_digest)
    path.write_bytes(path.read_bytes()[:-1])
    assert cli.main(["safety", "replay", "02", "held-out:0", "--run-dir", str(paths.root)]) == 1
    assert "its digest differs" in capsys.readouterr().err


@pytest.mark.parametrize("config", [STEERED, SWITCHED], ids=["real numbers", "several choices"])
def test_an_episode_of_a_recurrent_policy_and_of_other_spaces(
    config: EnvironmentConfig, judged: tuple[RunPaths, Evidence]
) -> None:
    """In a process of its own as in this one, step by step; and what is shown of its actions."""
    interface = make_vector(config, 1).spec
    network = NetworkConfig(hidden_sizes=(7,), core="lstm", core_size=5)
    artifact = make_artifact(PolicySpec(network, interface.observation, interface.action), 4)
    evidence = judged[1]
    part = dataclasses.replace(evidence.slices[0], environment=config)
    found = episode_rerun.run_again(evidence, part, 3, artifact.to_bytes(), SafetyConfig())
    expected = replay_episode(
        make_policy(artifact, "numpy"),
        make_vector,
        SliceSpec(part.name, part.environment, part.perturbations, part.limits),
        lanes=evidence.lanes,
        index=3,
        seed=part.seeds[3],
        action_selection=evidence.action_selection,
        severity=evidence.severity,
    )
    assert found.actions.dtype == expected.actions.dtype == interface.action.dtype
    for name in ("actions", "rewards", "costs", "severities"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert (found.figures.returns, found.figures.length) == (expected.outcome.returns[0], len(expected.actions))
    assert [step["action"] for step in _steps_json(found)] == expected.actions.tolist()
    severities = np.zeros_like(found.severities)
    severities[0] = 1
    heading, first, *_ = _step_lines(found._replace(severities=severities))
    assert first.index("[") < heading.index("action") + len("action") == first.index("]") + 1


@pytest.mark.parametrize(
    ("kind", "shape", "numbers"),
    [("<f8", [], 2), ("<i4", [2, 2], 8), ("<i4", [0], 0), ("<i4", [10**9], 2), ("<f4", [2], 3), ("<f4", None, 2)],
)
def test_a_process_that_writes_no_actions_is_not_believed(kind: str, shape: Any, numbers: int) -> None:
    header = {
        "kind": "trace", "steps": 2, "action": {"type": kind, "shape": shape}, "terminated": True,
        "return": 0.0, "cost": 0.0, "length": 2, "events": [0, 0, 0],
    }  # fmt: skip
    good = Frame(header | {"action": {"type": "<f4", "shape": [2]}}, bytes(4 * 4 + 2 * (4 + 4 + 8)))
    assert episode_rerun._rerun(good, "held-out:0").actions.shape == (2, 2)
    with pytest.raises(LaunchError, match="its process wrote no episode"):
        episode_rerun._rerun(Frame(header, bytes(4 * numbers + 2 * (4 + 4 + 8))), "held-out:0")
