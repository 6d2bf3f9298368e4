"""`temper policy list|show|verify` over really signed releases."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.arguments import PolicyList, PolicyShow, PolicyVerify
from launch.commands import policy_list, policy_show, policy_verify
from launch.errors import BadInput, RunDirectoryError
from launch.releases import newest_release, open_registry
from launch.run_paths import RunPaths
from policies.registry import RegistryError
from tests.launch import made_up_run


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    """A run with two releases."""
    paths = made_up_run.begin(tmp_path / "run")
    made_up_run.add_releases(paths, 2)
    return paths


def test_list(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert policy_list.run(PolicyList(paths.root)) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["release", "update", "return", "violations", "released", "digest"]
    assert first.split()[:4] == ["1", "10", "100.00", "0/100"]
    assert second.split()[:4] == ["2", "20", "200.00", "0/100"]
    assert len(second.split()[-1]) == 64


def test_list_of_a_run_without_releases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = made_up_run.begin(tmp_path / "run")
    assert policy_list.run(PolicyList(paths.root)) == 0
    assert capsys.readouterr().out == "no releases\n"
    assert not paths.policies.exists()


@pytest.mark.parametrize(("number", "shown"), [(0, 2), (1, 1), (2, 2)])
def test_show(paths: RunPaths, capsys: pytest.CaptureFixture[str], number: int, shown: int) -> None:
    assert policy_show.run(PolicyShow(paths.root, number)) == 0
    out = capsys.readouterr().out
    assert f"release     {shown}, update {10 * shown}\n" in out
    assert f"verdict     {shown:032x}, signed by key " in out
    assert "2 actions" in out


def test_show_of_a_release_that_is_not_there(paths: RunPaths) -> None:
    with pytest.raises(BadInput, match="releases there are: 1 to 2"):
        policy_show.run(PolicyShow(paths.root, 3))


def test_verify(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert policy_verify.run(PolicyVerify(paths.root)) == 0
    assert capsys.readouterr().out.startswith("2 releases verified")


def test_verify_finds_a_flipped_byte(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    release = newest_release(paths)
    assert release is not None
    (artifact,) = (paths.policies / "artifacts").glob(f"{release.digest}*")
    data = bytearray(artifact.read_bytes())
    data[-1] ^= 1
    artifact.write_bytes(data)
    assert policy_verify.run(PolicyVerify(paths.root)) == 1
    assert release.digest in capsys.readouterr().err


def test_another_runs_releases_are_not_this_runs(paths: RunPaths) -> None:
    paths.run_id.write_text("another")
    with pytest.raises(RegistryError):
        newest_release(paths)


def test_releases_without_their_key_are_not_believed(paths: RunPaths) -> None:
    paths.verify_key.unlink()
    with pytest.raises(RunDirectoryError, match="nothing can be verified"):
        open_registry(paths)
