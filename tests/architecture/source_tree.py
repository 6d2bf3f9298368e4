"""What the checkout consists of: its Python modules, and what each of them imports, read without running them.

Shared by the architecture tests and by the BUILD generator. Knows nothing of Bazel.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent

LAYERS = ("protos", "replay", "policies", "actors", "safety", "learner", "launch")
"""The shipped packages, lowest first: each may import those before it."""

DEVELOPMENT = ("tests", "benchmarks")
"""Folders of code that is not shipped, and that nothing shipped may import."""

GENERATED_SUFFIXES = ("_pb2.py", "_pb2_grpc.py")


@dataclasses.dataclass(frozen=True)
class Module:
    """One Python file. `name` is how it is imported: "replay.store", or "replay" for replay/__init__.py."""

    path: Path
    name: str

    @property
    def relative_path(self) -> str:
        """Path from the repository root, with forward slashes."""
        return self.path.relative_to(REPOSITORY).as_posix()

    @property
    def is_package(self) -> bool:
        """Whether this is the __init__.py of a folder."""
        return self.path.name == "__init__.py"

    @property
    def is_generated(self) -> bool:
        """Whether protoc wrote it."""
        return self.path.name.endswith(GENERATED_SUFFIXES)

    @property
    def layer(self) -> str:
        """The top-level folder it is in."""
        return self.name.partition(".")[0]

    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return _parse(self.path)


@functools.cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


@functools.cache
def modules(*folders: str) -> tuple[Module, ...]:
    """All modules under the named top-level folders, in order of path."""
    found = []
    for folder in folders:
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found.append(Module(path, ".".join(parts)))
    return tuple(found)


@functools.cache
def modules_by_name() -> dict[str, Module]:
    """Every module of the checkout, shipped or not, by import name."""
    return {module.name: module for module in modules(*LAYERS, *DEVELOPMENT)}


def shipped_modules() -> tuple[Module, ...]:
    """The modules that a wheel contains, in order of layer and path."""
    return modules(*LAYERS)


@dataclasses.dataclass(frozen=True)
class Imports:
    """What one module imports, anywhere in it: at its head, inside functions, or for type checking only.

    `own` are modules of this checkout; `foreign` are dotted names of everything else, the standard library included.
    """

    own: frozenset[str]
    foreign: frozenset[str]


def imports_of(module: Module) -> Imports:
    """Everything `module` imports, wherever in the file."""
    return _imports(module, list(ast.walk(module.tree())))


def imports_when_loaded(module: Module) -> Imports:
    """What loading `module` executes: not the imports inside functions, nor those for type checking only."""
    return _imports(module, _nodes_when_loaded(module.tree()))


def _imports(module: Module, nodes: Sequence[ast.AST]) -> Imports:
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                names.add(submodule if submodule in modules_by_name() else base)
    names.discard(module.name)
    own = {name for name in names if name.partition(".")[0] in (*LAYERS, *DEVELOPMENT)}
    return Imports(frozenset(own), frozenset(names - own))


def _nodes_when_loaded(tree: ast.AST) -> list[ast.AST]:
    found: list[ast.AST] = []
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not _is_type_checking(node):
            found += [node, *_nodes_when_loaded(node)]
    return found


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def modules_named_in_strings(module: Module) -> frozenset[str]:
    """Modules of this checkout that `module` names in a string: what it starts as a process or imports by name."""
    strings = (node.value for node in ast.walk(module.tree()) if isinstance(node, ast.Constant))
    return frozenset(
        text for text in strings if isinstance(text, str) and "." in text and text in modules_by_name()
    ) - {module.name}
