"""Servers of replay_server.py for the robustness tests: one serves, the next one stands by, already loaded."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LINE_S = 30.0


class ServerDied(Exception):
    """A server ended, or did not get ready; the message holds what it wrote."""


class Server:
    """One server process, from its start on loaded but not serving. End it with `kill` or `stop`."""

    def __init__(self, log: Path) -> None:
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.robustness.replay_server"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_loaded(self) -> None:
        """Returns when it could begin. Raises ServerDied."""
        self._expect("loaded")

    def begin(self, directory: Path, address: str, config: Mapping[str, Any], **more: int) -> None:
        """Tells it to serve, with `more` of what replay_server.py takes; does not wait for it."""
        if self._process.stdin is None:
            raise ServerDied("it has no standard input")
        spec = {"directory": str(directory), "address": address, "config": dict(config), **more}
        self._process.stdin.write(json.dumps(spec) + "\n")
        self._process.stdin.flush()

    def wait_ready(self) -> None:
        """Returns when it serves. Raises ServerDied."""
        self._expect("ready")

    def kill(self) -> None:
        """kill -9, and nothing gentler; returns when it is gone."""
        self._process.kill()
        self._reap()

    def stop(self) -> int:
        """Asks it to stop and returns its status; kills it where it does not."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(LINE_S)
        except subprocess.TimeoutExpired:
            raise ServerDied(f"a server did not stop on SIGTERM in {LINE_S} s\n{self.story()}") from None
        finally:
            self.kill()

    def story(self) -> str:
        """The end of what servers wrote."""
        return self._log.read_text(errors="replace")[-3000:]

    def _expect(self, word: str) -> None:
        output = self._process.stdout
        if output is None or not select.select([output], [], [], LINE_S)[0]:
            raise ServerDied(f"a server was not {word} in {LINE_S} s\n{self.story()}")
        if (line := output.readline().strip()) != word:
            raise ServerDied(f"a server was to be {word}, and said {line!r}\n{self.story()}")

    def _reap(self) -> None:
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
