"""What a supervised process does for itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from launch.errors import BadInput
from launch.process import SUPERVISOR_VARIABLE, die_with_supervisor, source_revision, wait_for_file

BIND = "from launch.process import die_with_supervisor; die_with_supervisor(); print('alive')"
REPOSITORY = Path(__file__).resolve().parents[2]


def _run(supervisor: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != SUPERVISOR_VARIABLE}
    if supervisor is not None:
        environment[SUPERVISOR_VARIABLE] = supervisor
    command = [sys.executable, "-c", BIND]
    return subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_without_a_supervisor_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SUPERVISOR_VARIABLE, raising=False)
    die_with_supervisor()
    assert _run(None).stdout == "alive\n"


def test_under_its_supervisor_it_lives() -> None:
    assert _run(str(os.getpid())).stdout == "alive\n"


def test_a_supervisor_that_died_before_is_noticed() -> None:
    done = _run("1")
    assert (done.returncode, done.stdout) == (143, "")


def test_waits_for_a_file_that_comes(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    timer = threading.Timer(0.1, path.touch)
    timer.start()
    try:
        assert wait_for_file(path, 10.0) == path
    finally:
        timer.join()


def test_does_not_wait_forever(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"key\.pem does not exist \(waited 0\.1 s\)"):
        wait_for_file(tmp_path / "key.pem", 0.1)


def _git(root: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    command = ["git", "-C", str(root), *who, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
def test_the_revision_is_that_of_the_checkout(tmp_path: Path) -> None:
    assert source_revision(tmp_path) == ""
    _git(tmp_path, "init", "--quiet")
    assert source_revision(tmp_path) == ""  # no commit yet
    (tmp_path / "code.py").write_text("a = 1\n")
    _git(tmp_path, "add", "code.py")
    _git(tmp_path, "commit", "--quiet", "--message", "first")
    _git(tmp_path, "tag", "--annotate", "v1", "--message", "v1")
    commit = _git(tmp_path, "rev-parse", "HEAD")
    assert source_revision(tmp_path) == commit
    (tmp_path / "code.py").write_text("a = 2\n")
    assert source_revision(tmp_path) == f"{commit}-dirty"


@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
def test_a_package_installed_inside_of_a_repository_is_not_of_it(tmp_path: Path) -> None:
    _git(tmp_path, "init", "--quiet")
    _git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "somebody else's")
    site = tmp_path / "site-packages"
    site.mkdir()
    assert source_revision(site) == ""


def test_without_git_no_revision_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert source_revision(tmp_path) == ""
