"""The BUILD files say what the source says: read here as text, and compared with the imports.

The files are valid Starlark of the kind that is also valid Python, so that ast can read them.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture import source_tree
from tests.architecture.build_files import folders, label, third_party_label
from tests.architecture.pins import pinned
from tests.architecture.source_tree import DEVELOPMENT, LAYERS, REPOSITORY, Module

RUNNER = {"@third_party//pytest", "@third_party//pytest_timeout"}

SOURCE_SUFFIXES = {".py", ".pyi", ".proto", ".typed"}


@dataclasses.dataclass(frozen=True)
class Target:
    """One rule of a BUILD file; labels are absolute."""

    label: str
    rule: str
    files: tuple[str, ...]
    dependencies: frozenset[str]


@dataclasses.dataclass(frozen=True)
class BuildFile:
    """One BUILD file, its folder relative to the repository root."""

    folder: str
    visibility: frozenset[str]
    targets: tuple[Target, ...]


def _read(path: Path) -> BuildFile:
    folder = path.parent.relative_to(REPOSITORY).as_posix()
    visibility: frozenset[str] = frozenset()
    targets = []
    for statement in ast.parse(path.read_text()).body:
        assert isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
        assert isinstance(statement.value.func, ast.Name)
        rule = statement.value.func.id
        arguments = {keyword.arg: ast.literal_eval(keyword.value) for keyword in statement.value.keywords}
        if rule == "package":
            visibility = frozenset(arguments["default_visibility"])
        elif rule != "load":
            files = [
                *arguments.get("srcs", []),
                *arguments.get("pyi_srcs", []),
                *(text for text in arguments.get("data", []) if not text.startswith("//")),
            ]
            dependencies = frozenset(_absolute(text, folder) for text in arguments.get("deps", []))
            targets.append(Target(_absolute(f":{arguments['name']}", folder), rule, tuple(files), dependencies))
    return BuildFile(folder, visibility, tuple(targets))


def _absolute(text: str, folder: str) -> str:
    """ "//replay:replay" and ":replay" in replay/ both become "//replay"."""
    text = f"//{folder}{text}" if text.startswith(":") else text
    package, separator, name = text.partition(":")
    return package if separator and package.rpartition("/")[2] == name else text


BUILD_FILES = tuple(_read(folder / "BUILD") for folder in folders() if (folder / "BUILD").exists())
TARGETS = {target.label: (target, build) for build in BUILD_FILES for target in build.targets}


def _module_of(target: Target, build: BuildFile) -> Module | None:
    paths = {f"{build.folder}/{name}" for name in target.files if name.endswith(".py")}
    found = [module for module in source_tree.modules_by_name().values() if module.relative_path in paths]
    assert len(found) <= 1, f"{target.label} has more than one source"
    return found[0] if found else None


def test_committed_files_are_what_the_generator_gives() -> None:
    command = [sys.executable, "-m", "tests.architecture.build_files", "--check"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_folder_with_code_has_a_build_file() -> None:
    assert {build.folder for build in BUILD_FILES} == {
        folder.relative_to(REPOSITORY).as_posix() for folder in folders()
    }


def test_every_source_file_is_in_exactly_one_target() -> None:
    listed = [f"{build.folder}/{name}" for build in BUILD_FILES for target in build.targets for name in target.files]
    present = [
        path.relative_to(REPOSITORY).as_posix()
        for top in (*LAYERS, *DEVELOPMENT)
        for path in (REPOSITORY / top).rglob("*")
        if path.suffix in SOURCE_SUFFIXES
    ]
    assert sorted(listed) == sorted(present)


def test_no_two_targets_of_a_folder_have_one_name() -> None:
    assert len(TARGETS) == sum(len(build.targets) for build in BUILD_FILES)


def test_dependencies_are_the_imports() -> None:
    wrong = {
        target.label: target.dependencies ^ expected
        for target, build in TARGETS.values()
        if (module := _module_of(target, build)) and target.dependencies != (expected := _expected(target, module))
    }
    assert wrong == {}


def _expected(target: Target, module: Module) -> frozenset[str]:
    """Its imports, and the __init__.py above it, which loading it runs. Tests also need what they start by name."""
    known = source_tree.modules_by_name()
    imports = source_tree.imports_of(module)
    own = set(imports.own) | ({module.name.rpartition(".")[0]} & known.keys())
    if module.layer == "tests":
        own |= source_tree.modules_named_in_strings(module)
    expected = {label(known[name]) for name in own if name in known}
    expected |= {found for name in imports.foreign if (found := third_party_label(name))}
    # pytest itself and the fixtures it finds by place reach a test without an import.
    implied = {text for text in target.dependencies if text in RUNNER or text.endswith(":conftest")}
    return frozenset(expected | implied if target.rule == "py_test" else expected)


def test_dependencies_exist_and_are_visible() -> None:
    hidden = {
        f"{target.label} needs {dependency}"
        for target, build in TARGETS.values()
        for dependency in target.dependencies
        if not dependency.startswith("@") and not _sees(build, dependency)
    }
    assert hidden == set()


def _sees(build: BuildFile, dependency: str) -> bool:
    if dependency not in TARGETS:
        return False
    _, provider = TARGETS[dependency]
    return provider.folder == build.folder or f"//{_top(build)}:__subpackages__" in provider.visibility


def _top(build: BuildFile) -> str:
    return build.folder.partition("/")[0]


def test_visibility_is_the_order_of_the_layers() -> None:
    """Each layer may be used by itself and those above it, and by tests and benchmarks; those by tests alone."""
    for build in BUILD_FILES:
        top = _top(build)
        allowed = {top, "tests"} if top in DEVELOPMENT else {*LAYERS[LAYERS.index(top) :], *DEVELOPMENT}
        assert build.visibility == {f"//{name}:__subpackages__" for name in allowed}, build.folder


def test_no_dependency_goes_round() -> None:
    """Bazel refuses a circle; so does this."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name in done or name.startswith("@"):
            return
        for dependency in sorted(TARGETS[name][0].dependencies):
            visit(dependency, (*path, name))
        done.add(name)

    for name in TARGETS:
        visit(name, ())
    assert done == set(TARGETS)


@pytest.mark.parametrize("version", ["py311", "py312"])
def test_third_party_targets_are_pinned(version: str) -> None:
    pins = {name.replace("-", "_") for name in pinned(REPOSITORY / "requirements" / f"dev-{version}.txt")}
    used = {text for target, _ in TARGETS.values() for text in target.dependencies if text.startswith("@third_party//")}
    assert {text.rpartition("/")[2] for text in used} <= pins


def test_module_file_agrees_with_the_project() -> None:
    """One name, one version, and the pins that pip uses."""
    text = (REPOSITORY / "MODULE.bazel").read_text()
    project = (REPOSITORY / "pyproject.toml").read_text()
    for key in ("name", "version"):
        stated = re.search(rf'^{key} = "(.+)"$', project, re.MULTILINE)
        assert stated is not None
        assert f'    {key} = "{stated[1]}",\n' in text
    for path in re.findall(r'requirements_lock = "//:(.+)"', text):
        assert (REPOSITORY / path).is_file()
