"""The generator tells apart what is current, altered, missing and superfluous."""

from pathlib import Path

import pytest

from protos import generate

ALTERED = "protos/common/v1/common_pb2.py"
MISSING = "protos/replay/v1/replay_pb2_grpc.py"
SUPERFLUOUS = "protos/policy/v1/gone_pb2.pyi"


@pytest.fixture(scope="module")
def fresh_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything freshly generated."""
    root = tmp_path_factory.mktemp("fresh")
    generate.generate(root)
    return root


def test_every_proto_file_gives_four_files(fresh_root: Path) -> None:
    stems = {name.removesuffix(".proto") for name in generate.proto_files()}
    assert {"protos/common/v1/common", "protos/safety/v1/safety"} <= stems
    assert set(generate.generated_files(fresh_root)) == {
        stem + suffix for stem in stems for suffix in generate.GENERATED_SUFFIXES
    }


def test_stale_files_are_named(fresh_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in generate.generated_files(fresh_root).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    monkeypatch.setattr(generate, "REPOSITORY", tmp_path)
    assert generate.stale_files(fresh_root) == []

    (tmp_path / ALTERED).write_text("# edited by hand\n")
    (tmp_path / MISSING).unlink()
    (tmp_path / SUPERFLUOUS).touch()
    assert generate.stale_files(fresh_root) == sorted([ALTERED, MISSING, SUPERFLUOUS])
