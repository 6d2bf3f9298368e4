"""DIRECTORY/records.parquet being written: the part of an export that can be imported again (see record_table.py).

Its metadata also has, as JSON under "temper.quarantines", every quarantine there was when the export ended: what the
numbers in the column `quarantine` stand for.

Exceptions: ExportFailed where the disk does not take it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from google.protobuf import json_format

from protos.replay.v1 import replay_pb2
from replay.exchange.parquet_writer import ParquetFile
from replay.exchange.record_table import FEW_VALUES, QUARANTINES_KEY, RECORDS_FILE, RECORDS_SCHEMA, Row, records_table
from replay.record import LoggedRecord

GROUP_ROWS_MAX = 8_192
GROUP_BYTES_MAX = 16 * 1024**2

Quarantines = Callable[[], Sequence[replay_pb2.QuarantineEntry]]
"""Asks for every quarantine there is or was."""


def no_quarantines() -> Sequence[replay_pb2.QuarantineEntry]:
    """Of records that come from no store."""
    return ()


class RecordsFile:
    """Records on their way into the file, as a context manager: complete at its end, let go of on an exception."""

    def __init__(self, directory: Path) -> None:
        self._file = ParquetFile(directory / RECORDS_FILE, RECORDS_SCHEMA, FEW_VALUES)
        self._rows: list[Row] = []
        self._bytes = 0

    def __enter__(self) -> RecordsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, trace)

    def add(self, record: LoggedRecord, layout: int | None = None) -> None:
        """A record with its payload, and which steps file has its steps, if one has."""
        self._rows.append(Row(record, layout))
        self._bytes += len(record.payload)
        if len(self._rows) >= GROUP_ROWS_MAX or self._bytes >= GROUP_BYTES_MAX:
            self._flush()

    def finish(self, quarantines: Sequence[replay_pb2.QuarantineEntry]) -> None:
        """Once, after the last record: asked for after it, every quarantine that a record is under is known."""
        self._flush()
        entries = [json_format.MessageToDict(entry, preserving_proto_field_name=True) for entry in quarantines]
        self._file.put_metadata({QUARANTINES_KEY: json.dumps(entries).encode()})

    def _flush(self) -> None:
        if self._rows:
            self._file.write(records_table(self._rows))
        self._rows, self._bytes = [], 0
