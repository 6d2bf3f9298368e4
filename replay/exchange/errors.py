"""Why an export or an import cannot be done; each message is one line: what was asked for, what is there, what follows.

Exceptions:
    ExchangeError         an export or an import cannot be done (a ValueError)
      ExportRefused       nothing was left where the export was to go
      ImportRefused       the data set cannot be read, or holds what no record can
"""

from __future__ import annotations


class ExchangeError(ValueError):
    """An export or an import cannot be done."""


class ExportRefused(ExchangeError):
    """Records cannot be written as asked; nothing is left where they were to go."""


class ImportRefused(ExchangeError):
    """A data set cannot be read, or holds what no record can."""
