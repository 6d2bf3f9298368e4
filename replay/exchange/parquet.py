"""Records as Parquet: DIRECTORY/records.parquet with a row a record, DIRECTORY/steps-N.parquet with a row a step.

There is one steps file for each schema among the records, numbered in the order in which they come; their columns are
told in step_table.py, those of records.parquet in record_table.py. records.parquet holds the records themselves too, to
the byte, so that parquet_import.py can put them into another store.

Memory is bounded by a row group of each file, whatever the number of records.

Exceptions: ExportRefused; SchemaError for a payload that does not fit its schema; what the iteration raises.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from protos.common.v1 import common_pb2
from replay.exchange.errors import ExportRefused
from replay.exchange.output import ExportSummary, files_in, new_directory
from replay.exchange.parquet_writer import ParquetFile
from replay.exchange.records_file import Quarantines, RecordsFile, no_quarantines
from replay.exchange.step_table import StepTable
from replay.record import LoggedRecord

GROUP_ROWS_MAX = 65_536
GROUP_BYTES_MAX = 16 * 1024**2
LAYOUTS_MAX = 64
"""Most schemas in one export: each has a file open and a row group in memory."""


def export_parquet(
    records: Iterable[LoggedRecord], directory: Path, quarantines: Quarantines = no_quarantines
) -> ExportSummary:
    """Writes records, with their payloads, to a new directory.

    Args:
      records: in log order.
      directory: which does not exist.
      quarantines: asked once, after the last record.

    Raises:
      ExportRefused: there is something at `directory`, there are no records, or the disk does not take them; nothing
        is left there.
    """
    count = steps = 0
    with new_directory(directory) as unfinished, contextlib.ExitStack() as files:
        file = files.enter_context(RecordsFile(unfinished))
        layouts: dict[bytes, _StepRows] = {}
        for record in records:
            layout = _layout_of(record.origin.schema, layouts, unfinished, files)
            file.add(record, layout.number)
            layout.add(record)
            count += 1
            steps += record.header.steps
        if not count:
            raise ExportRefused("there is no record to export: nothing was written")
        file.finish(quarantines())
        for layout in layouts.values():
            layout.flush()
    return ExportSummary(count, steps, *files_in(directory))


class _StepRows:
    """Steps of one schema on their way into their file."""

    def __init__(self, number: int, table: StepTable, file: ParquetFile) -> None:
        self.number = number
        self._table = table
        self._file = file
        self._records: list[LoggedRecord] = []
        self._rows = self._bytes = 0

    def add(self, record: LoggedRecord) -> None:
        self._records.append(record)
        self._rows += record.header.steps
        self._bytes += self._table.raw_bytes(record)
        if self._rows >= GROUP_ROWS_MAX or self._bytes >= GROUP_BYTES_MAX:
            self.flush()

    def flush(self) -> None:
        if self._records:
            self._file.write(self._table.table(self._records))
        self._records, self._rows, self._bytes = [], 0, 0


def _layout_of(
    schema: common_pb2.Schema, layouts: dict[bytes, _StepRows], directory: Path, files: contextlib.ExitStack
) -> _StepRows:
    """The rows of a schema; a new file where it is the first of its kind. Raises ExportRefused for too many."""
    key = schema.SerializeToString(deterministic=True)
    if key not in layouts:
        number = len(layouts)
        if number >= LAYOUTS_MAX:
            raise ExportRefused(f"the records have more than {LAYOUTS_MAX} schemas: export one environment at a time")
        table = StepTable(schema)
        file = files.enter_context(ParquetFile(directory / f"steps-{number}.parquet", table.schema, table.few_values))
        layouts[key] = _StepRows(number, table, file)
    return layouts[key]
