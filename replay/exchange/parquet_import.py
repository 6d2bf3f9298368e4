"""Reads back the records that parquet.py wrote, to the byte, with the runs and sequences they had.

Marks and quarantines stay behind: they are findings about a record in its store, and can be found again. A derived
record names its parents by their positions in the store that it comes from, which say nothing in another: it is
refused.

Exceptions: ImportRefused.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from google.protobuf.message import DecodeError

from protos.common.v1 import common_pb2
from replay.exchange.arrow_columns import FORMAT_VERSION, KIND_KEY, VERSION_KEY
from replay.exchange.errors import ImportRefused
from replay.exchange.intake import ImportedRecord
from replay.exchange.parquet import RECORDS_FILE
from replay.exchange.record_table import RECORDS

_COLUMNS = ("origin", "header", "payload")
_BATCH_ROWS = 256


class ParquetRecords:
    """The records of an export, in its order; iterate over it. Memory is bounded by a row group.

    Args:
      path: of the export's directory, or of its records.parquet.

    Attributes:
      total: how many there are.

    Raises ImportRefused, also from the iteration.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._path = path / RECORDS_FILE if path.is_dir() else path
            if not self._path.is_file():
                raise ImportRefused(f"{path} is no export: there is no {RECORDS_FILE}")
            with pq.ParquetFile(self._path) as file:
                self.total: int = file.metadata.num_rows
                metadata = file.schema_arrow.metadata or {}
                names = file.schema_arrow.names
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from error
        if metadata.get(KIND_KEY) != RECORDS.encode() or not set(_COLUMNS) <= set(names):
            raise ImportRefused(f"{self._path} is a Parquet file, but not the records of an export of Temper's")
        version = metadata.get(VERSION_KEY, b"").decode(errors="replace")
        if version != str(FORMAT_VERSION):
            raise ImportRefused(f"{self._path} has format version {version!r}, this program reads {FORMAT_VERSION}")

    def __iter__(self) -> Iterator[ImportedRecord]:
        origins: dict[bytes, common_pb2.Origin] = {}
        try:
            with pq.ParquetFile(self._path) as file:
                row = 0
                for batch in file.iter_batches(_BATCH_ROWS, columns=list(_COLUMNS)):
                    columns = [batch.column(name).to_pylist() for name in _COLUMNS]
                    for origin, header, payload in zip(*columns, strict=True):
                        yield self._record(row, origins, origin, header, payload)
                        row += 1
        except (OSError, pa.ArrowException) as error:
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
            raise ImportRefused(
                f"row {row} of {self._path} was derived from the records {list(record.header.parents)[:10]} of the "
                "store it comes from, which are others here: export with --filter 'parents == 0'"
            )
        return ImportedRecord(origins[origin], record)

    def _unreadable(self, error: Any) -> ImportRefused:
        return ImportRefused(f"{self._path} cannot be read: {str(error).splitlines()[0]}")
