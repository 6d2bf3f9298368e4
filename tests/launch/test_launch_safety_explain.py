"""`temper safety explain`: what it prints, where, and with which exit status."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from launch import cli
from launch.run_paths import RunPaths
from launch.verdict_choice import choose_verdict
from launch.verdict_plot import COLUMNS_MAX, UNICODE
from protos.safety.v1 import safety_pb2
from safety.evidence.file import evidence_path
from tests.launch import made_up_evidence


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """Three verdicts: an approval, a rejection, a deferral."""
    return made_up_evidence.begin(tmp_path_factory.mktemp("run") / "run")


def explained(paths: RunPaths, capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert cli.main(["safety", "explain", *arguments, "--run-dir", str(paths.root)]) == status
    return capsys.readouterr().out


def explained_json(paths: RunPaths, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(explained(paths, capsys, *arguments, "--json"))
    return found


def as_one_line(text: str) -> str:
    return " ".join(text.split())


def test_a_rejection(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    text = explained(paths, capsys, "02")
    statement = choose_verdict(paths.root, "02").statement
    assert "outcome      REJECTED\n" in text
    assert f"candidate    run {made_up_evidence.RUN}, update 200\n" in text
    assert re.search(rf"incumbent    {statement.incumbent_digest.hex()}, release 1\n", text)
    assert "as candidate 2 of the run that was tested" in text
    assert f"signed       by key {choose_verdict(paths.root, '02').signed.key_id}\n" in text
    flat = as_one_line(text)
    assert "slice noisy: cartpole, at most 60 steps, action_noise 0.1" in flat
    for result in statement.criteria:
        assert as_one_line(result.explanation) in flat
        assert f"{result.name} on {result.slice} (" in flat
        assert all(name in text for name in result.figures)
    assert "flagged 120 of 120 planted violations" in flat
    # What failed stands before what passed.
    states = re.findall(r"^(passed|FAILED|VOID) ", text, re.MULTILINE)
    assert states == sorted(states) and {"FAILED", "passed"} == set(states)
    assert re.search(r"^    temper safety replay 02ab02ab held-out:\d+ --run-dir ", text, re.MULTILINE)


def test_an_approval_and_what_became_of_it(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    text = explained(paths, capsys, "release:1")
    assert "outcome      APPROVED as release 1\n" in text
    assert "incumbent    none\n" in text
    assert "because" not in text and "FAILED" not in text
    assert "on held-out, closest calls:" in text
    assert "REVOKED" not in text


def test_a_deferral(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert "outcome      DEFERRED, 1 in a row\n" in explained(paths, capsys, "newest")


def test_lines_are_narrow_but_for_what_is_to_be_copied(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    for wanted in ("01", "02", "03"):
        for line in explained(paths, capsys, wanted).splitlines():
            to_copy = line.startswith("    temper safety replay ") or re.match(r"\w+ +[0-9a-f]{64}", line)
            assert to_copy or len(line) <= COLUMNS_MAX, line


def test_the_plots_show_the_evidence_of_the_verdict(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    text = explained(paths, capsys, "release:1")
    found = re.findall(r"evidence for the candidate: e-value (\S+) in the end; (\S+) promotes", text)
    assert len(found) == 2
    assert all(float(reached) >= float(needed) for reached, needed in found)
    plots = re.findall(r"promotes\n(.*)\n", text)
    assert all(line.endswith(UNICODE.levels[-1]) for line in plots)
    rejected = re.findall(
        r"evidence against the candidate: e-value (\S+) in the end; 10 rejects", explained(paths, capsys, "02")
    )
    assert rejected and max(map(float, rejected)) >= 10.0


def test_a_stream_without_unicode_gets_ascii(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    assert cli.main(["safety", "explain", "02", "--run-dir", str(paths.root)]) == 0
    stream.seek(0)
    text = stream.read()
    assert "o estimate  ] lower bound  X limit" in text
    assert "10 +---" in text


def test_json(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    found = explained_json(paths, capsys, "02")
    assert (found["version"], found["approved"], found["evidence"], found["problems"]) == (200, False, "there", [])
    assert (found["incumbent_release"], found["revoked"]) == (1, None)
    assert found["environments"][1]["perturbations"] == [{"kind": "action_noise", "amount": 0.1}]
    results = {(each["name"], each["slice"]): each for each in found["criteria"]}
    assert len(found["tests"]) == 4
    for test in found["tests"]:
        result = results[test["name"], test["slice"]]
        assert len(test["log_evidence_for"]) == result["episodes"] + 1
        assert test["log_evidence_for"][-1] == pytest.approx(result["figures"]["log_evidence_for"])
        assert (test["alpha"], test["beta"]) == (result["limit"], 0.1)
    group = found["deciding"][0]
    episode = group["episodes"][0]
    assert episode["replay"].split()[:5] == ["temper", "safety", "replay", "02ab02ab", f"held-out:{episode['index']}"]
    assert episode["events"][2] == 1
    assert group["total"] >= len(group["episodes"])
    assert (found["outcome"], {each["kind"] for each in found["criteria"]}) == ("rejected", {"safety"})


def test_a_verdict_whose_evidence_is_gone_says_what_it_can(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = made_up_evidence.begin(tmp_path / "run")
    evidence_path(paths.safety, choose_verdict(paths.root, "02").statement.evidence_digest).unlink()
    text = explained(paths, capsys, "02")
    assert "evidence     gone, this is what the verdict itself says:" in text
    assert "sequential_violation_rate on held-out" in text and "slice noisy\n" in text
    assert "temper safety replay" not in text and "e-value" not in text
    found = explained_json(paths, capsys, "02")
    assert (found["evidence"], found["tests"], found["deciding"]) == ("gone", [], [])
    assert "is not there" in found["evidence_note"]


def test_damaged_evidence_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = made_up_evidence.begin(tmp_path / "run")
    path = evidence_path(paths.safety, choose_verdict(paths.root, "02").statement.evidence_digest)
    path.write_bytes(path.read_bytes() + b" ")
    assert cli.main(["safety", "explain", "02", "--run-dir", str(paths.root)]) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and "its digest differs" in shown.err and len(shown.err.splitlines()) == 1


def test_a_verdict_that_does_not_follow_from_its_evidence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def better(statement: safety_pb2.VerdictStatement) -> None:
        (result,) = (
            each for each in statement.criteria if (each.name[:12], each.slice) == ("sequential_v", "held-out")
        )
        result.statistic /= 2

    paths = made_up_evidence.begin(tmp_path / "run", alter=better)
    assert cli.main(["safety", "explain", "newest", "--run-dir", str(paths.root)]) == 1
    shown = capsys.readouterr()
    assert "DIFFERS" in shown.out and "the episodes give p = " in as_one_line(shown.out)
    assert "temper: verdict 03ab03ab differs from its evidence: " in shown.err


def test_what_a_candidate_wrote_cannot_move_the_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def nasty(statement: safety_pb2.VerdictStatement) -> None:
        statement.alarms.append("look\x1b[2J")

    text = explained(made_up_evidence.begin(tmp_path / "run", alter=nasty), capsys, "newest")
    assert "ALARM        look\\x1b[2J\n" in text


def test_a_candidate_that_could_not_be_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def crashed(statement: safety_pb2.VerdictStatement) -> None:
        for name in ("criteria", "slices", "detector", "evidence_digest", "lifetime_index", "error_level"):
            statement.ClearField(name)
        statement.episodes = statement.deferred_in_a_row = 0
        statement.outcome = safety_pb2.OUTCOME_REJECTED
        statement.reason = "parameters are not finite"

    text = explained(made_up_evidence.begin(tmp_path / "run", alter=crashed), capsys, "newest")
    assert "because      parameters are not finite\n" in text
    assert "evidence     none: it rests on no episode\n" in text
    assert "error level  none: it was not tested\n" in text


def test_bad_input(paths: RunPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["safety", "explain", "ff", "--run-dir", str(paths.root)]) == 2
    assert "no verdict in" in capsys.readouterr().err
    assert cli.main(["safety", "explain", "newest", "--run-dir", str(tmp_path)]) == 2
    assert "is not a run directory" in capsys.readouterr().err
    assert cli.main(["safety", "explain", "newest"]) == 2
    assert "--run-dir" in capsys.readouterr().err
