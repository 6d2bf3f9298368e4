"""What a supervised process does for itself."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from launch.errors import BadInput
from launch.process import SUPERVISOR_VARIABLE, die_with_supervisor, wait_for_file

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
