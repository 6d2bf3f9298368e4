"""What TARGET stands for, and how its records are reached."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch import replay_target
from launch.errors import BadInput
from launch.replay_target import check_range, locate, open_client, open_source
from launch.run_directory import RunDirectory
from launch.run_paths import RunPaths
from replay.source import SourceReadOnly
from replay.testing import serving
from tests.launch import made_up_run
from tests.launch.made_up_store import EVICTED, RECORDS, fill


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_target, "CONNECT_S_MAX", 1.0)


@contextlib.contextmanager
def running(root: Path, address: str) -> Iterator[RunPaths]:
    """A run whose lock is held, and whose replay service is said to be at `address` ("": no list of processes yet)."""
    paths = made_up_run.begin(root)
    with RunDirectory(root):
        if address:
            paths.processes.write_text(json.dumps({"addresses": {"replay": address}}))
        yield paths


def test_a_store_directory(tmp_path: Path) -> None:
    place = locate(str(fill(tmp_path / "store")))
    assert (place.addresses, place.directories, place.run, place.shards) == ((), [tmp_path / "store"], None, 1)


def test_a_run_that_has_ended(tmp_path: Path) -> None:
    paths = made_up_run.begin(tmp_path / "run")
    fill(paths.replay)
    place = locate(str(tmp_path / "run"))
    assert (place.addresses, place.directories, place.run) == ((), [paths.replay], paths)
    with open_source(str(tmp_path / "run"), writable=False) as source:
        assert source.stats().records == RECORDS - EVICTED


def test_a_run_that_is_running(tmp_path: Path) -> None:
    with running(tmp_path / "run", "unix:/a,unix:/b") as paths:
        fill(paths.replay)
        place = locate(str(tmp_path / "run"))
    assert (place.addresses, place.directories, place.run) == (["unix:/a", "unix:/b"], [paths.replay], paths)


def test_a_run_that_is_just_starting(tmp_path: Path) -> None:
    with running(tmp_path / "run", ""), pytest.raises(BadInput, match="just starting or ending"):
        locate(str(tmp_path / "run"))


def test_the_shards_of_a_run(tmp_path: Path) -> None:
    paths = made_up_run.begin(tmp_path / "run")
    for shard in range(3):
        fill(paths.replay / f"shard-{shard}", records=shard + 1, evicted=0)
    with open_source(str(tmp_path / "run"), writable=False) as source:
        found = [(record.position >> 48, record.position % 2**48) for record in source.records()]
    assert found == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]


def test_the_tenth_shard_comes_after_the_ninth(tmp_path: Path) -> None:
    for shard in range(12):
        (tmp_path / f"shard-{shard}").mkdir()
        (tmp_path / f"shard-{shard}" / "format.json").touch()
    assert [path.name for path in locate(str(tmp_path)).directories] == [f"shard-{shard}" for shard in range(12)]


def test_shards_of_which_one_is_missing(tmp_path: Path) -> None:
    """Every position in those after it would be another record's."""
    paths = made_up_run.begin(tmp_path / "run")
    for shard in (0, 2):
        fill(paths.replay / f"shard-{shard}")
    for target in (tmp_path / "run", paths.replay):
        with pytest.raises(BadInput, match="has shard-2, but shard-1 is missing"):
            locate(str(target))
    assert locate(str(paths.replay / "shard-2")).directories == [paths.replay / "shard-2"]


def test_stores_that_lie_in_one_directory_are_not_shards(tmp_path: Path) -> None:
    for name in ("mine", "yours"):
        fill(tmp_path / name)
    with pytest.raises(BadInput, match="neither a run directory"):
        locate(str(tmp_path))


def test_a_directory_whose_name_is_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "store:70")
    assert locate("store:70").directories == [Path("store:70")]
    assert locate("store:71").addresses == ["store:71"]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("notes", "neither a run directory"),
        ("run", "has left no records"),
        ("nothing", "is no directory here, and no address: address 'nothing' is neither unix:PATH nor HOST:PORT"),
        ("nothing/at/all", "is no directory here"),
        ("notes/diary.txt", "is no directory here"),
        ("unix:", "names no path"),
        ("h:1,", "neither unix:PATH nor HOST:PORT"),
        ("h:70000", "neither unix:PATH nor HOST:PORT"),
        ("", "TARGET is empty"),
        (".", "neither a run directory"),
        ("x" * 5000, "cannot be read: File name too long"),
    ],
)
def test_a_target_that_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, said: str) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("not a store")
    made_up_run.begin(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=said):
        locate(target)


def test_nobody_answers(socket_directory: Path) -> None:
    started_s = time.monotonic()
    with (
        pytest.raises(BadInput, match="nobody answers at unix:"),
        open_source(f"unix:{socket_directory / 'none'}", writable=False),
    ):
        pass
    assert time.monotonic() - started_s < 10.0


def test_a_directory_is_opened_for_what_is_wanted(tmp_path: Path) -> None:
    store = str(fill(tmp_path / "store"))
    with open_source(store, writable=False) as source, pytest.raises(SourceReadOnly):
        source.annotate({5: {"success": 1.0}})
    with open_source(store, writable=True) as source:
        assert source.annotate({5: {"success": 1.0}}) == 1


def test_a_store_that_somebody_has_open_is_written_through_its_service(tmp_path: Path) -> None:
    directory = fill(tmp_path / "store")
    with open_source(str(directory), writable=True):
        with (
            pytest.raises(BadInput, match=r"open already.*address of the service") as raised,
            open_source(str(directory), writable=True),
        ):
            pass
        assert "\n" not in str(raised.value)
        with open_source(str(directory), writable=False) as source:
            assert source.stats().records == RECORDS - EVICTED


def test_what_a_service_refuses_is_bad_input(tmp_path: Path) -> None:
    with serving() as address:
        with pytest.raises(BadInput, match="column"), open_source(address, writable=False) as source:
            list(source.records(filter_text="lane = 3"))
        with pytest.raises(BadInput, match="refused"), open_client(address) as client:
            client.lift_quarantine(3, "why")


def test_a_shard_that_does_not_answer_is_left_out_of_reading_only(
    socket_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving() as address:
        target = f"unix:{socket_directory / 'none'},{address}"
        with open_source(target, writable=False) as source:
            assert source.stats().records == 0
        assert "shard 0 is left out: nobody answers" in capsys.readouterr().err
        with pytest.raises(BadInput, match="nobody answers"), open_source(target, writable=True):
            pass


@pytest.mark.parametrize(
    ("from_position", "limit", "said"), [(-1, 0, "--from -1"), (0, -2, "--limit -2"), (2**63, 0, "--from")]
)
def test_ranges_that_cannot_be(from_position: int, limit: int, said: str) -> None:
    check_range(2**63 - 1, 0)
    with pytest.raises(BadInput, match=said):
        check_range(from_position, limit)
