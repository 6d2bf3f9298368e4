"""The wheel, as a thin actor host gets it: built, installed into a clean environment, and used from another directory.

That environment holds the core and Gymnasium, and nothing else: neither jax nor lmdb nor this checkout.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.architecture.pins import installed_closure
from tests.architecture.source_tree import LAYERS, REPOSITORY, shipped_modules

ABSENT = ("jax", "jaxlib", "flax", "optax", "orbax", "lmdb", "tensorboardX", "pytest", "tests")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel."""
    directory = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(directory), str(REPOSITORY)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `temper` program of an environment with the wheel and the installed core and Gymnasium, nothing else."""
    environment = tmp_path_factory.mktemp("clean")
    venv.create(environment, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(environment), "platbase": str(environment)}))
    for name in installed_closure("gym"):
        _link_distribution(importlib.metadata.distribution(name), site)
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python")]
    install = ["install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", str(wheel)]
    done = subprocess.run([*pip, *install], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return environment / "bin" / "temper"


def _link_distribution(distribution: importlib.metadata.Distribution, site: Path) -> None:
    """Links the files of an installed distribution into another environment, folder by folder."""
    tops = {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}
    assert tops, f"{distribution.name} lists no files"
    for top in tops:
        link = site / top
        if not link.exists():
            link.symlink_to(Path(str(distribution.locate_file(top))))


def _run(command: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def test_wheel_holds_the_source_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {module.relative_path for module in shipped_modules()} <= names
    assert {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "protos").rglob("*.proto")} <= names
    assert {f"{layer}/py.typed" for layer in LAYERS} <= names
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(LAYERS)


def test_environment_is_clean(program: Path, tmp_path: Path) -> None:
    """Without this the tests below would say nothing about a thin host."""
    code = f"import importlib.util as u; print([n for n in {ABSENT} if u.find_spec(n)])"
    done = _run([str(program.with_name("python")), "-c", code], tmp_path)
    assert done.stdout.strip() == "[]", done.stderr


def test_temper_says_its_version(program: Path, wheel: Path, tmp_path: Path) -> None:
    done = _run([str(program), "--version"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert wheel.name.split("-")[1] in done.stdout


def test_doctor_speaks(program: Path, tmp_path: Path) -> None:
    """It says what is missing, whatever it thinks of that."""
    done = _run([str(program), "doctor"], tmp_path)
    assert "jax" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_packages_are_those_of_the_wheel(program: Path, tmp_path: Path) -> None:
    """Every package imports, from the clean environment and from nowhere else, and so does what a thin actor runs."""
    names = [*LAYERS, "actors.host", "policies.client", "replay.client"]
    code = f"import {', '.join(names)}; print(*[m.__file__ for m in ({', '.join(LAYERS)},)], sep='\\n')"
    done = _run([str(program.with_name("python")), "-W", "error", "-c", code], tmp_path)
    assert done.returncode == 0, done.stderr
    clean = str(program.parent.parent)
    assert [line for line in done.stdout.splitlines() if not line.startswith(clean)] == []


def test_training_without_the_learner_names_the_extra(program: Path, tmp_path: Path) -> None:
    """One line with the install command, exit status 2, no traceback."""
    done = _run([str(program), "train", "cartpole", "--run-dir", str(tmp_path / "run")], tmp_path)
    assert done.returncode == 2
    assert re.search(r"pip install .*temper\[[\w,]+\]", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
