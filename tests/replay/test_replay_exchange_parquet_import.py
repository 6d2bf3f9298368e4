"""What a Parquet export brings back: every record to the byte, once; and files that are no export, or a broken one."""

from __future__ import annotations

import signal
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from replay.exchange.errors import ImportRefused
from replay.exchange.intake import ImportSummary, import_records
from replay.exchange.parquet import export_parquet
from replay.exchange.parquet_import import ParquetRecords
from replay.exchange.sink import StoreSink
from replay.lmdb_store import LmdbStore
from replay.offline import OfflineSource
from replay.payload_encoding import ZSTD
from replay.record import LoggedRecord
from replay.store import StoreSettings
from tests.replay.exchanged_records import contents, lane_records, logged, made_episodes, store_of


def made() -> list[LoggedRecord]:
    """Two runs in turn, one of them compressed."""
    runs = [
        logged(lane_records(made_episodes([5, 3, 6, 9]), 4), actor_id="actor-0"),
        logged(lane_records(made_episodes([7, 9, 8], 1), 4, lane=1, encoding=ZSTD), actor_id="actor-1"),
    ]
    return list(chain(*zip(*runs, strict=False)))


def exported(store: Path, directory: Path, filter_text: str = "") -> Path:
    with OfflineSource(store) as source:
        export_parquet(source.records(filter_text=filter_text, with_payload=True), directory)
    return directory


def imported(directory: Path, store: Path) -> ImportSummary:
    sink = StoreSink(LmdbStore(store, StoreSettings(durability="async")))
    try:
        return import_records(ParquetRecords(directory), sink)
    finally:
        sink.close()


def test_every_record_comes_back_to_the_byte(tmp_path: Path) -> None:
    records = made()
    there = store_of(tmp_path / "there", records)
    out = exported(there, tmp_path / "out")
    assert ParquetRecords(out).total == len(records)
    summary = imported(out, tmp_path / "here")
    assert summary == ImportSummary(len(records), 4 * len(records), len(records))
    assert contents(tmp_path / "here") == contents(there)
    assert len(contents(there)) == len(records)


def test_nothing_is_added_to_the_store_that_it_comes_from_nor_by_importing_twice(tmp_path: Path) -> None:
    there = store_of(tmp_path / "there", made())
    before = contents(there)
    out = exported(there, tmp_path / "out")
    assert imported(out, there).inserted == 0
    assert contents(there) == before
    assert imported(out, tmp_path / "here").inserted == len(before)
    assert imported(out, tmp_path / "here").inserted == 0
    assert contents(tmp_path / "here") == before


def test_parts_of_an_export_add_up(tmp_path: Path) -> None:
    there = store_of(tmp_path / "there", made())
    parts = [
        exported(there, tmp_path / f"part-{index}", filter_text)
        for index, filter_text in enumerate(("sequence >= 2", "actor_id == 'actor-0'", ""))
    ]
    inserted = [imported(part, tmp_path / "here").inserted for part in parts]
    assert all(count > 0 for count in inserted)
    assert sum(inserted) == len(made())
    assert contents(tmp_path / "here") == contents(there)


def test_an_imported_store_can_be_exported_again(tmp_path: Path) -> None:
    there = store_of(tmp_path / "there", made())
    imported(exported(there, tmp_path / "out"), tmp_path / "here")
    imported(exported(tmp_path / "here", tmp_path / "again"), tmp_path / "third")
    assert contents(tmp_path / "third") == contents(there)


