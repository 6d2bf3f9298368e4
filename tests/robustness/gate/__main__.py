"""Tries every way round the gate and prints the table: name, what is expected, and what came of it.

    python -m tests.robustness.gate [GROUP ...]

The last line is JSON: how many ways were tried, how many held, and the names of those that did not. Exit status 1 if
there are any.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from safety.keys.directory import PLACE_VARIABLE
from tests.robustness.gate.candidate_ways import CANDIDATES
from tests.robustness.gate.kill_ways import KILLS
from tests.robustness.gate.learner_ways import LEARNER
from tests.robustness.gate.ledger_ways import LEDGER
from tests.robustness.gate.statement_ways import STATEMENTS
from tests.robustness.gate.ways import Group, held

GROUPS: tuple[Group[Any], ...] = (STATEMENTS, LEARNER, LEDGER, CANDIDATES, KILLS)
"""All there are."""


def try_all(groups: Sequence[Group[Any]]) -> dict[str, Any]:
    """Tries the ways of these groups one after another, prints a line for each, and returns the summary."""
    began, tried, failed = time.monotonic(), 0, []
    for group in groups:
        print(f"\n{group.name}")
        with group.opened() as scene:
            for way in group.ways:
                tried += 1
                try:
                    result = f"held     {held(way, scene)}"
                except Exception as error:  # noqa: BLE001 - whatever went wrong, the others are tried, too
                    failed.append(way.name)
                    result = f"FAILED   {type(error).__name__}: {' '.join(str(error).split())}"
                print(f"  {way.name}\n      {way.sentence}\n      expected {way.expected}\n      {result}", flush=True)
    return {
        "ways": tried,
        "held": tried - len(failed),
        "got_through": failed,
        "seconds": round(time.monotonic() - began, 1),
    }


def main(names: Sequence[str]) -> int:
    """Tries the groups named, or all; the exit status."""
    unknown = sorted(set(names) - {group.name for group in GROUPS})
    if unknown:
        print(f"unknown groups {unknown}: known are {', '.join(group.name for group in GROUPS)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="temper-keys-") as keys:
        # Not in the home directory: what lies there is of real runs.
        os.environ[PLACE_VARIABLE] = keys
        summary = try_all([group for group in GROUPS if not names or group.name in names])
    print(f"\n{json.dumps(summary)}")
    return 1 if summary["got_through"] else 0


if __name__ == "__main__":
    # Each refusal is logged by whoever refuses; the table says it all.
    logging.disable(logging.WARNING)
    sys.exit(main(sys.argv[1:]))
