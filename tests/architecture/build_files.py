"""Writes the BUILD files from the source, or with --check says which of them are not what the source gives.

    python -m tests.architecture.build_files            # write
    python -m tests.architecture.build_files --check    # exit 1 and name the files that differ

One target per file, so that `replay.store`, `//replay:store` and replay/store.py are one word; the __init__.py of a
folder is the target named after the folder. Dependencies are the imports, visibility is the order of the layers.
MODULE.bazel and the root BUILD are written by hand.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.architecture import source_tree
from tests.architecture.source_tree import DEVELOPMENT, LAYERS, REPOSITORY, Module

HEADER = "# Written by `make generate` from the imports of the files beside it; `make check` compares.\n"

LOADS = {
    "proto_library": "@protobuf//bazel:proto_library.bzl",
    "py_binary": "@rules_python//python:py_binary.bzl",
    "py_library": "@rules_python//python:py_library.bzl",
    "py_test": "@rules_python//python:py_test.bzl",
}

SHARED_NAMESPACES = {"google.protobuf": "protobuf"}
"""Distributions whose top-level import name does not say which distribution it is."""

IN_A_PEERS_ENVIRONMENT = {"cpprb", "flashbax", "reverb", "sample_factory", "tensorflow", "torch"}
"""Imported only by benchmark scripts that run under the interpreter of the peer they measure."""

Attributes = Mapping[str, str | bool | Sequence[str]]


def label(module: Module) -> str:
    """The target of a module: "//replay:store", or "//replay" for replay/__init__.py."""
    folder = module.path.parent.relative_to(REPOSITORY).as_posix()
    return f"//{folder}" if module.is_package else f"//{folder}:{module.path.stem}"


def visibility(layer: str) -> list[str]:
    """Who may depend on the targets of a layer: itself, those above it, tests and benchmarks; on benchmarks, tests."""
    above = LAYERS[LAYERS.index(layer) :] + DEVELOPMENT if layer in LAYERS else {layer, "tests"}
    return sorted(f"//{name}:__subpackages__" for name in above)


def third_party_label(name: str) -> str | None:
    """The target of the distribution that provides the dotted import `name`; None for what is not pinned here.

    Raises LookupError where no distribution, or more than one, provides it.
    """
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top in IN_A_PEERS_ENVIRONMENT:
        return None
    for prefix, distribution in SHARED_NAMESPACES.items():
        if name == prefix or name.startswith(prefix + "."):
            return _hub_label(distribution)
    providers = set(_distributions().get(top, ()))
    if len(providers) != 1:
        raise LookupError(f"import {name} is provided by {sorted(providers) or 'no installed distribution'}")
    return _hub_label(providers.pop())


def _hub_label(distribution: str) -> str:
    return "@third_party//" + re.sub(r"[-_.]+", "_", distribution).lower()


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def dependencies(module: Module) -> list[str]:
    """Labels of what `module` imports, and of the __init__.py that is loaded before it, in Bazel's order."""
    known = source_tree.modules_by_name()
    imports = source_tree.imports_of(module)
    own = set(imports.own)
    if module.layer == "tests":
        own |= source_tree.modules_named_in_strings(module)
    parent = module.name.rpartition(".")[0]
    if parent in known:
        own.add(parent)
    labels = {label(known[name]) for name in own if name in known}
    labels |= {found for name in imports.foreign if (found := third_party_label(name))}
    return _in_order(labels, module.path.parent)


def _in_order(labels: set[str], folder: Path) -> list[str]:
    package = f"//{folder.relative_to(REPOSITORY).as_posix()}"
    local = {text: text.removeprefix(package) for text in labels if text.startswith(package + ":")}
    if package in labels:
        local[package] = f":{folder.name}"
    return sorted(local.values()) + sorted(labels - local.keys(), key=lambda text: (text.startswith("@"), text))


def rule(kind: str, attributes: Attributes) -> str:
    """One call of a rule; attributes that are empty or False are left out."""
    lines = [f"{kind}("]
    for name, value in attributes.items():
        if value is True:
            lines.append(f"    {name} = True,")
        elif isinstance(value, str):
            lines.append(f'    {name} = "{value}",')
        elif value and len(value) == 1:
            lines.append(f'    {name} = ["{value[0]}"],')
        elif value:
            lines += [f"    {name} = [", *(f'        "{item}",' for item in value), "    ],"]
    return "\n".join([*lines, ")"]) + "\n"


