"""`temper replay curate` over a directory, over a service, and as records arrive."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
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


@contextlib.contextmanager
def following(out: Path, *words: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """`temper replay curate WORDS --follow --json`, its output in a file."""
    with out.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "launch.cli", "replay", "curate", *words, "--follow", "--json"],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_following_ends_in_order(store: Path, tmp_path: Path, eventually: Eventually, number: signal.Signals) -> None:
    out = tmp_path / "out"
    with serving(ReplayConfig(), store) as address, following(out, address, "--rules", "novelty") as process:
        eventually(lambda: out.read_text().endswith("\n"))
        process.send_signal(number)
        assert process.wait(20.0) == 0
    (line,) = out.read_text().splitlines()
    assert json.loads(line)["annotated"] == 10


_STANDS_STILL = """
import sys, time
from replay.curation.rules import rule

@rule("launch-test-still", signals=("still",))
def still(record, context):
    if record.position == 7:
        print("it stands still", file=sys.stderr, flush=True)
        time.sleep(600)
    return {"still": 1.0}
"""


def test_following_ends_though_a_rule_does_not_come_back(store: Path, tmp_path: Path, eventually: Eventually) -> None:
    (tmp_path / "launch_test_still.py").write_text(_STANDS_STILL)
    out, words = tmp_path / "out", ("--module", "launch_test_still", "--rules", "launch-test-still")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    with serving(ReplayConfig(), store) as address, following(out, address, *words, PYTHONPATH=path) as process:
        eventually(lambda: "it stands still" in out.read_text())
        process.send_signal(signal.SIGTERM)
        assert process.wait(10.0) == 1
    assert out.read_text().splitlines()[-1] == "temper: left in the middle; written is what is below 0"


def test_what_is_for_verification_to_write_is_refused(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "launch_test_liar.py").write_text(_MODULE.replace('("even",)', '("verified",)'))
    monkeypatch.syspath_prepend(str(tmp_path))
    done = temper(capsys, "replay", "curate", store, "--module", "launch_test_liar", "--rules", "launch-test-even")
    assert done.status == 2
    assert "signal 'verified' is for verification to write, not for rule 'launch-test-even'" in done.err
