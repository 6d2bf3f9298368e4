"""`temper policy list|show|verify` over really signed releases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch.arguments import PolicyList, PolicyShow, PolicyVerify
from launch.commands import policy_list, policy_show, policy_verify
from launch.errors import BadInput, RunDirectoryError
from launch.releases import newest_release, open_registry
from launch.run_paths import RunPaths
from policies.registry import RegistryError
from policies.signing import SigningKey, VerifyKey
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


def test_list_as_json(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert policy_list.run(PolicyList(paths.root, json=True)) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(each["number"], each["version"], each["return_mean"]) for each in found["releases"]] == [
        (1, 10, 100.0),
        (2, 20, 200.0),
    ]
    first = found["releases"][0]
    assert (first["promotion"], first["revocation"], first["canary_share"]) == (None, None, 0)
    assert (len(first["artifact_digest"]), first["return_ci95"]) == (64, [95.0, 105.0])
    assert found["revoked_problem"] == ""


def test_list_of_a_run_without_releases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = made_up_run.begin(tmp_path / "run")
    assert policy_list.run(PolicyList(paths.root)) == 0
    assert capsys.readouterr().out == "no releases\n"
    assert policy_list.run(PolicyList(paths.root, json=True)) == 0
    assert json.loads(capsys.readouterr().out) == {"releases": [], "revoked_problem": ""}
    assert policy_verify.run(PolicyVerify(paths.root, json=True)) == 0
    assert json.loads(capsys.readouterr().out)["releases"] == 0
    assert not paths.policies.exists()


@pytest.mark.parametrize(("number", "shown"), [(0, 2), (1, 1), (2, 2)])
def test_show(paths: RunPaths, capsys: pytest.CaptureFixture[str], number: int, shown: int) -> None:
    assert policy_show.run(PolicyShow(paths.root, number)) == 0
    out = capsys.readouterr().out
    assert f"release     {shown}, update {10 * shown}\n" in out
    assert f"verdict     {shown:032x}, signed by key " in out
    assert "2 actions" in out
    assert "network     mlp, hidden_sizes 8 8, activation tanh\n" in out


def test_show_of_a_release_that_is_not_there(paths: RunPaths) -> None:
    with pytest.raises(BadInput, match="releases there are: 1 to 2"):
        policy_show.run(PolicyShow(paths.root, 3))


def test_verify(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert policy_verify.run(PolicyVerify(paths.root)) == 0
    assert capsys.readouterr().out.startswith("2 releases verified")


def test_verify_as_json(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert policy_verify.run(PolicyVerify(paths.root, json=True)) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["verified"], found["releases"], found["revoked"], found["problems"]) == (True, 2, 0, [])
    assert (found["ledger_read"], len(found["notes"])) == (False, 1)
    newest_artifact(paths).write_bytes(b"damaged")
    assert policy_verify.run(PolicyVerify(paths.root, json=True)) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["verified"], found["releases"], len(found["problems"])) == (False, None, 1)


def newest_artifact(paths: RunPaths) -> Path:
    """The file of the newest release's artifact."""
    release = newest_release(paths)
    assert release is not None
    (artifact,) = (paths.policies / "artifacts").glob(f"{release.digest}*")
    return artifact


def test_a_key_that_was_exchanged_is_named(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    right, other = VerifyKey.load(paths.verify_key), SigningKey.generate().verify_key
    other.save(paths.verify_key)
    assert policy_verify.run(PolicyVerify(paths.root)) == 1
    first = capsys.readouterr().err.splitlines()[0]
    assert f"it goes back to key '{right.key_id}', the key that is trusted here is '{other.key_id}'" in first
    assert first.endswith("another key was put in the place of the trusted one; it is not believed")


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
