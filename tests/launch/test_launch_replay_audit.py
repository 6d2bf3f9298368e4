"""`temper replay audit`: what an audit finds in files that somebody altered, and what a kept head adds to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch.run_paths import RunPaths
from replay.config import ReplayConfig
from replay.offline import OfflineSource
from replay.testing import serving
from tests.launch import made_up_run
from tests.launch.made_up_store import EVICTED, RECORDS, Ended, fill, temper


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return fill(tmp_path / "store")


def alter(store: Path, original: bytes) -> None:
    """Flips the last bit of these bytes, wherever the store's files hold them."""
    altered = original[:-1] + bytes([original[-1] ^ 1])
    found = 0
    for file in sorted(store.rglob("*.mdb")):
        content = file.read_bytes()
        if original in content and "lock" not in file.name:
            file.write_bytes(content.replace(original, altered))
            found += 1
    assert found, "the store does not hold these bytes as they are"


def contents(store: Path, position: int) -> tuple[bytes, bytes]:
    """A record's header and payload as they are stored."""
    with OfflineSource(store) as source:
        (record,) = source.view.read([position])
        return record.header_bytes, bytes(record.payload)


def head_of(done: Ended) -> str:
    return done.lines[-1].removeprefix("head ")


def test_an_intact_store(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = temper(capsys, "replay", "audit", store)
    assert (done.status, done.err) == (0, "")
    assert done.lines[0] == f"{store}: 10 records intact (2 to 11)"
    position, _, digest = head_of(done).partition(":")
    assert (position, len(digest)) == ("11", 64)


def test_json(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(temper(capsys, "replay", "audit", store, "--json").out)
    assert found == {
        "directory": str(store), "records": 10, "first_position": EVICTED, "next_position": RECORDS,
        "head": head_of(temper(capsys, "replay", "audit", store)), "intact": True, "altered_position": None,
        "reason": "",
    }  # fmt: skip


@pytest.mark.parametrize("part", [0, 1], ids=["header", "payload"])
def test_the_first_altered_record_is_named(store: Path, capsys: pytest.CaptureFixture[str], part: int) -> None:
    for position in (9, 6):
        alter(store, contents(store, position)[part])
    done = temper(capsys, "replay", "audit", store)
    assert done.status == 1
    assert "NOT INTACT: the first altered record is 6:" in done.out
    found = json.loads(temper(capsys, "replay", "audit", store, "--json").out)
    assert (found["intact"], found["altered_position"], found["head"]) == (False, 6, None)


def test_a_kept_head_is_found_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Records that were appended or evicted since do not matter."""
    kept = head_of(temper(capsys, "replay", "audit", fill(tmp_path / "then", records=8, evicted=0)))
    done = temper(capsys, "replay", "audit", fill(tmp_path / "now"), "--head", kept)
    assert done.status == 0, done.out


def test_a_log_that_was_rewritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every link is right, and every digest: only who kept a head sees it."""
    kept = head_of(temper(capsys, "replay", "audit", fill(tmp_path / "then")))
    forged = fill(tmp_path / "forged", actors=3)
    assert temper(capsys, "replay", "audit", forged).status == 0
    done = temper(capsys, "replay", "audit", forged, "--head", kept)
    assert done.status == 1
    assert "the chain at record 11 is not what it was" in done.out


def test_a_log_that_was_cut_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = head_of(temper(capsys, "replay", "audit", fill(tmp_path / "then")))
    done = temper(capsys, "replay", "audit", fill(tmp_path / "cut", records=8), "--head", kept)
    assert done.status == 1
    assert "the log ends before 8: it was cut off" in done.out


def test_a_kept_head_that_was_evicted(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = temper(capsys, "replay", "audit", store, "--head", f"0:{'0' * 64}")
    assert done.status == 1
    assert "was evicted (the oldest left is 2)" in done.out


@pytest.mark.parametrize("head", ["", "11", "x:" + "0" * 64, "11:" + "0" * 63, "11:" + "g" * 64])
def test_heads_that_are_none(store: Path, capsys: pytest.CaptureFixture[str], head: str) -> None:
    done = temper(capsys, "replay", "audit", store, "--head", head)
    assert done.status == (2 if head else 0)


def test_an_empty_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = fill(tmp_path / "store", records=0, evicted=0)
    assert "no records were ever appended" in temper(capsys, "replay", "audit", store).out
    assert json.loads(temper(capsys, "replay", "audit", store, "--json").out)["head"] is None


def test_each_shard_has_a_chain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = made_up_run.begin(tmp_path / "run")
    for name in ("shard-0", "shard-1"):
        fill(paths.replay / name)
    done = temper(capsys, "replay", "audit", tmp_path / "run", "--json")
    assert [json.loads(line)["intact"] for line in done.lines] == [True, True]
    alter(paths.replay / "shard-1", contents(paths.replay / "shard-1", 4)[1])
    done = temper(capsys, "replay", "audit", tmp_path / "run", "--json")
    assert (done.status, [json.loads(line)["altered_position"] for line in done.lines]) == (1, [None, 4])
    assert temper(capsys, "replay", "audit", tmp_path / "run", "--head", f"11:{'0' * 64}").status == 2


def test_of_a_service_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The chain does not travel; the service says where its files are, and they are read beside it."""
    store = fill(RunPaths(tmp_path).replay)
    with serving(ReplayConfig(), store) as address:
        done = temper(capsys, "replay", "audit", address)
        assert (done.status, done.lines[0]) == (0, f"{store}: 10 records intact (2 to 11)")
        (store / "format.json").rename(store / "elsewhere.json")
        done = temper(capsys, "replay", "audit", address)
        (store / "elsewhere.json").rename(store / "format.json")
    assert (done.status, done.out) == (2, "")
    assert "on another host: audit it there" in done.err


def test_a_service_without_files(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as address:
        done = temper(capsys, "replay", "audit", address)
    assert done.status == 2
    assert "keeps its records in memory" in done.err
