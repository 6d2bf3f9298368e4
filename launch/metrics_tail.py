"""Follows RUN_DIR/learner/metrics.jsonl while the learner writes it: every complete line once, torn ones later.

Exceptions: none; a line that is not a JSON object is passed over and counted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Metrics = Mapping[str, Any]
"""One line of the learner's figures; which keys it has is the learner's business, each may be missing."""

READ_BYTES_MAX = 1 << 22
"""Most bytes taken in by one read; the rest comes with the next."""


class MetricsTail:
    """Reads what was appended since the last read.

    Args:
      path: the file; it need not exist yet.
      from_end: pass over what is in the file now, as a resumed run does with what it showed before.
    """

    def __init__(self, path: Path, *, from_end: bool = False) -> None:
        self.unreadable_lines = 0
        self._path = path
        self._position = path.stat().st_size if from_end and path.exists() else 0

    def read(self) -> list[Metrics]:
        """The new lines, oldest first."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                data = file.read(READ_BYTES_MAX)
        except FileNotFoundError:
            return []
        complete = data[: data.rfind(b"\n") + 1]
        self._position += len(complete)
        lines: list[Metrics] = []
        for line in complete.splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                value = None
            if isinstance(value, dict):
                lines.append(value)
            else:
                self.unreadable_lines += 1
        return lines


def read_all(path: Path) -> list[Metrics]:
    """Every complete line of the file."""
    tail, lines = MetricsTail(path), list[Metrics]()
    while new := tail.read():
        lines += new
    return lines
