"""Priorities of a segment, against a dictionary."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from replay.priority_file import PriorityFile
from replay.store import StoreError, StoreFull


def test_as_a_dictionary_would(tmp_path: Path) -> None:
    generator, expected = np.random.default_rng(5), dict[int, float]()
    file = PriorityFile(tmp_path, "per")
    assert [array.tolist() for array in file.read()] == [[], []]
    for _ in range(30):
        offsets = np.unique(generator.integers(0, 500, int(generator.integers(1, 60))))
        priorities = np.where(generator.random(len(offsets)) < 0.2, 0.0, generator.random(len(offsets)))
        file.put(offsets, priorities)
        expected.update(zip(offsets.tolist(), priorities.astype(np.float32).astype(float).tolist(), strict=True))
        found = PriorityFile(tmp_path, "per").read()
        assert dict(zip(*(array.tolist() for array in found), strict=True)) == dict(sorted(expected.items()))


def test_the_bytes_are_those_specified(tmp_path: Path) -> None:
    PriorityFile(tmp_path, "a/b").put(np.array([1, 3]), np.array([0.0, 0.5]))
    (file,) = tmp_path.iterdir()
    assert file.name == "priorities-a%2Fb"
    assert file.read_bytes() == np.array([0.0, -0.0, 0.0, 0.5], "<f4").tobytes()


def test_what_is_too_large_or_too_small_stays_a_priority(tmp_path: Path) -> None:
    file = PriorityFile(tmp_path, "per")
    file.put(np.array([0, 1]), np.array([1e300, 1e-300]))
    offsets, priorities = file.read()
    assert offsets.tolist() == [0, 1]
    assert np.isfinite(priorities).all()
    assert priorities[0] > 1e38
    assert 0 < priorities[1] < 1e-37


def test_garbage_is_no_priority(tmp_path: Path) -> None:
    values = np.array([np.nan, -1.0, np.inf, -np.inf, 2.0], "<f4")
    (tmp_path / "priorities-per").write_bytes(values.tobytes() + b"xyz")
    offsets, priorities = PriorityFile(tmp_path, "per").read()
    assert (offsets.tolist(), priorities.tolist()) == ([4], [2.0])


def test_deleting(tmp_path: Path) -> None:
    file = PriorityFile(tmp_path, "per")
    file.put(np.array([0]), np.array([1.0]))
    for _ in range(2):
        file.delete()
        assert len(file.read()[0]) == 0


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, StoreFull), (errno.EIO, StoreError)])
def test_failures_are_told(code: int, kind: type[StoreError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(StoreError, match="not all priorities were stored") as error:
        PriorityFile(tmp_path, "per").put(np.array([0]), np.array([1.0]))
    assert type(error.value) is kind


def test_a_short_write_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda *_: 2)
    with pytest.raises(StoreFull, match="No space left on device"):
        PriorityFile(tmp_path, "per").put(np.array([0]), np.array([1.0]))