def library(module: Module) -> str:
    """The py_library of a module; what only tests may use is testonly."""
    stub = module.path.with_suffix(".pyi")
    return rule(
        "py_library",
        {
            "name": module.path.parent.name if module.is_package else module.path.stem,
            "testonly": module.layer in DEVELOPMENT
            or module.path.stem == "testing"
            or module.path.stem.endswith("_contract"),
            "srcs": [module.path.name],
            "data": ["py.typed"] if module.is_package and module.path.with_name("py.typed").exists() else [],
            "pyi_srcs": [stub.name] if stub.exists() else [],
            "deps": dependencies(module),
        },
    )


def test(module: Module) -> str:
    """The py_test of a module, run by pytest under the settings of pyproject.toml."""
    conftests = {
        label(found)
        for folder in module.path.parents
        if (found := _module_at(folder / "conftest.py")) and REPOSITORY in folder.parents
    }
    runner = {"@third_party//pytest", "@third_party//pytest_timeout"}
    return rule(
        "py_test",
        {
            "name": module.path.stem,
            "srcs": [module.path.name],
            "args": ["--config-file=$(location //:pyproject.toml)", f"$(location {module.path.name})"],
            "data": ["//:pyproject.toml"],
            "main_module": "pytest",
            # These read the whole checkout, which a sandbox does not hold.
            "tags": ["manual"] if module.path.parent.name == "architecture" else [],
            "deps": _in_order({*_absolute(dependencies(module), module), *conftests, *runner}, module.path.parent),
        },
    )


def _module_at(path: Path) -> Module | None:
    return next((module for module in source_tree.modules_by_name().values() if module.path == path), None)


def _absolute(labels: Sequence[str], module: Module) -> list[str]:
    package = f"//{module.path.parent.relative_to(REPOSITORY).as_posix()}"
    return [package + text if text.startswith(":") else text for text in labels]


def proto_library(path: Path) -> str:
    """The proto_library of a .proto file; its dependencies are its imports."""
    imported = re.findall(r'^import "(\S+)/(\w+)\.proto";', path.read_text(), re.MULTILINE)
    return rule(
        "proto_library",
        {
            "name": f"{path.stem}_proto",
            "srcs": [path.name],
            "deps": sorted(f"//{folder}:{stem}_proto" for folder, stem in imported),
        },
    )


def command() -> str:
    """The `temper` program: the command line, and every module that some module starts or imports by name."""
    started = {
        name for module in source_tree.shipped_modules() for name in source_tree.modules_named_in_strings(module)
    }
    known = source_tree.modules_by_name()
    labels = {label(known[name]) for name in {*started, "launch.cli"} if known[name].layer in LAYERS}
    deps = _in_order(labels, REPOSITORY / "launch")
    return rule("py_binary", {"name": "temper", "main_module": "launch.cli", "deps": deps})


def build_file(folder: Path) -> str:
    """The whole BUILD file of a folder."""
    layer = folder.relative_to(REPOSITORY).parts[0]
    inside = [module for module in source_tree.modules_by_name().values() if module.path.parent == folder]
    rules = [proto_library(path) for path in sorted(folder.glob("*.proto"))]
    for module in sorted(inside, key=lambda module: module.path.name):
        rules.append(test(module) if module.path.stem.startswith("test_") else library(module))
    if folder == REPOSITORY / "launch" and "launch.cli" in source_tree.modules_by_name():
        rules.append(command())
    used = sorted({text.partition("(")[0] for text in rules})
    loads = "".join(f'load("{LOADS[kind]}", "{kind}")\n' for kind in sorted(used, key=LOADS.__getitem__))
    return "\n".join([HEADER, loads, rule("package", {"default_visibility": visibility(layer)}), *rules])


def folders() -> list[Path]:
    """Every folder that holds Python modules."""
    return sorted({module.path.parent for module in source_tree.modules_by_name().values()})


def stale_files() -> dict[Path, str | None]:
    """BUILD files that are missing, different or superfluous, with the text they should have (None: no such file)."""
    wanted: dict[Path, str | None] = {folder / "BUILD": build_file(folder) for folder in folders()}
    for name in (*LAYERS, *DEVELOPMENT):
        for path in (REPOSITORY / name).rglob("BUILD"):
            wanted.setdefault(path, None)
    return {
        path: text for path, text in sorted(wanted.items()) if (path.read_text() if path.exists() else None) != text
    }


def main() -> int:
    """Command line entry; returns the exit status."""
    parser = argparse.ArgumentParser(description="Generate the committed BUILD files.")
    parser.add_argument("--check", action="store_true", help="compare only, exit 1 if anything differs")
    arguments = parser.parse_args()
    stale = stale_files()
    for path, text in stale.items():
        name = path.relative_to(REPOSITORY)
        if arguments.check:
            print(f"{name} is not what the source gives; run: make generate")
        elif text is None:
            path.unlink()
            print(f"removed {name}")
        else:
            path.write_text(text)
            print(f"wrote {name}")
    return 1 if arguments.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
