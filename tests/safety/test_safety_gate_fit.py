"""A gate whose suite is for other policies than those of the run does not start."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from actors.config import EnvironmentConfig
from actors.environment import EnvironmentUnsupported
from safety.config import SafetyConfig
from safety.gate import Gate

SUITE = """
name = "s"
[[slices]]
name = "windy"
environment = { name = "catch" }
"""


def test_it_names_the_slice_and_what_the_run_has(tmp_path: Path) -> None:
    path = tmp_path / "suite.toml"
    path.write_text(SUITE)
    config = SafetyConfig(suite=str(path), worker_memory_bytes_max=768 * 1024**2)
    gate = Gate(config, EnvironmentConfig(name="cartpole"), tmp_path / "safety", "r" * 32, keys=tmp_path / "keys")
    try:
        with pytest.raises(EnvironmentUnsupported, match=r"slice windy has observations .* cartpole has <f4 \[4\]"):
            gate.start()
    finally:
        gate.close()
    assert psutil.Process().children() == []


def test_another_environment_of_the_same_spaces_will_do(tmp_path: Path) -> None:
    path = tmp_path / "suite.toml"
    path.write_text(SUITE.replace("catch", "cartpole-edge"))
    config = SafetyConfig(suite=str(path), worker_memory_bytes_max=768 * 1024**2)
    gate = Gate(config, EnvironmentConfig(name="cartpole"), tmp_path / "safety", "r" * 32, keys=tmp_path / "keys")
    try:
        gate.start()
    finally:
        gate.close()
