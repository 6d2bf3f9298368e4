"""cpprb, in memory and in one process: how fast unrolls are added and drawn when nothing has to leave the program.

    peer_cpprb.py SPEC        (JSON: payloads, records_max, batch_size, lanes, seconds)

Runs inside the peer's own environment and imports nothing of Temper's. A transition of its ReplayBuffer is a whole
unroll; `lanes` of them are added with one call. Prints one line of JSON.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cpprb  # type: ignore[import-not-found]  # in the peer's environment only
import numpy as np


def main(spec: dict[str, Any]) -> None:
    """Measures and prints."""
    columns = {path.stem: np.load(path, allow_pickle=False) for path in sorted(Path(spec["payloads"]).glob("*.npy"))}
    unrolls, lanes = len(columns["action"]), int(spec["lanes"])
    shapes = {name: {"shape": column.shape[1:], "dtype": column.dtype} for name, column in columns.items()}
    buffer = cpprb.ReplayBuffer(spec["records_max"], shapes)
    start = 0

    def insert() -> int:
        nonlocal start
        buffer.add(**{name: column[start : start + lanes] for name, column in columns.items()})
        start = (start + lanes) % (unrolls - lanes + 1)
        return lanes

    def sample() -> int:
        return int(buffer.sample(spec["batch_size"])["action"].shape[0])

    inserts_per_s = _per_second(insert, spec["seconds"])
    found = {"inserts_per_s": inserts_per_s, "samples_per_s": _per_second(sample, spec["seconds"])}
    print(json.dumps({**found, "version": importlib.metadata.version("cpprb")}), flush=True)


def _per_second(action: Callable[[], int], seconds: float) -> float:
    for _ in range(20):
        action()
    done, start_s = 0, time.monotonic()
    while time.monotonic() < start_s + seconds:
        done += action()
    return done / (time.monotonic() - start_s)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
