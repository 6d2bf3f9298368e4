"""A supervisor as a process of its own, for tests that signal or kill it. Not a test.

Arguments: a directory for the logs, then one behaviour of fake_child.py a child, e.g. "leader=serve other=stubborn".
Prints the process ids of its children as JSON, runs, and ends as a real one does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from launch.child import Child, ChildSpec
from launch.supervisor import Supervisor, exit_status
from tests.launch.supervision import FAKE_CHILD

# What a service command does first, before it becomes the fake child.
BOUND = """
import runpy, sys
from launch.process import die_with_supervisor
die_with_supervisor()
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def main(logs: Path, *behaviours: str) -> int:
    children = []
    for behaviour in behaviours:
        name, _, what = behaviour.partition("=")
        command = [sys.executable, "-c", BOUND, str(FAKE_CHILD), *what.split()]
        spec = ChildSpec(name, command, ends_run=name == "leader", ready_s_max=10.0, stop_s_max=1.0)
        children.append(Child(spec, logs / f"{name}.log"))
    shown = False

    def show() -> None:
        nonlocal shown
        if not shown and all(child.ready for child in children):
            print(json.dumps({child.spec.name: child.pid for child in children}), flush=True)
            shown = True

    supervisor = Supervisor(children, on_tick=show)
    with supervisor.handling_signals():
        try:
            supervisor.run()
        finally:
            supervisor.stop(["leader"])
    return exit_status(supervisor.signal)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
