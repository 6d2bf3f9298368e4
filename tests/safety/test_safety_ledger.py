"""The ledger: torn tails are cut off and noted, every other change is detected."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safety.canonical_json import canonical_json
from safety.ledger import NO_ENTRY, RECOVERED, Ledger, LedgerError, LedgerInUse, parse_ledger, read_ledger


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000_000_000_000

    def __call__(self) -> int:
        self.now += 1
        return self.now


def compose(number: int, previous: bytes) -> dict[str, Any]:
    return {"number": number, "follows": previous.hex()}


def fill(directory: Path, count: int) -> None:
    ledger = Ledger(directory, Clock())
    for number in range(count):
        ledger.append("verdict", functools.partial(compose, number))
    ledger.close()


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Path]:
    fill(tmp_path, 5)
    yield tmp_path


def lines(directory: Path) -> list[bytes]:
    return (directory / "ledger.jsonl").read_bytes().splitlines(keepends=True)


def write(directory: Path, changed: list[bytes]) -> None:
    (directory / "ledger.jsonl").write_bytes(b"".join(changed))


def test_entries_are_chained_and_survive(filled: Path) -> None:
    ledger = Ledger(filled)
    entries = ledger.entries()
    ledger.close()
    assert [entry.index for entry in entries] == list(range(5))
    assert entries[0].previous == NO_ENTRY
    for before, entry in itertools.pairwise(entries):
        assert entry.previous == before.digest
        assert entry.fields["follows"] == before.digest.hex()
    assert tuple(entries) == tuple(read_ledger(filled))


def test_an_entry_is_the_documented_line(filled: Path) -> None:
    tree = json.loads(lines(filled)[3])
    digest = tree.pop("digest")
    assert hashlib.sha256(canonical_json(tree)).hexdigest() == digest
    assert set(tree) == {"index", "previous", "kind", "time_ns", "number", "follows"}
    head = json.loads((filled / "ledger.head").read_bytes())
    assert head == {"index": 4, "digest": json.loads(lines(filled)[4])["digest"]}


def test_appending_goes_on_where_it_ended(filled: Path) -> None:
    ledger = Ledger(filled)
    assert ledger.append("verdict", lambda _: {}).index == 5
    ledger.close()
    assert len(read_ledger(filled)) == 6


def test_threads_never_share_a_place(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    threads = [
        threading.Thread(
            target=lambda: [ledger.append("x", lambda previous: {"follows": previous.hex()}) for _ in range(5)]
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.close()
    entries = read_ledger(tmp_path)
    assert len(entries) == 20
    assert all(entry.fields["follows"] == entry.previous.hex() for entry in entries)


@pytest.mark.parametrize("torn", [b"{", b"\0" * 300, b'{"index":5', "whole"])
def test_a_torn_last_line_is_cut_off_and_noted(filled: Path, torn: bytes | str) -> None:
    if isinstance(torn, str):
        # A whole line but for its line feed was not acknowledged either.
        shutil.copytree(filled, filled / "other")
        ledger = Ledger(filled / "other", Clock())
        ledger.append("verdict", lambda _: {})
        ledger.close()
        torn = lines(filled / "other")[5][:-1]
    before = (filled / "ledger.jsonl").read_bytes()
    (filled / "ledger.jsonl").write_bytes(before + torn)
    assert len(read_ledger(filled)) == 5
    ledger = Ledger(filled)
    ledger.close()
    entries = read_ledger(filled)
    assert len(entries) == 6
    assert (filled / "ledger.jsonl").read_bytes().startswith(before)
    assert entries[5].kind == RECOVERED
    assert entries[5].fields == {"dropped_bytes": len(torn), "dropped_sha256": hashlib.sha256(torn).hexdigest()}


def test_a_torn_first_line_leaves_an_empty_ledger(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_bytes(b'{"index":0')
    ledger = Ledger(tmp_path)
    assert [entry.kind for entry in ledger.entries()] == [RECOVERED]
    ledger.close()


def test_a_crash_between_entry_and_head_loses_nothing(filled: Path) -> None:
    old_head = (filled / "ledger.head").read_bytes()
    ledger = Ledger(filled)
    ledger.append("verdict", lambda _: {})
    ledger.close()
    (filled / "ledger.head").write_bytes(old_head)
    ledger = Ledger(filled)
    assert len(ledger.entries()) == 6
    ledger.close()
    assert json.loads((filled / "ledger.head").read_bytes())["index"] == 5


def edited(line: bytes, **changes: Any) -> bytes:
    """The line as somebody would write it who knows the format and recomputes the digest."""
    tree = json.loads(line) | changes
    tree.pop("digest")
    return canonical_json(tree | {"digest": hashlib.sha256(canonical_json(tree)).hexdigest()}) + b"\n"


def test_every_edit_is_detected(filled: Path) -> None:
    original, head = lines(filled), (filled / "ledger.head").read_bytes()
    damages = {
        "a value changed": [*original[:2], original[2].replace(b'"number":2', b'"number":7'), *original[3:]],
        "a value and its digest changed": [*original[:2], edited(original[2], number=7), *original[3:]],
        "the last entry and its digest changed": [*original[:4], edited(original[4], number=7)],
        "a line removed": [*original[:2], *original[3:]],
        "lines exchanged": [original[0], original[2], original[1], *original[3:]],
        "a line doubled": [*original[:3], original[2], *original[3:]],
        "a blank line": [*original[:2], b"\n", *original[2:]],
        "a line cut in the middle": [*original[:2], original[2][:20] + b"\n", *original[3:]],
        "spaces added": [*original[:2], original[2].replace(b":", b": ", 1), *original[3:]],
        "a key doubled": [*original[:2], original[2].replace(b"{", b'{"index":2,', 1), *original[3:]],
        "not an object": [*original[:2], b"[]\n", *original[3:]],
        "the last lines cut off": original[:3],
        "the last line cut off": original[:4],
        "the last acknowledged line torn": [*original[:4], original[4][:-5]],
        "everything cut off": [],
        "several entries added": [*original, *forged(original[-1], 2)],
    }
    for name, damaged in damages.items():
        write(filled, damaged)
        with pytest.raises(LedgerError):
            Ledger(filled)
            pytest.fail(name)
        assert (filled / "ledger.jsonl").read_bytes() == b"".join(damaged), f"{name}: evidence was touched"
        assert (filled / "ledger.head").read_bytes() == head
    write(filled, original)
    Ledger(filled).close()


def forged(last: bytes, count: int) -> list[bytes]:
    added: list[bytes] = []
    for _ in range(count):
        tree = json.loads((added or [last])[-1])
        added.append(edited(last, index=tree["index"] + 1, previous=tree["digest"]))
    return added


@pytest.mark.parametrize("head", [b"", b"[]", b'{"index":4}', b'{"index":4,"digest":"00"}', b"\xff"])
def test_a_damaged_head_is_detected(filled: Path, head: bytes) -> None:
    (filled / "ledger.head").write_bytes(head)
    with pytest.raises(LedgerError, match="head"):
        Ledger(filled)


def test_a_missing_head_or_ledger_is_detected(filled: Path) -> None:
    head = (filled / "ledger.head").read_bytes()
    (filled / "ledger.head").unlink()
    with pytest.raises(LedgerError, match="cut off or added"):
        Ledger(filled)
    (filled / "ledger.head").write_bytes(head)
    (filled / "ledger.jsonl").unlink()
    with pytest.raises(LedgerError, match="cut off or added"):
        Ledger(filled)
    with pytest.raises(LedgerError, match="cannot be read"):
        read_ledger(filled / "nowhere")


def test_only_one_has_it_open(filled: Path) -> None:
    ledger = Ledger(filled)
    with pytest.raises(LedgerInUse, match="another safety service"):
        Ledger(filled)
    ledger.close()
    Ledger(filled).close()


def test_after_a_failed_write_nothing_is_appended_and_nothing_is_lost(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(filled)
    write_to_disk = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write_to_disk(descriptor, data[: len(data) // 2]))
    with pytest.raises(LedgerError, match="restart"):
        ledger.append("verdict", lambda _: {})
    monkeypatch.undo()
    with pytest.raises(LedgerError, match="restart"):
        ledger.append("verdict", lambda _: {})
    ledger.close()
    ledger = Ledger(filled)
    assert len(ledger.entries()) == 5
    ledger.close()


def test_after_a_failed_sync_nothing_counts_until_it_is_opened_anew(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(filled)

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(LedgerError, match="Input/output error"):
        ledger.append("verdict", lambda _: {})
    monkeypatch.undo()
    assert len(ledger.entries()) == 5
    with pytest.raises(LedgerError):
        ledger.append("verdict", lambda _: {})
    ledger.close()


def test_fields_that_cannot_be_written_leave_it_as_it_was(filled: Path) -> None:
    ledger = Ledger(filled)
    with pytest.raises(ValueError, match="JSON"):
        ledger.append("verdict", lambda _: {"value": float("nan")})
    assert ledger.append("verdict", lambda _: {}).index == 5
    ledger.close()


@given(st.integers(0, 4000), st.integers(0, 7))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_no_flipped_bit_goes_unnoticed(tmp_path_factory: pytest.TempPathFactory, position: int, bit: int) -> None:
    directory = tmp_path_factory.mktemp("ledger")
    fill(directory, 3)
    data = bytearray((directory / "ledger.jsonl").read_bytes())
    data[position % len(data)] ^= 1 << bit
    (directory / "ledger.jsonl").write_bytes(bytes(data))
    with pytest.raises(LedgerError):
        Ledger(directory)
    shutil.rmtree(directory)


def test_parsing_tells_the_line(filled: Path) -> None:
    damaged = b"".join([*lines(filled)[:2], b"{}\n"])
    with pytest.raises(LedgerError, match="NAME line 3"):
        parse_ledger(damaged, "NAME")


def test_who_only_reads_notices_an_end_that_was_cut_off(filled: Path) -> None:
    assert len(read_ledger(filled)) == 5
    whole = lines(filled)
    write(filled, whole[:-2])
    with pytest.raises(LedgerError, match="ends at entry 2, its head names entry 4"):
        read_ledger(filled)
    write(filled, whole)
    (filled / "ledger.head").unlink()
    with pytest.raises(LedgerError, match="head is missing"):
        read_ledger(filled)
