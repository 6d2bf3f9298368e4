"""What was found out about records comes with them: signals and quarantines, once, and never over what is newer."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf import json_format
from pyroaring import BitMap64

from launch.cli import main
from replay.client import ReplayClient
from replay.config import ReplayConfig
from replay.curation import duplicates
from replay.curation.catalog import known_rules
from replay.exchange.errors import ImportRefused
from replay.exchange.mark_intake import POSITION_SIGNALS, MarkSummary, import_marks
from replay.exchange.parquet_import import ParquetRecords
from replay.exchange.sink import StoreSink
from replay.exchange.whereabouts import RunPositions, Whereabouts
from replay.lmdb_store import LmdbStore
from replay.offline import OfflineSource
from replay.record import LoggedRecord
from replay.store import StoreSettings
from replay.testing import serving
from tests.replay.exchanged_records import contents, lane_records, logged, made_episodes, store_of

RECORDS = [
    *logged(lane_records(made_episodes([5, 3, 6, 9]), 4), actor_id="actor-0"),
    *logged(lane_records(made_episodes([7, 9, 8], 1), 4, lane=1), actor_id="actor-1", run_id="run-1"),
]
COUNT = len(RECORDS)

SIGNALS: Mapping[int, Mapping[str, float]] = {
    0: {"success": 1.0, "verified": 1.0, "mismatch": 0.0, "verification_error": 1e-7},
    2: {"duplicate_of": 0.0, "novelty": 0.25},
    3: {"success": 0.0, "near_duplicate_of": 2.0},
    7: {"a name of its own": -3.5},
}


class Held(NamedTuple):
    """A quarantine as a store has it."""

    entry: dict[str, Any]
    positions: set[int]


def marked_store(directory: Path) -> Path:
    """A store of RECORDS with signals, two quarantines in force and one that was lifted."""
    store_of(directory, RECORDS)
    with OfflineSource(directory, writable=True) as source:
        source.annotate(SIGNALS)
        source.quarantine("position == 6", "looked odd")
        source.quarantine("actor_id == 'actor-1'", "its sensor was miscalibrated")
        source.quarantine("position in [1, 6]", "by hand")
        source.lift_quarantine(1, "was not")
    return directory


def quarantines(directory: Path) -> list[Held]:
    with OfflineSource(directory) as source:
        return [Held(json_format.MessageToDict(each.entry), set(each.positions)) for each in source.view.quarantines()]


def marks(directory: Path) -> dict[tuple[str, int], tuple[dict[str, float], int]]:
    """Signals and quarantine of every record that has any, by run and sequence."""
    with OfflineSource(directory) as source:
        return {
            (record.origin.run_id, record.header.sequence): (dict(record.marks.signals), record.marks.quarantine)
            for record in source.records()
            if record.marks.signals or record.marks.quarantine
        }


def temper(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What a command prints; it succeeds."""
    capsys.readouterr()
    status = main(["replay", *map(str, words)])
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    return out


