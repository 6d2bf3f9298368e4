"""`temper safety verdicts|audit` over a run that was judged for real."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from pathlib import Path

import pytest

from launch import cli
from launch.run_directory import RunDirectory
from launch.run_paths import RunPaths
from policies.artifact import artifact_digest
from policies.signing import SigningKey, VerifyKey
from safety.docket import Docket
from safety.keys.directory import default_place
from safety.ledger import Ledger, read_ledger
from safety.testing import MADE_UP_RULE, enter_made_up, made_up_assessment
from safety.trials.levels import Schedule
from safety.verdicts import Offer
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
    assert (rejected["outcome"], released["outcome"], released["criteria"][0]["kind"]) == (
        "rejected",
        "approved",
        "safety",
    )


def test_an_audit_and_one_against_its_head(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["safety", "audit", str(paths.root)]) == 0
    what, keys, head = capsys.readouterr().out.splitlines()
    assert "8 entries intact: 2 approved, 0 deferred, 1 rejected, 0 void, 1 revoked" in what
    assert re.fullmatch(r"verdicts by key [0-9a-f]{16}; leases by key [0-9a-f]{16}", keys)
    kept = head.removeprefix("head ")
    assert kept == f"7:{read_ledger(paths.safety)[-1].digest.hex()}"
    assert cli.main(["safety", "audit", str(paths.root), "--head", kept, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["intact"], found["reason"], found["entries"], found["head"]) == (True, "", 8, kept)
    assert [(each["purpose"], each["entry"]) for each in found["keys"]] == [("verdict", 0), ("lease", 0)]


def test_an_audit_tells_what_was_broken_off_and_changed(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    docket = Docket(paths.safety, RUN)
    offer = Offer(RUN, 7, artifact_digest(b"late"), 4)
    docket.begin(offer, MADE_UP_RULE, docket.next_level(Schedule(0.05, "recycle")))
    docket.close()
    assert cli.main(["safety", "audit", str(paths.root)]) == 0
    assert "0 void, 0 evaluations broken off (1 more has no verdict yet), 1 revoked" in capsys.readouterr().out
    docket = Docket(paths.safety, RUN)
    other = dataclasses.replace(MADE_UP_RULE, suite_digest=b"s" * 32)
    enter_made_up(docket, offer, b"late", made_up_assessment(docket), rule=other)
    docket.close()
    assert cli.main(["safety", "audit", str(paths.root)]) == 0
    what, change, *_ = capsys.readouterr().out.splitlines()
    assert "12 entries intact: 3 approved, 0 deferred, 1 rejected, 0 void, 1 evaluations broken off, 1 revoked" in what
    before, after = bytes(32).hex(), (b"s" * 32).hex()
    assert change == f"the suite changed with evaluation 5 (entry 10): {before[:16]} before, {after[:16]} since"
    assert cli.main(["safety", "audit", str(paths.root), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["approved"], found["deferred"], found["rejected"], found["void"]) == (3, 0, 1, 0)
    assert (found["broken_off"], found["under_way"]) == (1, 0)
    assert found["rule_changes"] == [{"entry": 10, "evaluation": 5, "what": "suite", "before": before, "after": after}]


def test_what_was_altered_is_named(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = paths.safety / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b'"approved":false', b'"approved":true'))
    assert cli.main(["safety", "audit", str(paths.root)]) == 1
    assert "NOT INTACT" in capsys.readouterr().out
    assert cli.main(["safety", "audit", str(paths.root), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["intact"], found["entries"], found["keys"], found["head"]) == (False, None, None, None)
    assert "line 5" in found["reason"]
    assert cli.main(["safety", "verdicts", str(paths.root)]) == 2
    assert "line 5" in capsys.readouterr().err


def test_a_rotation_says_what_actors_need(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["safety", "rotate", str(paths.root), "--why", "a disk was sold"]) == 0
    leases, verdicts, _, trust = capsys.readouterr().out.splitlines()
    newest = VerifyKey.load(paths.safety / "verify_key.2.pem")
    assert verdicts == f"verdicts are signed by key {newest.key_id} from here on"
    assert trust == f"  --trust {paths.safety / 'verify_key.2.pem'}"
    assert read_ledger(paths.safety)[-1].fields["why"] == "a disk was sold"
    assert cli.main(["safety", "rotate", str(paths.root), "--why", "x", "--purpose", "lease"]) == 0
    assert capsys.readouterr().out.splitlines()[0] != leases
    assert cli.main(["safety", "audit", str(paths.root)]) == 0
    said = capsys.readouterr().out
    assert f"verdicts by key {newest.key_id}, after 1 before it, since entry 8; leases by key " in said
    # Offline, what follows is signed by the new key, and the registry believes it.
    assert cli.main(["policy", "revoke", str(paths.root), "1", "--why", "poisoned, too"]) == 0
    capsys.readouterr()
    assert cli.main(["policy", "verify", str(paths.root)]) == 0


def test_a_rotation_as_json(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["safety", "rotate", str(paths.root), "--why", "x", "--json"]
    assert cli.main(command) == 0
    found = json.loads(capsys.readouterr().out)
    newest = paths.safety / "verify_key.2.pem"
    assert (found["purpose"], found["trust"]) == ("verdict", str(newest))
    assert found["verdict_key"] == VerifyKey.load(newest).key_id
    assert cli.main([*command, "--purpose", "lease"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["trust"], again["verdict_key"]) == (None, found["verdict_key"])
    assert again["lease_key"] != found["lease_key"]


def test_a_key_file_of_another_run_is_named(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    right, other = VerifyKey.load(paths.verify_key), SigningKey.generate().verify_key
    other.save(paths.verify_key)
    assert cli.main(["safety", "verdicts", str(paths.root)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"the ledger in {paths.safety} begins with key {right.key_id}, the file {paths.verify_key} has key " in line
    assert f"{other.key_id}: one of the two is another run's, or was exchanged; nothing is believed" in line


def test_the_gate_does_not_start_with_keys_that_are_not_apart(
    paths: RunPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--config", str(paths.config), "--listen", f"unix:{tmp_path / 's'}", "--run-id", RUN]
    for directory, keys in ((paths.safety, paths.root / "keys"), (tmp_path / "gate", tmp_path / "gate" / "keys")):
        command = ["safety", "serve", *common, "--directory", str(directory), "--keys", str(keys)]
        assert cli.main(command) == 2
        assert "keys must be apart" in capsys.readouterr().err
        assert not keys.exists()


def test_under_a_running_run_no_key_is_rotated(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    before = len(read_ledger(paths.safety))
    with RunDirectory(paths.root):
        assert cli.main(["safety", "rotate", str(paths.root), "--why", "x"]) == 2
    said = capsys.readouterr().err
    assert f"supervised by process {os.getpid()}, and keys are replaced only while nobody signs" in said
    assert f"stop it (kill {os.getpid()}), rotate, and go on with temper train RECIPE --resume --run-dir" in said
    # As when a safety service was started by hand.
    with contextlib.closing(Ledger(paths.safety)):
        assert cli.main(["safety", "rotate", str(paths.root), "--why", "x"]) == 2
    said = capsys.readouterr().err
    assert "in use by another safety service; stop it first" in said
    assert "stop temper safety serve, rotate, and start it again as before" in said
    assert said.count("\n") == 1
    assert len(read_ledger(paths.safety)) == before


def test_without_its_keys_nothing_is_rotated_or_revoked(
    paths: RunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = default_place(RUN)
    moved = place.rename(tmp_path / "moved")
    monkeypatch.delenv("TEMPER_KEYS")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "empty"))
    for command in (["safety", "rotate"], ["policy", "revoke"]):
        words = [str(paths.root), *(["1"] if command[0] == "policy" else []), "--why", "x"]
        assert cli.main([*command, *words]) == 2
        assert f"key directory {place} is missing, but the ledger of run {RUN} has begun" in capsys.readouterr().err
    assert not (tmp_path / "empty").exists()
    assert cli.main(["safety", "rotate", str(paths.root), "--why", "x", "--keys", str(moved)]) == 0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["rotate", "--why", ""], "why has 0 characters, must have 1 to 1000: nothing was changed"),
        (["rotate", "--why", "x", "--purpose", "all"], "purpose"),
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
