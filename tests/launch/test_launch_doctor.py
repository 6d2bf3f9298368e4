"""What the doctor finds on this machine, and on worse ones."""

from __future__ import annotations

import importlib
import json
import resource
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launch import doctor
from launch.arguments import Doctor
from launch.commands import doctor as command
from launch.doctor import _confinement, examine
from safety.confinement import landlock


@pytest.fixture(autouse=True)
def devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting jax's backend takes a second, confining a process half of one; neither is what is tested here."""
    real = importlib.import_module
    stub = SimpleNamespace(devices=lambda: ["cpu:0"])
    monkeypatch.setattr(importlib, "import_module", lambda name: stub if name == "jax" else real(name))
    monkeypatch.setattr(
        doctor, "_confinement", lambda: doctor.Finding("ok", "confinement", "evaluators are restricted")
    )


def test_this_machine_has_what_is_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(Doctor(tmp_path / "not" / "yet" / "made")) == 0
    out = capsys.readouterr().out
    for name in (
        "python",
        "own packages",
        "devices",
        "store engine",
        "processors",
        "open files",
        "disk",
        "unix sockets",
    ):
        assert f" {name} " in out
    assert "broken" not in out
    assert out.endswith("everything that is needed is there\n")
    assert list(tmp_path.iterdir()) == []


def test_another_system_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert [found.level for found in examine(tmp_path) if found.name == "system"] == ["broken"]
    assert command.run(Doctor(tmp_path)) == 1


def test_it_does_not_say_that_all_is_there_when_something_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboardX" else real(name))
    assert command.run(Doctor(tmp_path)) == 0
    assert capsys.readouterr().out.endswith("0 broken, 1 to note\n")


def test_a_low_limit_of_open_files_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    (finding,) = (found for found in examine(tmp_path) if found.name == "open files")
    assert finding.level == "broken"
    assert "limit 256, at least 1024 needed" in finding.text
    assert command.run(Doctor(tmp_path)) == 1


def test_a_full_disk_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    levels = {found.name: found.level for found in examine(tmp_path)}
    assert (levels["disk"], levels["shared memory"]) == ("broken", "note")


def test_the_findings_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [doctor.Finding("ok", "python", "3.11"), doctor.Finding("broken", "disk", "full")]
    monkeypatch.setattr(command, "examine", lambda _: found)
    assert command.run(Doctor(tmp_path, json=True)) == 1
    shown = json.loads(capsys.readouterr().out)
    assert (shown["broken"], shown["note"]) == (1, 0)
    assert shown["findings"][1] == {"level": "broken", "name": "disk", "text": "full"}


def test_a_slow_disk_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_fsync_seconds", lambda _: 0.2)
    (finding,) = (found for found in examine(tmp_path) if found.name == "disk")
    assert (finding.level, "fsync takes 200.0 ms" in finding.text) == ("note", True)


def test_a_broken_driver_is_a_finding_not_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise RuntimeError("driver\nversion is insufficient")

    monkeypatch.setattr(importlib, "import_module", lambda _: SimpleNamespace(devices=fail))
    (finding,) = (found for found in examine(tmp_path) if found.name == "devices")
    assert (finding.level, finding.text) == ("broken", "RuntimeError: driver version is insufficient")


@pytest.mark.parametrize("package", ["lmdb", "pyroaring"])
def test_a_missing_package_is_noted_with_its_extra(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else real(name))
    (finding,) = (found for found in examine(tmp_path) if found.name == package)
    assert (finding.level, "pip install 'temper[replay]'" in finding.text) == ("note", True)


def test_how_evaluators_are_confined() -> None:
    finding = _confinement()
    whole = landlock.abi_version() >= landlock.SCOPE_ABI
    assert (finding.level, finding.name) == ("ok" if whole else "note", "confinement")
    assert "evaluators are restricted: " in finding.text


def test_evaluators_that_cannot_be_confined_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    finding = _confinement()
    assert finding.level == "broken"
    assert "evaluators cannot be confined" in finding.text
