"""Reads back the records that parquet.py and rlds.py wrote, to the byte, with the runs and sequences they had, and what
was found out about them (mark_intake.py).

A derived record names its parents by their positions in the store that it comes from, which are other records in
another: an export that has one is refused, as a statement about where it comes from must not become a false one.

Exceptions: ImportRefused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2
from replay.exchange.arrow_columns import FORMAT_VERSION, KIND_KEY, VERSION_KEY
from replay.exchange.errors import ImportRefused
from replay.exchange.intake import ImportedRecord
from replay.exchange.record_table import QUARANTINES_KEY, RECORDS, RECORDS_FILE
from replay.provenance import SIGNAL_MAX
from replay.store import run_key

_RECORD = ("origin", "header", "payload", "parents", "quarantine")
_FINDING = ("position", "actor_id", "run_id", "sequence", "marks", "quarantine")
_BATCH_ROWS = 256
_FINDING_ROWS = 8_192
_NAME_CHARACTERS_MAX = 128


class Finding(NamedTuple):
    """What was known about a record where it was exported."""

    position: int
    """There."""
    run: bytes
    """`run_key` of its origin."""
    sequence: int
    signals: Mapping[str, float]
    quarantine: int
    """Id of the oldest quarantine that it was under; 0: none."""


class ParquetRecords:
    """The records of an export, in its order; iterate over it. Memory is bounded by a row group.

    Args:
      path: of the export's directory, or of its records.parquet.

    Attributes:
      total: how many there are.
      quarantines: every quarantine there was, ascending by id.

    Raises ImportRefused, also from the iterations.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._path = path / RECORDS_FILE if path.is_dir() else path
            if not self._path.is_file():
                raise ImportRefused(f"{path} is no export: there is no {RECORDS_FILE}")
            with pq.ParquetFile(self._path) as file:
                self.total: int = file.metadata.num_rows
                metadata = file.metadata.metadata or {}
                schema = file.schema_arrow
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from error
        if metadata.get(KIND_KEY) != RECORDS.encode() or not set(_RECORD + _FINDING) <= set(schema.names):
            raise ImportRefused(f"{self._path} is a Parquet file, but not the records of an export of Temper's")
        version = metadata.get(VERSION_KEY, b"").decode(errors="replace")
        if version != str(FORMAT_VERSION):
            raise ImportRefused(f"{self._path} has format version {version!r}, this program reads {FORMAT_VERSION}")
        self.quarantines = self._entries(metadata.get(QUARANTINES_KEY, b"[]"))
        self._lifted = {entry.id for entry in self.quarantines if entry.lifted_time_ns}
        self._check()

    def __iter__(self) -> Iterator[ImportedRecord]:
        origins: dict[bytes, common_pb2.Origin] = {}
        for row, (origin, header, payload, _, quarantine) in self._rows(_RECORD, _BATCH_ROWS):
            yield self._record(row, origins, origin, header, payload)._replace(quarantined=self._is_held(quarantine))

    def findings(self) -> Iterator[Finding]:
        """Of every record, in the same order."""
        for row, (position, actor_id, run_id, sequence, marks, quarantine) in self._rows(_FINDING, _FINDING_ROWS):
            named = isinstance(position, int) and isinstance(sequence, int)
            if not (named and isinstance(actor_id, str) and isinstance(run_id, str)):
                raise ImportRefused(f"row {row} of {self._path} does not say which record it is")
            try:
                held = quarantine if self._is_held(quarantine) else 0
                found = common_pb2.RecordMarks(signals=dict(marks or ()), quarantine=held)
            except (TypeError, ValueError) as error:
                raise ImportRefused(f"row {row} of {self._path} holds no marks: {error}") from error
            self._check_signals(row, found.signals)
            run = run_key(common_pb2.Origin(actor_id=actor_id, run_id=run_id))
            yield Finding(position, run, sequence, found.signals, found.quarantine)

    def _rows(self, columns: Sequence[str], batch_rows: int) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Number and values of each row."""
        try:
            with pq.ParquetFile(self._path) as file:
                row = 0
                for batch in file.iter_batches(batch_rows, columns=list(columns)):
                    for values in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
                        yield row, values
                        row += 1
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise self._unreadable(error) from error

    def _record(
        self, row: int, origins: dict[bytes, common_pb2.Origin], origin: bytes, header: bytes, payload: bytes
    ) -> ImportedRecord:
        try:
            if origin not in origins:
                origins[origin] = common_pb2.Origin.FromString(origin)
            record = common_pb2.Record(header=common_pb2.RecordHeader.FromString(header), payload=payload)
        except (DecodeError, TypeError) as error:
            raise ImportRefused(f"row {row} of {self._path} holds no record: {error}") from error
        if record.header.parents:
            raise self._derived(row, record.header.parents)
        return ImportedRecord(origins[origin], record)

    def _check(self) -> None:
        """Refuses what cannot be imported before any record is."""
        for row, (parents,) in self._rows(("parents",), _FINDING_ROWS):
            if parents:
                raise self._derived(row, parents)
        for _ in self.findings():
            pass

    def _check_signals(self, row: int, signals: Mapping[str, float]) -> None:
        for name, value in signals.items():
            if not 1 <= len(name) <= _NAME_CHARACTERS_MAX or not abs(value) <= SIGNAL_MAX:
                raise ImportRefused(
                    f"row {row} of {self._path} has the mark {name[:_NAME_CHARACTERS_MAX]!r} = {value}: its name must "
                    f"have 1 to {_NAME_CHARACTERS_MAX} characters, and it must be finite and within +-{SIGNAL_MAX:.0e}"
                )

    def _is_held(self, quarantine: int | None) -> bool:
        """Whether this is a quarantine in force; one that nothing is said about is taken to be."""
        return bool(quarantine) and quarantine not in self._lifted

    def _entries(self, text: bytes) -> Sequence[replay_pb2.QuarantineEntry]:
        try:
            entries = [json_format.ParseDict(each, replay_pb2.QuarantineEntry()) for each in json.loads(text)]
        except (ValueError, TypeError, json_format.ParseError) as error:
            raise self._unreadable(error) from error
        return sorted(entries, key=lambda entry: entry.id)

    def _derived(self, row: int, parents: Sequence[int]) -> ImportRefused:
        return ImportRefused(
            f"row {row} of {self._path} was derived from the records {list(parents)[:10]} of the store it comes from, "
            "which are others here: nothing was imported; export with --filter 'parents == 0'"
        )

    def _unreadable(self, error: Any) -> ImportRefused:
        return ImportRefused(f"{self._path} cannot be read: {(str(error).splitlines() or [type(error).__name__])[0]}")
