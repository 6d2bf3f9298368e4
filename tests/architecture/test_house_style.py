"""The figures of the house: sizes, docstrings, and what never appears in it."""

import ast
import re
import subprocess
from pathlib import Path

from tests.architecture.source_tree import REPOSITORY, imports_of, modules_by_name

FILE_LINES_MAX = 499
FUNCTION_LINES_MAX = 70

HAND_WRITTEN = tuple(module for module in modules_by_name().values() if not module.is_generated)

# multiprocessing pickles whatever it moves between processes.
PICKLERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "multiprocessing", "shelve"}

# Written in pieces, so that this file does not find itself.
ADDRESSES = ["pypi" + r"\.org", "python" + "hosted", "--(extra-)?index" + "-url"]
MACHINE_PATHS = [r"/(root|work|home/\w+)" + "/"]
UNWANTED = re.compile("|".join([*ADDRESSES, *MACHINE_PATHS]))


def test_there_is_something_to_check() -> None:
    assert {"launch.cli", "replay.store", "tests.conftest"} <= {module.name for module in HAND_WRITTEN}


def test_files_are_short() -> None:
    lengths = {module.relative_path: len(module.path.read_text().splitlines()) for module in HAND_WRITTEN}
    assert {path: lines for path, lines in lengths.items() if lines > FILE_LINES_MAX} == {}


def test_functions_are_short() -> None:
    lengths = {
        f"{module.relative_path}: {node.name}": node.end_lineno - node.lineno + 1
        for module in HAND_WRITTEN
        for node in ast.walk(module.tree())
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    }
    assert {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES_MAX} == {}


def test_modules_say_what_they_are() -> None:
    assert [module.relative_path for module in HAND_WRITTEN if not ast.get_docstring(module.tree())] == []


def test_nothing_imports_a_pickler() -> None:
    found = {
        f"{module.relative_path}: {name}"
        for module in HAND_WRITTEN
        for name in imports_of(module).foreign
        if name.partition(".")[0] in PICKLERS
    }
    assert found == set()


def test_nothing_pickles_behind_ones_back() -> None:
    """Neither process pools nor NumPy files that may hold objects."""
    found = {
        f"{module.relative_path}:{node.lineno}"
        for module in HAND_WRITTEN
        for node in ast.walk(module.tree())
        if (isinstance(node, ast.Attribute) and node.attr == "ProcessPoolExecutor")
        or (isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False")
    }
    assert found == set()


def _tracked() -> list[Path]:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [REPOSITORY / name for name in sorted(done.stdout.split("\0")) if name and (REPOSITORY / name).is_file()]


def test_no_file_names_a_registry_or_a_machine() -> None:
    """Neither addresses of package indexes nor absolute paths of the machine somebody worked on."""
    files = _tracked()
    found = [
        f"{path.relative_to(REPOSITORY)}: {match[0]}"
        for path in files
        for match in UNWANTED.finditer(path.read_bytes().decode(errors="replace"))
    ]
    assert REPOSITORY / "pyproject.toml" in files
    assert found == []