def test_an_import_that_was_killed_goes_on(tmp_path: Path) -> None:
    """Killed for real, while groups are committed already."""
    there = store_of(tmp_path / "there", made())
    out = exported(there, tmp_path / "out")
    program = f"""
import sys
from pathlib import Path
from replay.exchange import intake
from replay.exchange.parquet_import import ParquetRecords
from replay.exchange.sink import StoreSink
from replay.lmdb_store import LmdbStore
from replay.store import StoreSettings
intake.GROUP_RECORDS_MAX = 2
def records():
    for index, record in enumerate(ParquetRecords(Path({str(out)!r}))):
        if index == 5:
            print("running", flush=True)
            sys.stdin.read()
        yield record
store = LmdbStore(Path({str(tmp_path / "here")!r}), StoreSettings(durability="async"))
intake.import_records(records(), StoreSink(store))
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.kill()
        assert process.wait(30) == -signal.SIGKILL
    assert imported(out, tmp_path / "here").inserted == len(made()) - 4
    assert contents(tmp_path / "here") == contents(there)


def test_the_file_itself_may_be_named(tmp_path: Path) -> None:
    out = exported(store_of(tmp_path / "there", made()), tmp_path / "out")
    assert ParquetRecords(out / "records.parquet").total == len(made())


def rewritten(out: Path, change: str) -> None:
    """Changes one thing about records.parquet."""
    table = pq.read_table(out / "records.parquet")
    if change == "payload":
        payloads = table["payload"].to_pylist()
        payloads[0] = bytes(len(payloads[0]))
        table = table.set_column(table.schema.get_field_index("payload"), "payload", pa.array(payloads, pa.binary()))
    elif change in ("header", "origin"):
        broken = pa.array([b"\xff\xff\xff"] * len(table), pa.binary())
        table = table.set_column(table.schema.get_field_index(change), change, broken)
    elif change == "column":
        table = table.drop_columns(["header"])
    elif change == "version":
        table = table.replace_schema_metadata({**table.schema.metadata, b"temper.format_version": b"99"})
    elif change == "kind":
        table = table.replace_schema_metadata({})
    pq.write_table(table, out / "records.parquet")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("payload", "payload has digest"),
        ("header", "row 0 of .* holds no record"),
        ("origin", "row 0 of .* holds no record"),
        ("column", "not the records of an export"),
        ("version", "has format version '99', this program reads 1"),
        ("kind", "not the records of an export"),
    ],
)
def test_what_is_not_as_it_was_written_is_refused(tmp_path: Path, change: str, said: str) -> None:
    out = exported(store_of(tmp_path / "there", made()), tmp_path / "out")
    rewritten(out, change)
    with pytest.raises(ImportRefused, match=said):
        imported(out, tmp_path / "here")
    assert not (tmp_path / "here").exists() or contents(tmp_path / "here") == []


def test_a_damaged_file_is_said_in_one_line(tmp_path: Path) -> None:
    out = exported(store_of(tmp_path / "there", made()), tmp_path / "out")
    raw = bytearray((out / "records.parquet").read_bytes())
    (out / "records.parquet").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ImportRefused, match=r"records\.parquet cannot be read") as refused:
        ParquetRecords(out)
    assert "\n" not in str(refused.value)
    raw[8 : len(raw) // 2] = bytes(len(raw) // 2 - 8)
    (out / "records.parquet").write_bytes(raw)
    with pytest.raises(ImportRefused, match=r"records\.parquet cannot be read"):
        list(ParquetRecords(out))


def test_what_is_no_export_is_said(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match=r"is no export: there is no records\.parquet"):
        ParquetRecords(tmp_path)
    with pytest.raises(ImportRefused, match="is no export"):
        ParquetRecords(tmp_path / "missing")
    (tmp_path / "text").write_text("no parquet")
    with pytest.raises(ImportRefused, match="cannot be read"):
        ParquetRecords(tmp_path / "text")


def test_a_derived_record_is_refused_for_its_parents_are_others_here(tmp_path: Path) -> None:
    records = made()
    records[3].header.parents.extend([0, 1])
    records[3].header.transformation = "relabelled"
    there = store_of(tmp_path / "there", records)
    with pytest.raises(ImportRefused, match=r"row 3 of .* was derived from the records \[0, 1\]"):
        imported(exported(there, tmp_path / "out"), tmp_path / "here")
    out = exported(there, tmp_path / "rest", "parents == 0")
    assert imported(out, tmp_path / "here").inserted == len(records) - 1


def test_a_name_that_no_file_can_have_is_said() -> None:
    with pytest.raises(ImportRefused, match="File name too long"):
        ParquetRecords(Path("x" * 5000))
