"""RUN_DIR/processes.json: what runs where while a run runs, for `temper status` and for a person with kill and grpcurl.

Written by the supervisor on every change and removed at the end; one that outlives its run marks a killed supervisor.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from launch.child import Child
from launch.run_paths import RunPaths
from launch.topology import Addresses


def write_process_list(
    paths: RunPaths, run_id: str, started_ns: int, addresses: Addresses, children: Sequence[Child]
) -> None:
    """Writes the list so that a reader sees a whole one.

    Args:
      paths: of the run directory.
      run_id: of the training run.
      started_ns: when this start of the run began, ns since the epoch.
      addresses: where the services listen.
      children: the processes as they are now.
    """
    content = {
        "supervisor": os.getpid(),
        "run_id": run_id,
        "started_ns": started_ns,
        "addresses": asdict(addresses),
        "processes": [
            {
                "name": child.spec.name,
                "state": child.state,
                "pid": child.pid,
                "address": child.spec.address,
                "restarts": child.restarts,
                "log": str(child.log),
            }
            for child in children
        ],
    }
    unfinished = paths.processes.with_suffix(".json.unfinished")
    unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(paths.processes)


def read_process_list(paths: RunPaths) -> dict[str, Any] | None:
    """The list, or None where there is none."""
    try:
        content: dict[str, Any] = json.loads(paths.processes.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return content


def remove_stale_sockets(paths: RunPaths) -> None:
    """Removes the socket directory of an earlier start whose supervisor was killed.

    Only for whoever holds the run's lock: then none of its processes is left.
    """
    content = read_process_list(paths)
    # The address of replay may be several.
    for address in ",".join(content["addresses"].values()).split(",") if content is not None else ():
        directory = Path(address.removeprefix("unix:")).parent
        if directory.name.startswith("temper-") and directory.parent == Path(tempfile.gettempdir()):
            shutil.rmtree(directory, ignore_errors=True)
