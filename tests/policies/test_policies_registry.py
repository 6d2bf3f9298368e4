"""The registry on a real disk: what enters, what survives a crash, and what a flipped bit does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.artifact import ArtifactError, NotFiniteError, artifact_digest
from policies.registry import PolicyRegistry, RegistryError
from policies.signing import SigningKey
from policies.testing import RUN_ID, make_artifact, signed_verdict
from policies.trust import (
    ExpiredStatement,
    ForgedStatement,
    ReplayedStatement,
    TrustPolicy,
    UntrustedError,
    WrongArtifact,
)

KEY = SigningKey.generate()
ONE, TWO, THREE = (make_artifact(seed=seed).to_bytes() for seed in (1, 2, 3))


@pytest.fixture
def registry(tmp_path: Path) -> PolicyRegistry:
    return _open(tmp_path)


def _open(directory: Path, **settings: Any) -> PolicyRegistry:
    return PolicyRegistry(directory / "policies", TrustPolicy(KEY.verify_key, RUN_ID), **settings)


def _verdict(data: bytes, number: int, **fields: Any) -> Any:
    return signed_verdict(KEY, artifact_digest(data), release_number=number, **fields)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_an_empty_registry_is_well_and_not_created_by_reading(registry: PolicyRegistry, tmp_path: Path) -> None:
    assert registry.releases() == []
    assert registry.newest() is None
    assert registry.verify() == []
    assert list(tmp_path.iterdir()) == []


def test_promotions_are_there_for_everyone_who_opens_it(registry: PolicyRegistry, tmp_path: Path) -> None:
    signed = _verdict(ONE, 1, version=10, return_mean=123.5, verdict_id="abc")
    release = registry.promote(ONE, signed)
    registry.promote(TWO, _verdict(TWO, 3, version=30))
    reopened = _open(tmp_path)
    assert [each.number for each in reopened.releases()] == [1, 3]
    assert reopened.releases()[0] == release
    assert (release.version, release.return_mean, release.verdict_id) == (10, 123.5, "abc")
    assert release.digest == artifact_digest(ONE)
    assert release.signed_verdict == signed
    newest = reopened.newest()
    assert newest is not None
    assert reopened.artifact(newest.digest) == TWO
    assert reopened.verify() == []


def test_the_same_promotion_again_changes_nothing(registry: PolicyRegistry, tmp_path: Path) -> None:
    first = registry.promote(ONE, _verdict(ONE, 1))
    registry.promote(TWO, _verdict(TWO, 2))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    # Also when its verdict has expired since, as after a learner's restart.
    again = registry.promote(ONE, _verdict(ONE, 1, expiry_time_ns=1))
    assert again == first
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    ("data", "signed", "error"),
    [
        (THREE, _verdict(TWO, 3), WrongArtifact),
        (THREE, _verdict(THREE, 1), ReplayedStatement),
        (THREE, _verdict(THREE, 2), ReplayedStatement),
        (THREE, _verdict(THREE, 3, expiry_time_ns=1), ExpiredStatement),
        (THREE, _verdict(THREE, 3, run_id="another"), UntrustedError),
        (THREE, _verdict(THREE, 3, approved=False), UntrustedError),
        (THREE, signed_verdict(SigningKey.generate(), artifact_digest(THREE), release_number=3), ForgedStatement),
        (b"no artifact", _verdict(b"no artifact", 3), ArtifactError),
    ],
)
def test_what_may_not_be_promoted_leaves_no_trace(
    registry: PolicyRegistry, tmp_path: Path, data: bytes, signed: Any, error: type[Exception]
) -> None:
    registry.promote(TWO, _verdict(TWO, 2))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error):
        registry.promote(data, signed)
    assert sorted(tmp_path.rglob("*")) == before


def test_nan_may_not_be_promoted(registry: PolicyRegistry) -> None:
    artifact = make_artifact()
    artifact.parameters["policy/bias"][0] = np.nan
    data = artifact.to_bytes()
    with pytest.raises(NotFiniteError):
        registry.promote(data, _verdict(data, 1))
    assert registry.releases() == []


def test_a_flipped_bit_in_an_artifact_is_found(registry: PolicyRegistry, tmp_path: Path) -> None:
    registry.promote(ONE, _verdict(ONE, 1))
    path = tmp_path / "policies" / "artifacts" / f"{artifact_digest(ONE).hex()}.safetensors"
    _flip(path)
    assert [path.name in problem for problem in registry.verify()] == [True]
    with pytest.raises(RegistryError, match="has changed on disk"):
        registry.artifact(artifact_digest(ONE))


def test_a_flipped_bit_in_a_release_is_found_and_fails_closed(registry: PolicyRegistry, tmp_path: Path) -> None:
    registry.promote(ONE, _verdict(ONE, 1))
    _flip(tmp_path / "policies" / "releases" / "00000001.verdict")
    assert len(registry.verify()) == 1
    for ask in (registry.releases, registry.newest, lambda: registry.promote(TWO, _verdict(TWO, 2))):
        with pytest.raises(RegistryError, match=r"00000001\.verdict is not to be trusted"):
            ask()


def test_a_release_under_another_number_is_found(registry: PolicyRegistry, tmp_path: Path) -> None:
    registry.promote(ONE, _verdict(ONE, 1))
    releases = tmp_path / "policies" / "releases"
    (releases / "00000001.verdict").rename(releases / "00000002.verdict")
    assert "holds the verdict of release 1" in registry.verify()[0]


def test_missing_and_misnamed_artifacts_are_found(registry: PolicyRegistry, tmp_path: Path) -> None:
    registry.promote(ONE, _verdict(ONE, 1))
    path = tmp_path / "policies" / "artifacts" / f"{artifact_digest(ONE).hex()}.safetensors"
    path.rename(path.with_name("renamed.safetensors"))
    problems = registry.verify()
    assert len(problems) == 2
    assert "is not in" in problems[0]
    assert "not named by a digest" in problems[1]


class _Crash(BaseException):
    """Stands for the death of the process: nothing catches it."""


@pytest.mark.parametrize("step", range(6))
def test_a_crash_at_any_step_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    registry = _open(tmp_path)
    registry.promote(ONE, _verdict(ONE, 1))
    steps = iter(range(100))

    def crash_in_time(real: Any) -> Any:
        def wrapped(*arguments: Any) -> Any:
            if next(steps) == step:
                raise _Crash
            return real(*arguments)

        return wrapped

    with monkeypatch.context() as patched:
        # Per file: fsync, rename, fsync of the directory; the artifact's file and then the release's.
        patched.setattr(os, "fsync", crash_in_time(os.fsync))
        patched.setattr(Path, "replace", crash_in_time(Path.replace))
        with pytest.raises(_Crash):
            registry.promote(TWO, _verdict(TWO, 2))
    survivor = _open(tmp_path)
    assert survivor.verify() == []
    assert [release.number for release in survivor.releases()] == ([1, 2] if step == 5 else [1])
    survivor.promote(TWO, _verdict(TWO, 2))
    assert [release.number for release in survivor.releases()] == [1, 2]
    assert not list(tmp_path.rglob(".*"))


WRITER = """
import sys
from pathlib import Path
from policies.artifact import artifact_digest
from policies.registry import PolicyRegistry
from policies.signing import SigningKey
from policies.testing import RUN_ID, make_artifact, signed_verdict
from policies.trust import TrustPolicy
key = SigningKey.load(Path(sys.argv[2]))
registry = PolicyRegistry(Path(sys.argv[1]), TrustPolicy(key.verify_key, RUN_ID))
for number in range(1, 100_000):
    data = make_artifact(seed=number).to_bytes()
    registry.promote(data, signed_verdict(key, artifact_digest(data), release_number=number))
    print(number, flush=True)
