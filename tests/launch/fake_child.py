"""A tiny process to supervise: does what its first argument says. Not a test.

serve            says that it is ready, ends in order on SIGTERM and says so
mute             the same without saying so
stubborn         ignores SIGTERM
path             the same, after its module search path
exit N           ends at once with this status, after a line on stderr
die-until FILE N ends with status 1 and appends a line to FILE, until FILE has N lines; then as serve
parent FILE      starts a stubborn grandchild, writes its process id to FILE, then as serve
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path


def main(behaviour: str, *rest: str) -> int:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set() if behaviour != "stubborn" else None)
    if behaviour == "exit":
        print(f"temper: told to end with {rest[0]}", file=sys.stderr)
        return int(rest[0])
    if behaviour == "die-until":
        path, times = Path(rest[0]), int(rest[1])
        lives = path.read_text().splitlines() if path.exists() else []
        if len(lives) < times:
            path.write_text("\n".join([*lives, " ".join(sys.argv[4:])]) + "\n")
            return 1
    if behaviour == "parent":
        grandchild = subprocess.Popen([sys.executable, "-S", __file__, "stubborn"])
        Path(rest[0]).write_text(str(grandchild.pid))
    if behaviour == "path":
        print("path:" + os.pathsep.join(sys.path), flush=True)
    if behaviour != "mute":
        print("temper fake ready at nowhere", flush=True)
    while not stop.wait(0.02):
        pass
    print("temper fake ended in order", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
