"""A replay service that waits, loaded, to be told what to serve: so a campaign of kills does not wait for imports.

    python -m tests.robustness.replay_server

Prints "loaded"; reads one line of JSON ({"directory", "address", "config"}, and "spare_bytes_min" where small files of
segments are to be used again, too); prints "ready" once it serves. It has no orderly stop but SIGTERM, and ends with
whoever holds its standard input.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from pathlib import Path

from replay import lmdb_store, segment_spare
from replay.config import ReplayConfig
from replay.service import serve


def main() -> None:
    """Waits, then serves."""
    print("loaded", flush=True)
    line = sys.stdin.readline()
    if line:
        spec = json.loads(line)
        segment_spare.KEPT_BYTES_MIN = spec.get("spare_bytes_min", segment_spare.KEPT_BYTES_MIN)
        threading.Thread(target=_end_with_input, daemon=True).start()
        asyncio.run(_serve(spec["directory"], spec["address"], spec["config"]))


async def _serve(directory: str, address: str, settings: dict[str, object]) -> None:
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    config = ReplayConfig(**fields)  # type: ignore[arg-type]
    await serve(config, Path(directory), address, on_ready=lambda _: print("ready", flush=True), stop=stop)


def _end_with_input() -> None:
    while sys.stdin.read(1):
        pass
    os._exit(1)


if __name__ == "__main__":
    if lmdb_store.__name__:  # imported for its time only
        main()