"""

READER = """
import sys, time
from pathlib import Path
from policies.registry import PolicyRegistry
from policies.signing import VerifyKey
from policies.testing import RUN_ID
from policies.trust import TrustPolicy
registry = PolicyRegistry(Path(sys.argv[1]), TrustPolicy(VerifyKey.load(Path(sys.argv[2])), RUN_ID))
seen, deadline = 0, time.monotonic() + 60
print("ready", flush=True)
while seen < int(sys.argv[3]) and time.monotonic() < deadline:
    newest = registry.newest()
    if newest is not None:
        assert newest.number >= seen, (newest.number, seen)
        registry.artifact(newest.digest)
        seen = newest.number
    numbers = [release.number for release in registry.releases()]
    assert numbers == list(range(1, len(numbers) + 1)), numbers
print(seen)
"""


def _spawn(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def test_two_read_while_one_writes_and_is_killed(tmp_path: Path) -> None:
    KEY.save(tmp_path / "key.pem")
    KEY.verify_key.save(tmp_path / "verify.pem")
    directory, wanted = tmp_path / "policies", 25
    processes = [_spawn(READER, directory, tmp_path / "verify.pem", wanted) for _ in range(2)]
    try:
        for reader in processes:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "ready\n"
        writer = _spawn(WRITER, directory, tmp_path / "key.pem")
        processes.append(writer)
        assert writer.stdout is not None
        acknowledged = 0
        while acknowledged < wanted:
            acknowledged = int(writer.stdout.readline())
        time.sleep(0.005)
        writer.send_signal(signal.SIGKILL)
        acknowledged = max([acknowledged, *(int(line) for line in writer.stdout)])
        for reader in processes[:2]:
            assert reader.stdout is not None
            assert int(reader.stdout.read()) >= wanted
            assert reader.wait(30) == 0
        registry = _open(tmp_path)
        assert registry.verify() == []
        assert len(registry.releases()) in (acknowledged, acknowledged + 1)
    finally:
        for process in processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


CRAMPED = """
import resource, sys
from pathlib import Path
from policies.artifact import artifact_digest
from policies.registry import PolicyRegistry, RegistryError
from policies.signing import SigningKey
from policies.testing import RUN_ID, make_artifact, signed_verdict
from policies.trust import TrustPolicy
key = SigningKey.load(Path(sys.argv[2]))
registry = PolicyRegistry(Path(sys.argv[1]), TrustPolicy(key.verify_key, RUN_ID))
data = make_artifact(seed=2).to_bytes()
verdict = signed_verdict(key, artifact_digest(data), release_number=2)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (len(data) // 2, hard))
try:
    registry.promote(data, verdict)
except RegistryError as error:
    print(error)
print([release.number for release in registry.releases()], registry.verify())
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
registry.promote(data, verdict)
"""


def test_where_there_is_no_room_nothing_is_half_written(registry: PolicyRegistry, tmp_path: Path) -> None:
    """A process that may write no file of that size; then it may."""
    KEY.save(tmp_path / "key.pem")
    registry.promote(ONE, _verdict(ONE, 1))
    cramped = _spawn(CRAMPED, tmp_path / "policies", tmp_path / "key.pem")
    printed, _ = cramped.communicate(timeout=60)
    assert cramped.returncode == 0
    path = tmp_path / "policies" / "releases" / "00000002.verdict"
    assert printed.splitlines() == [
        f"verdict {path} cannot be written: File too large; no actor gets that release before it is",
        "[1] []",
    ]
    assert [release.number for release in registry.releases()] == [1, 2]
    assert registry.verify() == []


@pytest.mark.parametrize("failing", ["artifacts", "releases", "lock"])
def test_a_disk_that_fills_at_any_file_is_said(
    registry: PolicyRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    registry.promote(ONE, _verdict(ONE, 1))
    opened, synced = Path.open, os.fsync

    def open_(path: Path, mode: str = "r") -> Any:
        if path.name == failing:
            raise OSError(28, "No space left on device")
        return opened(path, mode)

    def fsync(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().parent.name == failing:
            raise OSError(28, "No space left on device")
        synced(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", open_)
        patched.setattr(os, "fsync", fsync)
        with pytest.raises(RegistryError, match=r"00000002\.verdict cannot be written: No space left on device; no "):
            registry.promote(TWO, _verdict(TWO, 2))
    assert [release.number for release in registry.releases()] == [1]
    assert registry.verify() == []
    assert not list(tmp_path.rglob(".*"))
    registry.promote(TWO, _verdict(TWO, 2))
    assert [release.number for release in registry.releases()] == [1, 2]
