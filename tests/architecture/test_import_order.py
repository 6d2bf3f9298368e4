"""Who may import whom, over the whole source."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.build_files import third_party_label
from tests.architecture.pins import declared, declared_distributions
from tests.architecture.source_tree import (
    DEVELOPMENT,
    LAYERS,
    REPOSITORY,
    Module,
    imports_of,
    modules,
    modules_by_name,
    shipped_modules,
)

THIN_ENTRIES = ("actors.host", "policies.client", "replay.client", "replay.client_sharded")
NOT_IN_A_THIN_ACTOR = {"jax", "jaxlib", "flax", "optax", "orbax", "lmdb", "pyroaring", "pyarrow", "tyro", "rich"} | {
    "tensorboardX"
}


def test_layers_and_circles() -> None:
    """The contracts of import-linter in pyproject.toml: layers one way, no circle inside a package."""
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_linter_knows_the_layers() -> None:
    """The layers in pyproject.toml are those that these tests know, highest first."""
    found = re.search(r"^layers = \[(.*)\]$", (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    assert tuple(re.findall(r'"(\w+)"', found[1])) == tuple(reversed(LAYERS))


def test_every_import_of_our_own_exists() -> None:
    known = modules_by_name()
    folders = {name.rpartition(".")[0] for name in known}
    missing = {
        f"{module.name} imports {name}"
        for module in known.values()
        for name in imports_of(module).own
        if name not in known and name not in folders
    }
    assert missing == set()


def test_nothing_shipped_imports_tests_or_benchmarks() -> None:
    found = {
        f"{module.name} imports {name}"
        for module in shipped_modules()
        for name in imports_of(module).own
        if name.partition(".")[0] in DEVELOPMENT
    }
    assert found == set()


FOR_TESTS = (".testing", "_contract")


def test_only_tests_import_what_is_for_tests() -> None:
    """The fakes and contract tests in each package's testing.py, or beside it where they are long."""
    found = {
        f"{module.name} imports {name}"
        for module in shipped_modules()
        for name in imports_of(module).own
        if name.endswith(FOR_TESTS) and not module.name.endswith(FOR_TESTS)
    }
    assert found == set()


def _distributions_imported_by(module: Module) -> set[str]:
    labels = {third_party_label(name) for name in imports_of(module).foreign}
    return {label.rpartition("/")[2] for label in labels if label is not None}


def test_third_party_imports_are_declared() -> None:
    """In the core or in an extra; only the code generator, contract tests and tests may need the dev extra."""
    for_users = declared_distributions(declared().keys() - {"dev"})
    for_developers = declared_distributions(declared().keys())
    undeclared = {
        f"{module.name} imports {name}"
        for module in (*shipped_modules(), *modules("tests"))
        for name in _distributions_imported_by(module)
        - (for_developers if module.name.endswith(FOR_TESTS) or _is_for_developers(module) else for_users)
    }
    assert undeclared == set()


def _is_for_developers(module: Module) -> bool:
    return module.layer in DEVELOPMENT or module.name == "protos.generate"


@pytest.mark.parametrize("layer", LAYERS)
def test_packages_are_ours(layer: str) -> None:
    """`safety`, for one, is also a name on package indexes; what is imported must be this checkout's."""
    package = importlib.import_module(layer)
    assert package.__file__ == str(REPOSITORY / layer / "__init__.py")


def test_thin_actor_loads_no_learner_library() -> None:
    """An actor process is numpy, grpcio and its environment: seen in a fresh interpreter."""
    code = f"import sys, {', '.join(THIN_ENTRIES)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert {"numpy", "grpc"} <= loaded
    assert loaded & NOT_IN_A_THIN_ACTOR == set()
