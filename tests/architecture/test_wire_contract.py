"""The .proto files as documents: everything in them is explained, and the committed code is what they give."""

import functools
import importlib.resources
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

from protos.generate import proto_files
from tests.architecture.source_tree import REPOSITORY

# Field numbers of descriptor.proto, of which the paths of source locations are made.
FILE_MESSAGES, FILE_SERVICES = 4, 6
MESSAGE_FIELDS, MESSAGE_MESSAGES, MESSAGE_ENUMS = 2, 3, 4
ENUM_VALUES, SERVICE_METHODS = 2, 2


@functools.cache
def _described() -> tuple[FileDescriptorProto, ...]:
    well_known = str(importlib.resources.files("grpc_tools") / "_proto")
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "set"
        command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"-I{well_known}", "--include_source_info"]
        subprocess.run([*command, f"--descriptor_set_out={output}", *proto_files()], cwd=REPOSITORY, check=True)
        return tuple(FileDescriptorSet.FromString(output.read_bytes()).file)


def _explained(file: FileDescriptorProto) -> dict[tuple[int, ...], str]:
    return {
        tuple(location.path): location.leading_comments + location.trailing_comments
        for location in file.source_code_info.location
    }


def _elements(file: FileDescriptorProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and path of every field, enum value and method."""
    for index, message in enumerate(file.message_type):
        yield from _message_elements(message, message.name, (FILE_MESSAGES, index))
    for index, service in enumerate(file.service):
        for number, method in enumerate(service.method):
            yield f"{service.name}.{method.name}", (FILE_SERVICES, index, SERVICE_METHODS, number)


def _message_elements(
    message: DescriptorProto, name: str, path: tuple[int, ...]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    for index, field in enumerate(message.field):
        yield f"{name}.{field.name}", (*path, MESSAGE_FIELDS, index)
    for index, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            yield from _message_elements(nested, f"{name}.{nested.name}", (*path, MESSAGE_MESSAGES, index))
    for index, enum in enumerate(message.enum_type):
        for number, value in enumerate(enum.value):
            # The zero value says "unset" by its name.
            if value.number != 0:
                yield f"{name}.{value.name}", (*path, MESSAGE_ENUMS, index, ENUM_VALUES, number)


def test_committed_code_is_what_the_proto_files_give() -> None:
    command = [sys.executable, "-m", "protos.generate", "--check"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", proto_files())
def test_everything_has_its_comment(name: str) -> None:
    """Every field (its unit and shape), enum value and method."""
    file = next(file for file in _described() if file.name == name)
    explained = _explained(file)
    assert len(list(_elements(file))) > 0
    assert [element for element, path in _elements(file) if not explained[path].strip()] == []


@pytest.mark.parametrize("name", proto_files())
def test_package_says_name_and_version(name: str) -> None:
    """protos/replay/v1/replay.proto speaks for temper.replay.v1."""
    file = next(file for file in _described() if file.name == name)
    folder = Path(name).parent
    assert file.package == f"temper.{folder.parent.name}.{folder.name}"
