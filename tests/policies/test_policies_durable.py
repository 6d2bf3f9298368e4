"""Durable files: replaced or created whole, never through what somebody else has put there."""

import stat
from pathlib import Path
from typing import IO, Any

import pytest

from policies.durable import create_file, read_private_file, replace_file


def test_a_file_is_replaced(tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        replace_file(tmp_path / "file", content, 0o600)
        assert (tmp_path / "file").read_bytes() == content
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_is_created_once(tmp_path: Path) -> None:
    create_file(tmp_path / "file", b"one")
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "file", b"two")
    assert (tmp_path / "file").read_bytes() == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "link", b"new")
    replace_file(tmp_path / "link", b"new")
    assert (tmp_path / "target").read_bytes() == b"precious"
    assert not (tmp_path / "link").is_symlink()


def test_a_private_file_is_read_only_while_it_is_private(tmp_path: Path) -> None:
    create_file(tmp_path / "file", b"secret", 0o600)
    assert read_private_file(tmp_path / "file", 100) == b"secret"
    assert read_private_file(tmp_path / "file", 3) == b"sec"
    for mode in (0o640, 0o604, 0o620, 0o601):
        (tmp_path / "file").chmod(mode)
        with pytest.raises(PermissionError, match=f"mode {mode:04o} and must be for its owner alone"):
            read_private_file(tmp_path / "file", 100)


def test_the_mode_judged_is_that_of_the_file_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, mode in (("exposed", 0o644), ("private", 0o600)):
        create_file(tmp_path / name, b"secret", mode)
    opened = Path.open

    def open_and_exchange(path: Path, mode: str) -> IO[Any]:
        file = opened(path, mode)
        (tmp_path / "private").replace(tmp_path / "exposed")
        return file

    monkeypatch.setattr(Path, "open", open_and_exchange)
    with pytest.raises(PermissionError):
        read_private_file(tmp_path / "exposed", 100)


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "missing" / "file", b"")
