"""The candidate that is kept: one, whole, of this run, or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from learner.candidate_file import Candidate, CandidateFile, CandidateFileError
from policies.testing import make_artifact

RUN = "run-1"
ONE, TWO = (Candidate(7 + seed, make_artifact(seed=seed).to_bytes(), bytes([seed]) * 32) for seed in (1, 2))
WITHOUT_LINEAGE = Candidate(9, ONE.data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "learner" / "candidate"


@pytest.mark.parametrize("candidate", [ONE, WITHOUT_LINEAGE], ids=["with lineage", "without"])
def test_what_is_kept_is_read(path: Path, candidate: Candidate) -> None:
    CandidateFile(path, RUN).keep(candidate)
    assert CandidateFile(path, RUN).read() == candidate
    head = path.read_bytes().split(b"\n")[:2]
    assert head[0] == b"temper.candidate.v1"
    assert b'"run_id": "run-1"' in head[1]


def test_there_is_one_and_none_once_it_is_removed(path: Path) -> None:
    file = CandidateFile(path, RUN)
    assert file.read() is None
    file.keep(ONE)
    file.keep(TWO)
    assert file.read() == TWO
    assert list(path.parent.iterdir()) == [path]
    file.remove()
    file.remove()
    assert file.read() is None
    assert list(path.parent.iterdir()) == []


def test_a_write_that_was_not_finished_leaves_nothing(path: Path) -> None:
    CandidateFile(path, RUN).keep(ONE)
    (path.parent / ".candidate.4711").write_bytes(b"half")
    assert CandidateFile(path, RUN).read() == ONE
    assert list(path.parent.iterdir()) == [path]


def test_what_is_damaged_is_no_candidate(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    CandidateFile(path, RUN).keep(ONE)
    whole = path.read_bytes()
    head_bytes = len(whole) - len(ONE.data)
    damaged = [
        b"",
        *(whole[:end] for end in (1, 25, head_bytes - 1, head_bytes, len(whole) - 1)),
        whole + b"!",
        whole.replace(b"candidate.v1", b"candidate.v2"),
        whole.replace(b'"version"', b'"vision"'),
        whole.replace(b"{", b"[", 1),
        *(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in (head_bytes, len(whole) - 1)),
        b"\xff" * 10_000,
    ]
    for content in damaged:
        path.write_bytes(content)
        assert CandidateFile(path, RUN).read() is None, content[:80]
    assert len(caplog.records) == len(damaged)
    # It stands in the way of nothing.
    CandidateFile(path, RUN).keep(TWO)
    assert CandidateFile(path, RUN).read() == TWO


def test_another_runs_is_none(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    CandidateFile(path, "run-2").keep(ONE)
    assert CandidateFile(path, RUN).read() is None
    assert "it is of run 'run-2', this is run 'run-1'" in caplog.text


def test_where_it_cannot_be_kept_is_said(path: Path) -> None:
    path.parent.write_bytes(b"no directory")
    with pytest.raises(CandidateFileError, match=r"learner/candidate cannot be written: .*; it is not offered before"):
        CandidateFile(path, RUN).keep(ONE)
