"""The journal of draws on a real disk: what it gives back, what it forgets, and damaged pieces of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.draw_journal import DrawJournal, DrawnBatch, JournalFailed, content_of
from replay.testing import make_header


def batch(number: int, era: int = 0) -> DrawnBatch:
    """Batch `number` of the run: three fresh records in log order, two others."""
    return DrawnBatch(number, era, (3 * number, 3 * number + 1, 3 * number + 2), (number, 2**50 + number), number % 7)


def filled(directory: Path, count: int, checkpoints: dict[int, int] | None = None) -> None:
    """Leaves a journal of so many batches, of an update each; checkpoints: the oldest one to go back to, by batch."""
    journal = DrawJournal(directory)
    journal.go_on_from(0, 0, {0: 0})
    for number in range(count):
        if checkpoints and number in checkpoints:
            journal.checkpointed(number, number, {0: 3 * number}, checkpoints[number])
        journal.append(batch(number))
    journal.close()


def test_what_was_appended_is_found_from_any_batch_on(tmp_path: Path) -> None:
    filled(tmp_path, 9, {4: 0, 6: 0})
    read = DrawJournal(tmp_path)
    for number in range(11):
        assert read.batches(number, 0) == [batch(each) for each in range(number, 9)]
    assert read.first_fresh() == {0: 0}


def test_what_no_checkpoint_needs_any_more_is_dropped(tmp_path: Path) -> None:
    filled(tmp_path, 10, {3: 0, 6: 3, 8: 6})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "000000000006-000000000006.draws",
        "000000000008-000000000008.draws",
    ]
    assert DrawJournal(tmp_path).batches(6, 0) == [batch(number) for number in range(6, 10)]
    assert DrawJournal(tmp_path).batches(3, 0) == []
    assert DrawJournal(tmp_path).first_fresh() is None


@pytest.mark.parametrize("number", [0, 2, 4, 5, 7])
def test_goes_on_from_a_batch_and_forgets_what_was_beyond(tmp_path: Path, number: int) -> None:
    filled(tmp_path, 7, {4: 0})
    journal = DrawJournal(tmp_path)
    journal.go_on_from(number, number, {0: 3 * number})
    assert DrawJournal(tmp_path).batches(0, 0) == [batch(each) for each in range(number)]
    again = DrawnBatch(number, 0, (90, 91), (), 5)
    journal.append(again)
    journal.close()
    assert DrawJournal(tmp_path).batches(0, 0) == [*(batch(each) for each in range(number)), again]


def test_batches_of_another_era_are_none_to_go_on_with(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    journal = DrawJournal(tmp_path)
    journal.go_on_from(3, 3, {0: 9})
    journal.checkpointed(3, 4, {0: 9}, 0)
    journal.append(batch(3, era=1))
    journal.close()
    assert DrawJournal(tmp_path).batches(1, 0) == [batch(1), batch(2)]
    assert DrawJournal(tmp_path).batches(3, 1) == [batch(3, era=1)]


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_damaged_or_torn_file_ends_it_and_is_written_over(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int
) -> None:
    directory = tmp_path_factory.mktemp("journal")
    filled(directory, 6)
    (path,) = directory.iterdir()
    data = bytearray(path.read_bytes())
    at = place % len(data)
    if value == data[at]:
        data = data[:at]
    else:
        data[at] = value
    path.write_bytes(data)
    journal = DrawJournal(directory)
    found = journal.batches(0, 0)
    # Of the head only the names in it can change without that it is noticed; of the entries nothing.
    assert found == [batch(number) for number in range(len(found))]
    assert len(found) < 6 or at < data.index(b"\n")
    journal.go_on_from(len(found), len(found), {0: 0})
    journal.append(batch(len(found)))
    journal.close()
    assert DrawJournal(directory).batches(0, 0)[-1:] == [batch(len(found))]


def test_one_that_cannot_be_written_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalFailed, match=r"cannot be written.*the run ends") as failed:
        DrawJournal(tmp_path / "file" / "draws")
    assert "\n" not in str(failed.value)


def test_other_records_have_another_content() -> None:
    headers = [make_header(), make_header()]
    for index, header in enumerate(headers):
        header.payload_digest = bytes([index]) * 32
    assert content_of(headers) == content_of(headers) != content_of(headers[::-1])
