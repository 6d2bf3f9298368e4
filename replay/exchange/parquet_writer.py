"""One Parquet file, written row group by row group.

Exceptions: ExportFailed where the disk does not take it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow.parquet as pq

from replay.exchange.output import failing


class ParquetFile:
    """A file being written, as a context manager: complete at its end, let go of on an exception.

    Args:
      path: of a file that is not there yet.
      schema: Arrow schema, with the file's metadata.
      few_values: columns that have few different values, as paths in the Parquet schema.
    """

    def __init__(self, path: Path, schema: Any, few_values: Sequence[str]) -> None:
        self.schema = schema
        self._path = path
        with failing(path):
            # Level 1: what more would save is not worth the time, as for payloads.
            self._writer = pq.ParquetWriter(
                path, schema, compression="zstd", compression_level=1, use_dictionary=list(few_values)
            )

    def __enter__(self) -> ParquetFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError) if error is not None else failing(self._path):
            self._writer.close()

    def write(self, table: Any) -> None:
        """Appends a table as one row group."""
        with failing(self._path):
            self._writer.write_table(table, row_group_size=max(1, len(table)))

    def put_metadata(self, metadata: Mapping[bytes, bytes]) -> None:
        """Adds to what the file says about itself."""
        self._writer.add_key_value_metadata(dict(metadata))
