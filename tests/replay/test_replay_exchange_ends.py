"""How exports and imports end where they cannot go on: one line, a status, and nothing that looks whole; and exports of
a log that changes meanwhile."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from launch.cli import main
from protos.common.v1 import common_pb2
from replay import record_pages
from replay.client import ReplayClient
from replay.config import ReplayConfig
from replay.exchange.errors import ExportFailed, ExportRefused
from replay.exchange.output import failing, new_directory, new_file
from replay.exchange.parquet import export_parquet
from replay.exchange.rlds import export_rlds
from replay.exchange.service_sink import ServiceSink
from replay.exchange.sink import RunRecords
from replay.record import LoggedRecord
from replay.record_pages import paged
from replay.testing import serving
from tests.replay.exchanged_records import contents, lane_records, left_in, logged, made_episodes, store_of

FORMATS = ["parquet", "rlds", "jsonl", "prov"]
IN_NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
MOUNT = 'mount -t tmpfs -o size="$0" none "$1"'

RECORDS = logged(lane_records(made_episodes([400] * 8), 4))
"""Some 800 records."""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return store_of(tmp_path / "store", RECORDS[:60])


@pytest.mark.parametrize("form", FORMATS)
def test_an_interrupted_export_leaves_nothing(store: Path, tmp_path: Path, form: str) -> None:
    """By a real signal, while records are being written."""
    program = f"""
import sys, time
from launch.cli import main
from launch.commands import replay_export
def slowly(records, shown):
    for index, record in enumerate(records):
        if index == 40:
            print("running", flush=True)
            time.sleep(60)
        yield record
replay_export.counted = slowly
sys.exit(main(["replay", "export", {str(store)!r}, {str(tmp_path / "out")!r}, "--format", {form!r}]))
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "running\n"
        assert any(name.startswith(".out.") for name in left_in(tmp_path))
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() == ""
    assert left_in(tmp_path) == ["store"]


def test_a_full_disk_ends_an_export_and_an_import_in_one_line(tmp_path: Path) -> None:
    """For real: a small file system of its own, in a namespace of its own, where that is allowed."""
    store, small = store_of(tmp_path / "store", RECORDS), tmp_path / "small"
    assert main(["replay", "export", str(store), str(tmp_path / "out")]) == 0
    small.mkdir()
    if subprocess.run([*IN_NAMESPACE, MOUNT, "1m", str(small)], check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting is not allowed here")
    program = f"""
import contextlib, io, json, os
from launch.cli import main
for form in {FORMATS}:
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = main(["replay", "export", {str(store)!r}, {str(small / "out")!r}, "--format", form])
    print(json.dumps([status, said.getvalue(), os.listdir({str(small)!r})]))
os.mkdir({str(small / "here")!r})
said = io.StringIO()
with contextlib.redirect_stderr(said):
    status = main(["replay", "import", {str(small / "here")!r}, {str(tmp_path / "out")!r}, "--format", "parquet"])
print(json.dumps([status, said.getvalue(), sorted(os.listdir({str(small / "here")!r}))]))
"""
    done = subprocess.run(
        [*IN_NAMESPACE, f'{MOUNT} && exec "$2" -c "$3"', "100k", str(small), sys.executable, program],
        capture_output=True,
        text=True,
        check=True,
    )
    *exports, imported = [json.loads(line) for line in done.stdout.splitlines()]
    expected = f"temper: cannot write {small / 'out'}: No space left on device; nothing was written\n"
    assert exports == [[1, expected, []]] * len(FORMATS)
    assert imported[0] == 1
    assert imported[1].count("\n") == 1


def test_what_fails_is_named_as_it_was_asked_for(tmp_path: Path) -> None:
    for opened in (new_directory, new_file):
        with pytest.raises(ExportFailed, match=f"cannot write {tmp_path}/out: Input/output error; nothing"):  # noqa: SIM117
            with opened(tmp_path / "out") as unfinished, failing(unfinished / "within"):
                raise OSError(5, "words of somebody's own")
        assert left_in(tmp_path) == []


@pytest.mark.parametrize("path", ["missing/out", "file/out", "x" * 300])
def test_where_nothing_can_be_made_is_bad_input(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    for opened in (new_directory, new_file):
        with pytest.raises(ExportRefused, match="nothing was written") as refused, opened(tmp_path / path):
            pass
        assert not isinstance(refused.value, ExportFailed)
    assert left_in(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "words",
    [
        ["stats", "{long}"],
        ["export", "{long}", "{out}"],
        ["export", "{store}", "{long}"],
        ["export", "{store}", "{long}", "--format", "jsonl"],
        ["import", "{long}", "{out}"],
        ["import", "{store}", "{long}"],
        ["import", "{store}", "{long}", "--format", "parquet"],
        ["verify", "{store}", "--env", "{long}"],
        ["lineage", "{store}", "3", "--run-dir", "{long}"],
        ["quarantine", "{store}", "position < 3", "--dry-run", "--run-dir", "{long}"],
        ["stats", ""],
        ["import", "", "{out}"],
    ],
)
def test_what_cannot_be_looked_at_is_bad_input(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """A name that no file can have stands for all that the file system may say."""
    long, out = "x" * 5000, tmp_path / "out"
    assert main(["replay", *(word.format(long=long, store=store, out=out) for word in words)]) == 2
    printed, err = capsys.readouterr()
    assert printed == ""
    assert err.startswith("temper: ")
    assert err.count("\n") == 1
    assert left_in(tmp_path) == ["store"]


@pytest.mark.parametrize("export", [export_parquet, export_rlds])
def test_a_log_that_changes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, export: object) -> None:
    """Records are evicted and quarantined, and come to an end, between one page and the next."""
    monkeypatch.setattr(record_pages, "PAGE_RECORDS", 16)
    bytes_max = 200 * len(RECORDS[0].payload)
    config = ReplayConfig(payload_bytes_max=bytes_max, fresh_unconsumed_max=100_000, segment_bytes=2**20)
    with serving(config, tmp_path / "replay") as address, ReplayClient(address) as client:
        sink = ServiceSink(address)
        sent = iter(RECORDS)

        def append(count: int) -> None:
            records = [common_pb2.Record(header=each.header, payload=each.payload) for each in islice(sent, count)]
            sink.append([RunRecords(RECORDS[0].origin, records)])

        def changing() -> Iterator[LoggedRecord]:
            for index, record in enumerate(paged(client, with_payload=True)):
                if index in (40, 100):
                    append(120)
                    client.quarantine(f"position > {record.position + 3}", f"at {index}")
                yield record

        append(180)
        summary = export(changing(), tmp_path / "out", client.quarantines)  # type: ignore[operator]
        sink.close()
        evicted = client.stats().evicted_records
    table = pq.read_table(tmp_path / "out" / "records.parquet")
    positions, held = table["position"].to_pylist(), table["quarantine"].to_pylist()
    assert summary.records == len(positions)
    assert positions == sorted(set(positions))
    assert evicted > positions[0]
    assert {number for number in held if number} == {1, 2}
    assert main(["replay", "import", str(_empty(tmp_path / "here")), str(tmp_path / "out"), "--format", "parquet"]) == 0
    assert len(contents(tmp_path / "here")) == len(positions)


def _empty(directory: Path) -> Path:
    directory.mkdir()
    return directory
