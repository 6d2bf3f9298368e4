"""`temper replay curate` over a directory, over a service, and as records arrive."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from replay.config import ReplayConfig
from replay.offline import OfflineSource
from replay.testing import serving
from tests.launch.made_up_store import fill, temper
from tests.launch.supervision import Eventually


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Records 2 to 11, the return of each of them its position."""
    return fill(tmp_path / "store")


def marks(store: Path) -> dict[int, dict[str, float]]:
    with OfflineSource(store) as source:
        return {record.position: dict(record.marks.signals) for record in source.records()}


def test_rules_are_listed(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = temper(capsys, "replay", "curate", store)
    assert done.status == 0
    names = [line.split()[0] for line in done.lines]
    assert names == sorted(names)
    assert {"duplicate_of", "fidelity", "novelty", "success"} <= set(names)
    assert any("[threshold=NUMBER]" in line for line in done.lines)
    listed = {rule["name"]: rule for rule in map(json.loads, temper(capsys, "replay", "curate", store, "--json").lines)}
    assert listed["fidelity"]["parameters"] == {"log_prob_error_max": 1e-3}
    assert set(marks(store)) == set(range(2, 12))


def test_signals_are_written(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = temper(capsys, "replay", "curate", store, "--rules", "novelty", "--rules", "duplicate_of", "--from", "4")
    assert (done.status, done.err) == (0, "")
    # The two actors sent the same payloads, one after the other.
    assert done.out == ("8 records looked at, signals of 8 written (duplicate_of 4, novelty 8); next: --from 12\n")
    written = marks(store)
    assert written[2] == {}
    assert written[5]["duplicate_of"] == 4.0
    assert 0 < written[5]["novelty"] < written[4]["novelty"] == 1.0


def test_a_dry_run_with_a_filter_as_json(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--rules", "novelty:bits=8", "--filter", "policy_version > 8", "--dry-run", "--json", "--limit", "2")
    done = temper(capsys, "replay", "curate", store, *words)
    assert json.loads(done.out) == {
        "records": 2,
        "annotated": 2,
        "signals": {"novelty": 2},
        "failures": {},
        "next_position": 11,
        "dry_run": True,
    }
    assert not any(marks(store).values())


_MODULE = """
from replay.curation.rules import rule

@rule("launch-test-even", signals=("even",))
def even(record, context):
    if record.position == 7:
        raise RuntimeError("seven")
    return {"even": 1.0 - record.position % 2}
"""


def test_a_rule_of_ones_own_that_fails_once(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "launch_test_rules.py").write_text(_MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ("--module", "launch_test_rules", "--rules", "launch-test-even")
    done = temper(capsys, "replay", "curate", store, *words)
    assert done.status == 1
    assert done.err == "temper: rule launch-test-even failed 1 times, first at position 7: RuntimeError: seven\n"
    written = marks(store)
    assert (written[6], written[7], written[9]) == ({"even": 1.0}, {}, {"even": 0.0})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--rules", "newness"), "unknown rule 'newness'; known are "),
        (("--rules", "novelty:bits=many"), "bits = 'many' is not a finite number"),
        (("--module", "no_such_module", "--rules", "novelty"), "module 'no_such_module' with rules cannot be imported"),
        (("--rules", "novelty", "--filter", "lane =="), "filter"),
        (("--rules", "novelty", "--follow"), "--follow needs one running service"),
        (("--rules", "novelty", "--follow", "--limit", "3"), "--follow goes neither with"),
    ],
)
def test_bad_input(store: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str) -> None:
    done = temper(capsys, "replay", "curate", store, *words)
    assert done.status == 2
    assert said in done.err
    assert done.err.count("\n") == 1


def test_over_a_service(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(ReplayConfig(), store) as address:
        assert temper(capsys, "replay", "curate", address, "--rules", "duplicate_of").status == 0
        again = temper(capsys, "replay", "curate", address, "--rules", "duplicate_of")
    assert "signals of 0 written" in again.out
    assert sum("duplicate_of" in signals for signals in marks(store).values()) == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_following_ends_in_order(store: Path, tmp_path: Path, eventually: Eventually, number: signal.Signals) -> None:
    with serving(ReplayConfig(), store) as address, (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "launch.cli",
                "replay",
                "curate",
                address,
                "--rules",
                "novelty",
                "--follow",
                "--json",
            ],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            eventually(lambda: (tmp_path / "out").read_text().endswith("\n"))
            process.send_signal(number)
            assert process.wait(20.0) == 0
        finally:
            process.kill()
            process.wait()
    (line,) = (tmp_path / "out").read_text().splitlines()
    assert json.loads(line)["annotated"] == 10
