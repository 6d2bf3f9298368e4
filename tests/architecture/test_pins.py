"""The dependencies: what a thin actor brings, what is pinned, and which floors the generated code demands."""

import re
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from protos.common.v1 import common_pb2, common_pb2_grpc
from tests.architecture.pins import PIN_FILES, declared, installed_closure, pinned
from tests.architecture.source_tree import REPOSITORY, shipped_modules

LEARNER_ONLY = {"jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "lmdb", "tensorboardx", "tensorstore"}

PIN = re.compile(r"[a-z0-9._-]+==[0-9][\w.+]*( ; [^:]+)?( --hash=sha256:[0-9a-f]{64})+")

FILES = pytest.mark.parametrize("path", PIN_FILES, ids=lambda path: path.stem)


def test_core_and_gymnasium_bring_no_learner() -> None:
    assert not installed_closure("gym") & LEARNER_ONLY


def test_learner_extra_brings_the_learner() -> None:
    """The closure above would pass for the wrong reason if it followed nothing."""
    assert installed_closure("learner") >= {"jax", "jaxlib", "flax", "tensorstore"}


def test_one_file_for_each_purpose_and_python() -> None:
    names = {path.stem for path in PIN_FILES}
    assert names == {f"{purpose}-py{version}" for purpose in ("actor", "all", "dev") for version in (311, 312)}


@FILES
def test_every_line_is_a_pin_with_hashes(path: Path) -> None:
    """Nothing but `name==version`, an optional marker, and hashes: no address, no option that names one."""
    text = re.sub(r"\s*\\\n\s*", " ", path.read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert lines
    assert [line for line in lines if not PIN.fullmatch(line)] == []


@FILES
def test_pins_satisfy_what_is_declared(path: Path) -> None:
    """Also that pyproject.toml has not moved on without the pins."""
    extras = {
        "actor": ("", "gym"),
        "all": ("", "data", "gym", "learner", "minari", "minatar", "plots", "replay"),
        "dev": tuple(declared()),
    }[path.stem.partition("-")[0]]
    pins = pinned(path)
    for extra in extras:
        for requirement in declared()[extra]:
            version = pins[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version, prereleases=True), (requirement, version)


@FILES
def test_all_files_of_one_python_agree(path: Path) -> None:
    complete = pinned(path.with_name(f"dev-{path.stem.partition('-')[2]}.txt"))
    assert pinned(path).items() <= complete.items()


@pytest.mark.parametrize("version", ["py311", "py312"])
def test_thin_actor_pins_no_learner(version: str) -> None:
    assert not pinned(REPOSITORY / "requirements" / f"actor-{version}.txt").keys() & LEARNER_ONLY


def test_grpcio_floors_are_the_generated_stamps() -> None:
    stamps = {
        found
        for module in shipped_modules()
        if module.path.name.endswith("_pb2_grpc.py")
        for found in re.findall(r"^GRPC_GENERATED_VERSION = '(.+)'$", module.path.read_text(), re.MULTILINE)
    }
    assert stamps == {common_pb2_grpc.GRPC_GENERATED_VERSION}
    for name in ("grpcio", "grpcio-health-checking", "grpcio-reflection"):
        assert _floor(name) == common_pb2_grpc.GRPC_GENERATED_VERSION


def test_protobuf_floor_is_the_generated_stamp() -> None:
    stamp = re.search(r"Domain\.PUBLIC,\s+(\d+),\s+(\d+),\s+(\d+),", Path(common_pb2.__file__).read_text())
    assert stamp is not None
    assert _floor("protobuf") == ".".join(stamp.groups())


def _floor(name: str) -> str:
    specifiers = next(requirement.specifier for requirement in declared()[""] if requirement.name == name)
    return next(specifier.version for specifier in specifiers if specifier.operator == ">=")
