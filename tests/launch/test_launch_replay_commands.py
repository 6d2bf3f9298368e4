"""`temper replay stats|list|show|tables` over a directory, and bad input to each."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from launch import replay_target
from tests.launch import made_up_run
from tests.launch.made_up_store import EVICTED, RECORDS, fill, temper


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that no test writes to."""
    return fill(tmp_path_factory.mktemp("store") / "store")


def test_stats(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = temper(capsys, "replay", "stats", store)
    assert done.status == 0
    assert "10 with" in done.lines[0]
    assert "12 records with 24 steps appended, 2 evicted" in done.lines[1]
    assert "inserts waited  samples waited" in done.out
    assert done.lines[-1].split()[:5] == ["fresh", "fresh", "6", "12", "6"]


def test_stats_as_json(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = temper(capsys, "replay", "stats", store, "--json")
    (line,) = done.lines
    stats = json.loads(line)
    assert (stats["records"], stats["appended_records"], stats["evicted_records"]) == (10, 12, 2)
    assert len(stats["chain_head"]) == 64
    assert stats["file_per_live"] > 0
    assert stats["tables"][0]["samples"] == 6


def test_stats_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(made_up_run.begin(tmp_path / "run").replay)
    assert json.loads(temper(capsys, "replay", "stats", tmp_path / "run", "--json").out)["records"] == 10


def test_list(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = temper(capsys, "replay", "list", store)
    assert done.status == 0
    assert done.lines[0].split()[:2] == ["position", "ended"]
    assert [int(line.split()[0]) for line in done.lines[1:]] == list(range(EVICTED, RECORDS))


def test_list_says_where_to_go_on(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = temper(capsys, "replay", "list", store, "--filter", "actor_id == 'actor-1'", "--from", "4", "--limit", "2")
    assert [line.split()[0] for line in done.lines[1:3]] == ["5", "7"]
    assert done.lines[3:] == ["next: --from 9"]
    last = temper(capsys, "replay", "list", store, "--filter", "actor_id == 'actor-1'", "--from", "9", "--limit", "2")
    assert [line.split()[0] for line in last.lines[1:]] == ["9", "11"]


def test_list_as_json(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = temper(capsys, "replay", "list", store, "--json", "--limit", "3")
    records = [json.loads(line) for line in done.lines]
    assert [record["position"] for record in records] == [2, 3, 4]
    assert [record["signals"]["return"] for record in records] == [2.0, 3.0, 4.0]
    assert done.err == "next: --from 5\n"


def test_list_of_chosen_columns(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ("--columns", "position,signals.return", "--columns", "policy_version", "--limit", "1")
    assert [line.split() for line in temper(capsys, "replay", "list", store, *wanted).lines[:2]] == [
        ["position", "signals.return", "policy_version"],
        ["2", "2", "2"],
    ]
    read = json.loads(temper(capsys, "replay", "list", store, *wanted, "--json").out)
    assert read == {"position": 2, "signals.return": 2.0, "policy_version": 2}


def test_the_columns_of_the_help_are_columns(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        temper(capsys, "replay", "list", "--help")
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    example = re.search(r"e\.g\. (position,[a-z_.,]+)\.", said)
    assert example is not None, said
    assert temper(capsys, "replay", "list", store, "--columns", example[1], "--limit", "1").status == 0


def test_nothing_passes(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = temper(capsys, "replay", "list", store, "--filter", "signals.none > 0")
    assert (done.status, len(done.lines)) == (0, 1)


def test_show(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = temper(capsys, "replay", "show", store, "7", "--steps", "9")
    assert done.status == 0
    assert "record       7, 2 steps" in done.out
    assert "actor        actor-1" in done.out
    assert [line.split()[:2] for line in done.lines if line.startswith(("observation", "reward"))] == [
        ["observation", "<f4"],
        ["reward", "<f4"],
    ]
    assert done.lines[-3].split()[:2] == ["step", "observation"]
    assert [line.split()[0] for line in done.lines[-2:]] == ["0", "1"]


def test_show_as_json(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = json.loads(temper(capsys, "replay", "show", store, "7", "--steps", "1", "--json").out)
    assert (shown["position"], shown["payload_bytes"]) == (7, 3 * 4 * 4 + 2 * 9)
    assert [column["name"] for column in shown["columns"]] == ["observation", "action", "reward", "mask"]
    assert shown["columns"][2] == {
        "name": "reward", "dtype": "<f4", "shape": [2], "min": 1.0, "max": 1.0, "mean": 1.0, "nan": 0,
    }  # fmt: skip
    assert len(shown["first_steps"]) == 1
    assert len(shown["first_steps"][0]["observation"]) == 4


def test_tables(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = temper(capsys, "replay", "tables", store)
    assert done.lines == ["fresh fresh: 6 records from position 6"]
    assert json.loads(temper(capsys, "replay", "tables", store, "--json").out)["spec"]["error_buffer"] == 128


def test_an_empty_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = fill(tmp_path / "store", records=0, evicted=0)
    assert temper(capsys, "replay", "stats", store).status == 0
    assert len(temper(capsys, "replay", "list", store).lines) == 1
    assert "nor any other" in temper(capsys, "replay", "show", store, "0").err


BAD_INPUT = {
    "stats of nothing": (("stats", "nothing"), "'nothing' is no directory here, and no address"),
    "stats of another directory": (("stats", "{parent}"), "neither a run directory"),
    "stats of nobody": (("stats", "unix:{parent}/none"), "nobody answers at unix:"),
    "negative limit": (("list", "{store}", "--limit", "-1"), "--limit -1 must be 0 to"),
    "negative start": (("list", "{store}", "--from", "-5"), "--from -5 must be 0 to"),
    "bad filter": (("list", "{store}", "--filter", "lane == 0 and sped > 1"), "'sped' at column 15"),
    "filter that is no expression": (("list", "{store}", "--filter", "lane ="), "column"),
    "unknown column": (("list", "{store}", "--columns", "position,sped"), "there is no field 'sped'"),
    "unknown record": (("show", "{store}", "12"), "there is no record 12 in {store}: there are 2 to 11"),
    "evicted record": (("show", "{store}", "1"), "record 1 in {store} was evicted: the oldest that is left is 2"),
    "negative record": (("show", "{store}", "-3"), "record -3 cannot be"),
    "record beyond all": (("show", "{store}", str(2**70)), "cannot be"),
    "negative steps": (("show", "{store}", "3", "--steps", "-1"), "--steps -1 is negative"),
    "table of nobody": (("tables", "{store}", "uniform more"), "nobody serves {store}"),
    "table of no kind": (("tables", "{store}", "sorted more"), "kinds are fresh, uniform"),
    "head that is none": (("audit", "{store}", "--head", "12"), "--head '12' is not POSITION:HEX"),
}


@pytest.mark.parametrize("case", BAD_INPUT, ids=lambda case: case.replace(" ", "-"))
def test_bad_input_is_one_line_and_status_two(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(replay_target, "CONNECT_S_MAX", 1.0)
    words, said = BAD_INPUT[case]
    names = {"store": store, "parent": store.parent.parent}
    done = temper(capsys, "replay", *(word.format(**names) for word in words))
    assert done.status == 2, done.err
    assert len(done.err.splitlines()) == 1, done.err
    assert said.format(**names) in done.err
    assert done.out == ""


def test_a_reader_that_has_seen_enough(store: Path) -> None:
    """`temper replay list | head -1` ends quietly."""
    command = [sys.executable, "-m", "launch.cli", "replay", "list", str(store), "--limit", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).resolve().parents[2]
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141
