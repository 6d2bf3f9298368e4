"""Regenerates the committed code of the wire contract, or with --check says whether it is what the .proto files give.

    python -m protos.generate            # write *_pb2.py, *_pb2.pyi, *_pb2_grpc.py, *_pb2_grpc.pyi beside each .proto
    python -m protos.generate --check    # exit 1 and name the files that differ

Needs the `dev` extra (grpcio-tools, mypy-protobuf). Not imported by anything else.
"""

from __future__ import annotations

import argparse
import importlib.resources
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
GENERATED_SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


def proto_files() -> list[str]:
    """Paths of all .proto files, relative to the repository root; a protobuf path is an import path."""
    return sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "protos").rglob("*.proto"))


def generate(destination: Path) -> None:
    """Runs protoc over every .proto, writing under `destination`. Raises CalledProcessError if protoc fails."""
    plugin = Path(sys.executable).with_name("protoc-gen-mypy_grpc")
    if not plugin.exists():
        raise FileNotFoundError(f"{plugin} is missing: install the dev extra, pip install 'temper[dev]'")
    well_known = str(importlib.resources.files("grpc_tools") / "_proto")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--plugin=protoc-gen-mypy_grpc={plugin}",
            "-I.",
            f"-I{well_known}",
            f"--python_out={destination}",
            f"--pyi_out={destination}",
            f"--grpc_python_out={destination}",
            f"--mypy_grpc_out=quiet:{destination}",
            *proto_files(),
        ],
        cwd=REPOSITORY,
        check=True,
    )


def generated_files(root: Path) -> dict[str, bytes]:
    """Content of every generated file under `root`, by its path relative to `root`."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted((root / "protos").rglob("*"))
        if path.name.endswith(GENERATED_SUFFIXES)
    }


def stale_files(fresh_root: Path) -> list[str]:
    """Generated files that are missing, superfluous or different in the repository, compared with `fresh_root`."""
    fresh, committed = generated_files(fresh_root), generated_files(REPOSITORY)
    return sorted(name for name in fresh.keys() | committed.keys() if fresh.get(name) != committed.get(name))


def main() -> int:
    """Command line entry; returns the exit status."""
    parser = argparse.ArgumentParser(description="Generate the committed protobuf and gRPC code.")
    parser.add_argument("--check", action="store_true", help="compare only, exit 1 if anything differs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        fresh_root = Path(directory)
        generate(fresh_root)
        stale = stale_files(fresh_root)
        if arguments.check:
            for name in stale:
                print(f"{name} is not what the .proto files give; run: python -m protos.generate")
            return 1 if stale else 0
        for name in stale:
            if (fresh_root / name).exists():
                shutil.copyfile(fresh_root / name, REPOSITORY / name)
                print(f"wrote {name}")
            else:
                (REPOSITORY / name).unlink()
                print(f"removed {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
