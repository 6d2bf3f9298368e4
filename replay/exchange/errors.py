"""Why an export or an import cannot be done; each message is one line: what was asked for, what is there, what follows.

Exceptions:
    ExchangeError         an export or an import cannot be done (a ValueError)
      ExportRefused       nothing was left where the export was to go
        ExportFailed      the same, because the disk did not take what was begun
      ImportRefused       the data set cannot be read, or holds what no record can
"""

from __future__ import annotations

from pathlib import Path


class ExchangeError(ValueError):
    """An export or an import cannot be done."""


class ExportRefused(ExchangeError):
    """Records cannot be written as asked; nothing is left where they were to go."""


class ExportFailed(ExportRefused):
    """The disk did not take what was begun; nothing is left of it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"cannot write {path}: {reason}; nothing was written")
        self.reason = reason


class ImportRefused(ExchangeError):
    """A data set cannot be read, or holds what no record can."""
