"""Small writers and appends for the tests of the clients."""

from __future__ import annotations

from replay.client import ReplayWriter
from replay.schema import PayloadLayout
from replay.testing import make_columns, make_header, make_origin


def writer_to(address: str, run_id: str = "run-0", window_records: int = 1000) -> ReplayWriter:
    origin = make_origin(run_id=run_id)
    return ReplayWriter(address, origin, window_records=window_records, window_bytes=2**20, reconnect_ms_max=100)


def append(writer: ReplayWriter, count: int, timeout_s: float = 10.0, steps: int = 2) -> None:
    payload = PayloadLayout(make_origin().schema).encode(make_columns(steps))
    writer.append([make_header(steps) for _ in range(count)], [payload] * count, timeout_s)
