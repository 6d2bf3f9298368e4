"""Stands for `temper train` in tests of the scheduler: makes a run directory and does what it is told. Not a test.

Arguments: the run directory, a behaviour, and --resume where it goes on.

end         ends as at its limit of steps
fail        ends with status 1, after a line on stderr
serve       runs until SIGTERM, and then ends in order like a run that was ended by it
stubborn    ignores SIGTERM
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path


def main(directory: str, behaviour: str, *more: str) -> int:
    root = Path(directory)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set() if behaviour != "stubborn" else None)
    (root / "learner").mkdir(parents=True, exist_ok=True)
    (root / "config.toml").touch()
    with (root / "starts").open("a") as starts:
        starts.write(f"{' '.join(more)}\n")
    if behaviour == "fail":
        print("temper: the learner kept dying", file=sys.stderr)
        return 1
    if behaviour != "end":
        stop.wait()
    reason = "env_steps" if behaviour == "end" else "signal"
    (root / "learner" / "final.json").write_text(json.dumps({"env_steps": 10, "stopped_because": reason}))
    (root / "summary.json").write_text("{}")
    return 0 if behaviour == "end" else 143


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
