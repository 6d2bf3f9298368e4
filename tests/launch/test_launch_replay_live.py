"""The commands over a running service: the same output as over its directory, and what only a service can."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from replay.config import ReplayConfig
from replay.testing import serving
from tests.launch.made_up_store import Ended, fill, temper


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return fill(tmp_path / "store")


@pytest.fixture
def address(store: Path) -> Iterator[str]:
    """A service on the store."""
    with serving(ReplayConfig(), store) as address:
        yield address


@pytest.mark.parametrize(
    "words",
    [
        ("list",),
        ("list", "--json", "--filter", "actor_id == 'actor-1'", "--limit", "2"),
        ("show", "7", "--steps", "2"),
        ("show", "7", "--json"),
    ],
    ids=["list", "list-json", "show", "show-json"],
)
def test_a_service_and_its_directory_say_the_same(
    store: Path, address: str, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    command, *rest = words
    live, offline = (temper(capsys, "replay", command, target, *rest) for target in (address, store))
    assert live.status == 0
    assert live == offline
    assert live.out


def test_stats(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = temper(capsys, "replay", "stats", address)
    assert "durability sync" in done.out
    stats = json.loads(temper(capsys, "replay", "stats", address, "--json").out)
    assert (stats["records"], stats["evicted_records"]) == (10, 2)
    assert {table["name"] for table in stats["tables"]} == {"fresh", "uniform"}


def test_a_table_is_made_and_changed(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = temper(capsys, "replay", "tables", address, "prioritised per exponent=0.5")
    assert (done.status, done.lines) == (0, ["prioritised per exponent=0.5: 10 records from position 2"])
    done = temper(capsys, "replay", "tables", address, "prioritised per exponent=0.7 records_max=4", "--json")
    assert json.loads(done.out)["spec"]["priority_exponent"] == 0.7
    listed = temper(capsys, "replay", "tables", address)
    assert "prioritised per records_max=4 exponent=0.7: 4 records from position 8" in listed.lines
    assert len(listed.lines) == 3


def test_without_a_service_nobody_knows_what_passes_a_filter(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(ReplayConfig(tables=('curated good filter="position >= 9"',)), store) as address:
        assert "filter='position >= 9': 3 records" in temper(capsys, "replay", "tables", address).out
        assert table_line(temper(capsys, "replay", "stats", address), "good").split()[2] == "3"
    assert "filter='position >= 9': those that pass of 10 records" in temper(capsys, "replay", "tables", store).out
    stats = temper(capsys, "replay", "stats", store)
    assert [table_line(stats, name).split()[2] for name in ("good", "uniform")] == ["<=10", "10"]


def table_line(done: Ended, name: str) -> str:
    """The line of `stats` about one table."""
    (line,) = (line for line in done.lines if line.startswith(f"{name} "))
    return line


def test_a_table_keeps_its_kind(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = temper(capsys, "replay", "tables", address, "prioritised uniform")
    assert (done.status, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert "a table keeps its kind" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("list", "--filter", "lane == 0 and sped > 1"), "'sped' at column 15"),
        (("show", "12"), "there is no record 12"),
        (("show", "1"), "record 1 in"),
    ],
)
def test_bad_input(address: str, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str) -> None:
    command, *rest = words
    done = temper(capsys, "replay", command, address, *rest)
    assert (done.status, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert said in done.err