def imported(capsys: pytest.CaptureFixture[str], target: object, out: Path, *words: str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(temper(capsys, "import", target, out, "--format", "parquet", "--json", *words))
    return said


def exported(capsys: pytest.CaptureFixture[str], target: object, out: Path, *words: str) -> Path:
    temper(capsys, "export", target, out, *words)
    return out


def empty(directory: Path) -> Path:
    directory.mkdir()
    return directory


@pytest.mark.parametrize("form", ["parquet", "rlds"])
def test_there_and_back_is_the_identity(tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    there, here = marked_store(tmp_path / "there"), empty(tmp_path / "here")
    out = exported(capsys, there, tmp_path / "out", "--format", form)
    said = imported(capsys, here, out)
    held = sum(record.origin.actor_id == "actor-1" for record in RECORDS) + 1
    assert (said["inserted"], said["left_out"], said["marked"], said["quarantined"]) == (COUNT, 0, len(SIGNALS), held)
    again = exported(capsys, here, tmp_path / "again", "--format", form)
    for file in sorted(path.name for path in out.iterdir()):
        first, second = pq.read_table(out / file), pq.read_table(again / file)
        assert first.equals(second)
        assert len(first) > 0
    assert contents(here) == contents(there)
    assert marks(here) == marks(there)
    assert len(marks(here)) > len(SIGNALS)
    # What was lifted is history: of the records that it once held, none is held by it.
    before, now = quarantines(there), quarantines(here)
    assert before[0].entry.pop("records") == "1"
    now[0].entry.pop("records", None)
    assert now == [Held(before[0].entry, set()), before[1]._replace(entry=now[1].entry), now[2]]
    assert [each.entry["why"] for each in now] == ["looked odd", "its sensor was miscalibrated", "by hand"]
    assert now[1].entry == before[1].entry


def test_the_same_again_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there, here = marked_store(tmp_path / "there"), empty(tmp_path / "here")
    out = exported(capsys, there, tmp_path / "out")
    imported(capsys, here, out)
    before = (contents(here), marks(here), quarantines(here))
    again = imported(capsys, here, out)
    assert (again["inserted"], again["marked"], again["quarantined"]) == (0, 0, 0)
    assert (contents(here), marks(here), quarantines(here)) == before
    # Nor does it in the store that it comes from.
    before = (contents(there), marks(there), quarantines(there))
    imported(capsys, there, out)
    assert (contents(there), marks(there), quarantines(there)) == before


def test_what_was_found_here_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = exported(capsys, marked_store(tmp_path / "there"), tmp_path / "out")
    here = store_of(tmp_path / "here", RECORDS)
    with OfflineSource(here, writable=True) as source:
        source.annotate({0: {"verified": 0.0, "mismatch": 1.0}})
    assert imported(capsys, here, out)["inserted"] == 0
    assert marks(here)["run-0", 0][0] == {"success": 1.0, "verified": 0.0, "mismatch": 1.0, "verification_error": 1e-7}


def test_who_was_freed_here_stays_free(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = exported(capsys, marked_store(tmp_path / "there"), tmp_path / "out")
    here = empty(tmp_path / "here")
    imported(capsys, here, out)
    with OfflineSource(here, writable=True) as source:
        source.lift_quarantine(2, "they were fine")
    assert imported(capsys, here, out)["quarantined"] == 0
    assert {key for key, (_, quarantine) in marks(here).items() if quarantine} == {("run-0", 1)}


def test_parts_of_an_export_add_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there, here = marked_store(tmp_path / "there"), empty(tmp_path / "here")
    for index, chosen in enumerate(("position in [0, 2, 4, 6, 8]", "position >= 5", "")):
        imported(capsys, here, exported(capsys, there, tmp_path / f"part-{index}", "--filter", chosen))
    assert contents(here) == contents(there)
    assert {key: bool(quarantine) for key, (_, quarantine) in marks(here).items()} == {
        key: bool(quarantine) for key, (_, quarantine) in marks(there).items()
    }
    with OfflineSource(here) as source:
        assert len(source.view.quarantined()) == sum(bool(quarantine) for _, quarantine in marks(there).values())


def test_a_position_becomes_that_of_today(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = marked_store(tmp_path / "there")
    other = logged(lane_records(made_episodes([30], 2), 4), actor_id="actor-9", run_id="run-9")
    here = store_of(tmp_path / "here", other)
    imported(capsys, here, exported(capsys, there, tmp_path / "out"))
    found = marks(here)
    assert found["run-0", 2][0] == {"duplicate_of": float(len(other)), "novelty": 0.25}
    assert found["run-0", 3][0] == {"near_duplicate_of": float(len(other) + 2), "success": 0.0}


def test_a_position_that_did_not_come_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there, here = marked_store(tmp_path / "there"), empty(tmp_path / "here")
    imported(capsys, here, exported(capsys, there, tmp_path / "out", "--filter", "position >= 2"))
    assert marks(here)["run-0", 2][0] == {"novelty": 0.25}
    assert marks(here)["run-0", 3][0] == {"near_duplicate_of": 0.0, "success": 0.0}


def test_every_signal_that_is_a_position_is_known() -> None:
    rules = known_rules([]).values()
    named = {name for rule in rules if rule.function.__module__ == duplicates.__name__ for name in rule.signals}
    assert named == POSITION_SIGNALS


def test_marks_may_be_left_behind_but_then_who_is_quarantined_is_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there, here = marked_store(tmp_path / "there"), empty(tmp_path / "here")
    out = exported(capsys, there, tmp_path / "out")
    held = sum(quarantine > 0 for _, quarantine in marks(there).values())
    said = imported(capsys, here, out, "--no-marks")
    assert (said["inserted"], said["left_out"], said["marked"], said["quarantined"]) == (COUNT - held, held, 0, 0)
    assert (marks(here), quarantines(here)) == ({}, [])
    assert "were left out" in temper(capsys, "import", here, out, "--format", "parquet", "--no-marks")
    assert imported(capsys, here, out)["inserted"] == held
    assert len(contents(here)) == COUNT


def test_a_service_takes_signals_and_nobody_under_quarantine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = marked_store(tmp_path / "there")
    out = exported(capsys, there, tmp_path / "out")
    held = {key for key, (_, quarantine) in marks(there).items() if quarantine}
    with serving(ReplayConfig(store="memory")) as address, ReplayClient(address) as client:
        said = imported(capsys, address, out)
        assert (said["inserted"], said["left_out"], said["quarantined"]) == (COUNT - len(held), len(held), 0)
        found = {
            (record.origin.run_id, record.header.sequence): dict(record.marks.signals) for record in client.records()
        }
        assert not held & found.keys()
        assert {key: values for key, values in found.items() if values} == {
            key: {**values, "near_duplicate_of": 1.0} if key == ("run-0", 3) else values
            for key, (values, quarantine) in marks(there).items()
            if values and not quarantine
        }
        again = imported(capsys, address, out)
        assert (again["inserted"], again["marked"], again["left_out"]) == (0, 0, len(held))
        assert client.quarantines() == []


def test_an_import_that_was_killed_before_the_marks_is_completed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed for real, with the records committed and no mark written, and again with the first one written."""
    there, here = marked_store(tmp_path / "there"), empty(tmp_path / "here")
    out = exported(capsys, there, tmp_path / "out")
    program = f"""
import sys
from launch.cli import main
from replay.lmdb_store import LmdbStore
def stop(*arguments, **settings):
    print("running", flush=True)
    sys.stdin.read()
LmdbStore.{{name}} = stop
sys.exit(main(["replay", "import", {str(here)!r}, {str(out)!r}, "--format", "parquet"]))
"""
    for name in ("quarantine", "annotate"):
        with subprocess.Popen(
            [sys.executable, "-c", program.format(name=name)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "running\n"
            process.kill()
            assert process.wait(30) == -signal.SIGKILL
    assert contents(here) == contents(there)
    assert marks(here) != marks(there)
    assert imported(capsys, here, out)["inserted"] == 0
    assert marks(here) == marks(there)
    assert [each.entry["why"] for each in quarantines(here)] == [each.entry["why"] for each in quarantines(there)]


def test_a_quarantine_that_the_export_says_nothing_of_is_kept(tmp_path: Path) -> None:
    """As where another program wrote the file again, without what it says about itself."""
    out = tmp_path / "out"
    assert main(["replay", "export", str(marked_store(tmp_path / "there")), str(out)]) == 0
    table = pq.read_table(out / "records.parquet")
    metadata = {name: value for name, value in table.schema.metadata.items() if name != b"temper.quarantines"}
    pq.write_table(table.replace_schema_metadata(metadata), out / "records.parquet")
    assert main(["replay", "import", str(empty(tmp_path / "here")), str(out), "--format", "parquet"]) == 0
    assert [each.entry["why"] for each in quarantines(tmp_path / "here")] == [
        "under quarantine 2 where it was exported",
        "under quarantine 3 where it was exported",
    ]
    assert marks(tmp_path / "here").keys() == marks(tmp_path / "there").keys()


MAP = pa.map_(pa.string(), pa.float64())


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("marks", pa.array([[("", 1.0)]], MAP), "row 0 of .* has the mark '' = 1.0"),
        ("marks", pa.array([[("x" * 129, 1.0)]], MAP), "its name must have 1 to 128 characters"),
        ("marks", pa.array([[("x", float("nan"))]], MAP), "the mark 'x' = nan"),
        ("marks", pa.array([[("x", -1e17)]], MAP), "it must be finite and within"),
        ("marks", pa.array([[("x", None)]], MAP), "holds no marks"),
        ("marks", pa.array(["x"]), "holds no marks"),
        ("quarantine", pa.array(["x"]), "holds no marks"),
        ("quarantine", pa.array([-1]), "holds no marks"),
        ("sequence", pa.array([None], pa.uint64()), "does not say which record it is"),
        ("position", pa.array(["x"]), "does not say which record it is"),
        ("run_id", pa.array([7]), "does not say which record it is"),
    ],
)
def test_marks_that_cannot_be_are_refused_with_nothing_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], column: str, value: Any, said: str
) -> None:
    out = exported(capsys, store_of(tmp_path / "there", RECORDS[:1]), tmp_path / "out")
    table = pq.read_table(out / "records.parquet")
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, value), out / "records.parquet")
    with pytest.raises(ImportRefused, match=said):
        ParquetRecords(out)


def test_a_list_of_quarantines_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["replay", "export", str(marked_store(tmp_path / "there")), str(out)]) == 0
    table = pq.read_table(out / "records.parquet")
    for text in (b"{", b"[7]", b'[{"id": "x"}]', b"7", b"\xff"):
        broken = table.replace_schema_metadata({**table.schema.metadata, b"temper.quarantines": text})
        pq.write_table(broken, out / "records.parquet")
        with pytest.raises(ImportRefused, match="cannot be read"):
            ParquetRecords(out)


def test_marks_of_runs_too_many_to_be_named_come_too(tmp_path: Path) -> None:
    """Then the whole log is looked through."""
    records = [each for run in range(300) for each in logged_run(f"run-with-a-long-name-{run}")]
    there = store_of(tmp_path / "there", records)
    with OfflineSource(there, writable=True) as source:
        source.annotate({position: {"x": float(position)} for position in range(len(records))})
    assert main(["replay", "export", str(there), str(tmp_path / "out")]) == 0
    store = LmdbStore(tmp_path / "here", StoreSettings(durability="async"))
    sink = StoreSink(store)
    exports = ParquetRecords(tmp_path / "out")
    assert import_marks(exports, [sink]) == MarkSummary(0, 0)
    sink.close()
    store_of(tmp_path / "other", list(reversed(records)))
    assert main(["replay", "import", str(tmp_path / "other"), str(tmp_path / "out"), "--format", "parquet"]) == 0
    assert marks(tmp_path / "other") == marks(there)


def logged_run(run_id: str) -> list[LoggedRecord]:
    return logged(list(lane_records(made_episodes([5]), 4))[:1], run_id=run_id)


def test_positions_are_found_by_run_and_sequence() -> None:
    exported_positions, stored = RunPositions(), RunPositions()
    for run, sequence, position in ((b"a", 0, 10), (b"a", 2, 12), (b"b", 0, 11), (b"c", 0, 13)):
        exported_positions.add(run, sequence, position)
    for run, sequence, position in ((b"b", 0, 2**48), (b"a", 2, 0), (b"a", 1, 1), (b"a", 0, 2), (b"d", 0, 3)):
        stored.add(run, sequence, position)
    where = Whereabouts(exported_positions, stored)
    assert where.now([9, 10, 11, 12, 13, 14, 10]) == [None, 2, 2**48, 0, None, None, 2]
    assert Whereabouts(RunPositions(), stored).now([1, 2]) == [None, None]


def test_a_quarantine_comes_to_every_shard_as_often(tmp_path: Path) -> None:
    """Also where it had come to one of them only, so that the shards have the same ones again."""
    out = tmp_path / "out"
    assert main(["replay", "export", str(marked_store(tmp_path / "there")), str(out)]) == 0
    parts = [StoreSink(LmdbStore(tmp_path / f"shard-{shard}", StoreSettings())) for shard in range(3)]
    first = ParquetRecords(out).quarantines[0]
    parts[1].store.quarantine(first, BitMap64())
    import_marks(ParquetRecords(out), parts)
    known = [[(each.entry.id, each.entry.why) for each in part.store.quarantines()] for part in parts]
    for part in parts:
        part.close()
    assert known == [[(1, "looked odd"), (2, "its sensor was miscalibrated"), (3, "by hand")]] * 3
