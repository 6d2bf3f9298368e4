"""A whole run of fake processes, shown where standard output goes, as a process of its own. Not a test.

Arguments: the run directory, which must not exist yet, then "terminal" where standard output is a terminal that is to
be the controlling one, then one behaviour of fake_child.py a child, e.g. "learner=serve".
"""

from __future__ import annotations

import fcntl
import os
import sys
import termios
from pathlib import Path

from launch import local_run
from launch.child import ChildSpec
from launch.local_run import LocalRun
from launch.recipes import make_recipe
from launch.run_directory import RunDirectory
from launch.supervisor import exit_status
from launch.topology import Limits
from launch.view import LiveView, PlainView
from tests.launch.supervision import FAKE_CHILD


def main(root: Path, *arguments: str) -> int:
    if arguments[0] == "terminal":
        os.setsid()
        fcntl.ioctl(1, termios.TIOCSCTTY, 0)
    pairs = [argument.split("=") for argument in arguments if "=" in argument]
    specs = [
        ChildSpec(name, [sys.executable, "-S", str(FAKE_CHILD), *what.split()], ends_run=name == "learner")
        for name, what in pairs
    ]
    setattr(local_run, "processes_of", lambda *_, **__: specs)  # noqa: B010 - it is no export of that module
    with RunDirectory(root) as directory:
        directory.begin(make_recipe("catch"))
        one = LocalRun(make_recipe("catch"), directory, "run-1", Limits(), resume=False)
        shown = LiveView(sys.stdout, "catch") if sys.stdout.isatty() else PlainView(sys.stdout, interval_s=0.05)
        _, signal_number = one.run(shown)
        print("the last words of the run")
    return exit_status(signal_number)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
