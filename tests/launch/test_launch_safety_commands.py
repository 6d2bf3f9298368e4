"""`temper safety verdicts|audit` over a run that was judged for real."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch import cli
from launch.run_paths import RunPaths
from safety.docket import Docket
from safety.ledger import read_ledger
from tests.launch import lineage_run
from tests.safety.safety_process import RUN


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    """A run whose second release was revoked."""
    paths = lineage_run.begin(tmp_path / "run")
    docket = Docket(paths.safety, RUN)
    docket.revoke(RUN, 2, "poisoned")
    docket.close()
    return paths


def test_verdicts(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["safety", "verdicts", str(paths.root)]) == 0
    head, first, second, third = capsys.readouterr().out.splitlines()
    assert head.split() == ["verdict", "update", "decided", "return", "violations", "outcome"]
    assert first.endswith("  release 1")
    assert second.endswith("  rejected: sequential_violation_rate on held-out: too risky")
    assert third.endswith("  release 2, REVOKED since")
    assert [line.split()[1] for line in (first, second, third)] == ["4", "5", "6"]


def test_the_newest_verdicts_as_json(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["safety", "verdicts", str(paths.root), "--limit", "2", "--json"]) == 0
    rejected, released = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (rejected["version"], rejected["approved"], rejected["revoked"]) == (5, False, False)
    assert (released["release_number"], released["revoked"]) == (2, True)
    assert len(released["seed_key"]) == len(released["next_seed_commitment"]) == 64
    assert released["criteria"][0]["name"] == "sequential_violation_rate"


def test_an_audit_and_one_against_its_head(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["safety", "audit", str(paths.root)]) == 0
    what, head = capsys.readouterr().out.splitlines()
    assert "5 entries intact: 2 approved, 1 rejected, 1 revoked" in what
    kept = head.removeprefix("head ")
    assert kept == f"4:{read_ledger(paths.safety)[-1].digest.hex()}"
    assert cli.main(["safety", "audit", str(paths.root), "--head", kept, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["intact"], found["reason"], found["entries"], found["head"]) == (True, "", 5, kept)


def test_what_was_altered_is_named(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = paths.safety / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b'"approved":false', b'"approved":true'))
    assert cli.main(["safety", "audit", str(paths.root)]) == 1
    assert "NOT INTACT" in capsys.readouterr().out
    assert cli.main(["safety", "audit", str(paths.root), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["intact"], found["entries"], found["head"]) == (False, None, None)
    assert "line 3" in found["reason"]
    assert cli.main(["safety", "verdicts", str(paths.root)]) == 2
    assert "line 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["audit", "--head", "4:abc"], "--head '4:abc' is not INDEX:HEX with 64 hexadecimal digits"),
        (["verdicts", "--limit", "-1"], "--limit is -1, must be at least 0"),
    ],
)
def test_bad_input_is_one_line(
    command: list[str], message: str, paths: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *options = command
    assert cli.main(["safety", name, str(paths.root), *options]) == 2
    assert message in capsys.readouterr().err


def test_a_run_that_was_never_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = lineage_run.begin(tmp_path / "run")
    paths.verify_key.unlink()
    assert cli.main(["safety", "verdicts", str(paths.root)]) == 2
    assert "nothing can be verified" in capsys.readouterr().err
    assert cli.main(["safety", "audit", str(tmp_path)]) == 2
    assert "is not a run directory" in capsys.readouterr().err
