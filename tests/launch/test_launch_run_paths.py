"""Where the stores of a run lie, and how many shards may go on with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.errors import RunDirectoryError
from launch.run_paths import RunPaths, check_keys, check_shards, key_directory
from policies.signing import KeyFileError


def add_store(directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / "format.json").touch()


def test_one_store_is_the_directory_itself_several_lie_in_it(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    assert paths.replay_stores(1) == [tmp_path / "replay"]
    assert paths.replay_stores(2) == [tmp_path / "replay" / "shard-0", tmp_path / "replay" / "shard-1"]


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_a_run_without_records_may_have_any_number(tmp_path: Path, shards: int) -> None:
    check_shards(RunPaths(tmp_path), shards)


def test_records_in_one_store_need_one_service(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    add_store(paths.replay)
    check_shards(paths, 1)
    with pytest.raises(RunDirectoryError, match=r"lie whole in one store: .*--set replay.shards=1"):
        check_shards(paths, 2)


def test_shards_are_added_never_taken_away(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    for store in paths.replay_stores(3):
        add_store(store)
    for shards in (3, 4):
        check_shards(paths, shards)
    for shards in (1, 2):
        with pytest.raises(RunDirectoryError, match=r"lie in 3 shards: .*--set replay.shards=3"):
            check_shards(paths, shards)


def test_a_single_shard_in_its_directory_is_not_one_store(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    add_store(paths.replay_stores(2)[0])
    check_shards(paths, 2)
    with pytest.raises(RunDirectoryError, match=r"--set replay.shards=2"):
        check_shards(paths, 1)


def test_keys_lie_where_they_are_meant_to_or_where_they_are_named(keys_of_the_test: Path, tmp_path: Path) -> None:
    safety = tmp_path / "run" / "safety"
    assert key_directory(safety, "run-1") == keys_of_the_test / "run-1"
    assert key_directory(safety, "run-1", str(tmp_path / "k")) == tmp_path / "k"


def test_keys_never_lie_in_a_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in that of the run itself, whatever it has so far, nor in another's, nor through a link."""
    own, other = RunPaths(tmp_path / "own"), RunPaths(tmp_path / "other")
    other.root.mkdir()
    for path in (other.config, other.run_id):
        path.touch()
    (tmp_path / "link").symlink_to(other.root)
    for named in (own.safety, own.safety / "k", other.root / "k", other.logs / "k", tmp_path / "link" / "k"):
        with pytest.raises(KeyFileError, match="keys must be apart"):
            key_directory(own.safety, "run-1", str(named))
    monkeypatch.setenv("TEMPER_KEYS", str(own.root / "k"))
    with pytest.raises(KeyFileError, match="keys must be apart"):
        check_keys(own, "run-1")


def test_a_run_that_has_decided_anything_needs_its_keys(tmp_path: Path, keys_of_the_test: Path) -> None:
    paths = RunPaths(tmp_path)
    check_keys(paths, "run-1")
    paths.safety.mkdir()
    (paths.safety / "ledger.jsonl").touch()
    with pytest.raises(KeyFileError, match=f"key directory {keys_of_the_test}/run-1 is missing.*restore it"):
        check_keys(paths, "run-1")
    (keys_of_the_test / "run-1").mkdir()
    check_keys(paths, "run-1")
