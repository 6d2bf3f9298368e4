"""flashbax, in memory and in one process: how fast unrolls are added and drawn when nothing has to leave the program.

    peer_flashbax.py SPEC        (JSON: payloads, records_max, batch_size, lanes, seconds)

Runs inside the peer's own environment and imports nothing of Temper's. An item of its buffer is a whole unroll; adding
`lanes` of them, and drawing a batch, are each one compiled call whose result is waited for. The buffer is donated to
the call that adds, as its documentation advises. Prints one line of JSON.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flashbax  # type: ignore[import-not-found]  # in the peer's environment only
import jax
import numpy as np


def main(spec: dict[str, Any]) -> None:
    """Measures and prints."""
    columns = {path.stem: np.load(path, allow_pickle=False) for path in sorted(Path(spec["payloads"]).glob("*.npy"))}
    unrolls, lanes = len(columns["action"]), int(spec["lanes"])
    buffer = flashbax.make_item_buffer(
        max_length=spec["records_max"],
        min_length=spec["batch_size"],
        sample_batch_size=spec["batch_size"],
        add_batches=True,
    )
    state = buffer.init({name: column[0] for name, column in columns.items()})
    add = jax.jit(buffer.add, donate_argnums=0)
    draw = jax.jit(buffer.sample)
    start = 0

    def insert() -> int:
        nonlocal state, start
        state = add(state, {name: column[start : start + lanes] for name, column in columns.items()})
        _wait(state)
        start = (start + lanes) % (unrolls - lanes + 1)
        return lanes

    while not buffer.can_sample(state):
        insert()
    inserts_per_s = _per_second(insert, spec["seconds"])
    key = jax.random.key(0)

    def sample() -> int:
        nonlocal key
        key, drawn_with = jax.random.split(key)
        _wait(draw(state, drawn_with))
        return int(spec["batch_size"])

    found = {"inserts_per_s": inserts_per_s, "samples_per_s": _per_second(sample, spec["seconds"])}
    print(json.dumps({**found, "version": importlib.metadata.version("flashbax")}), flush=True)


def _wait(tree: Any) -> None:
    for leaf in jax.tree.leaves(tree):
        leaf.block_until_ready()


def _per_second(action: Callable[[], int], seconds: float) -> float:
    for _ in range(20):
        action()
    done, start_s = 0, time.monotonic()
    while time.monotonic() < start_s + seconds:
        done += action()
    return done / (time.monotonic() - start_s)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
