"""One run on this machine, from first process to summary: ties directory, supervisor, monitor and view together.

Decides nothing about training. What the processes are is in launch.topology, how they are kept alive in
launch.supervisor.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.child import Child
from launch.config import RunConfig
from launch.metrics_tail import MetricsTail
from launch.monitor import RunMonitor
from launch.process_list import remove_stale_sockets, write_process_list
from launch.releases import newest_release
from launch.run_directory import RunDirectory
from launch.services import FINAL_CALL_S_MAX, GateQuestions, ReplayQuestions
from launch.summary import Counts, compose, last_word, write_summary
from launch.supervisor import Supervisor
from launch.topology import STOP_ORDER, Addresses, Limits, processes_of
from launch.view import ProcessLine, View
from protos.replay.v1 import replay_pb2


class LocalRun:
    """The processes of one run and what is known of it. Call `run` once, in the main thread."""

    def __init__(
        self, config: RunConfig, directory: RunDirectory, run_id: str, limits: Limits, *, resume: bool
    ) -> None:
        self._config = config
        self._paths = directory.paths
        self._directory = directory
        self._run_id = run_id
        self._limits = limits
        self._resume = resume
        self._started_ns = time.time_ns()
        self._listed: Sequence[ProcessLine] = ()
        self._counts = Counts()
        self._replay: replay_pb2.StatsResponse | None = None

    def run(self, view: View) -> tuple[dict[str, Any], int | None]:
        """Runs until the end.

        Returns:
          The summary, also written to RUN_DIR/summary.json, and the signal that ended the run, if one did.

        Raises:
          BadInput: a process refused its input.
          RunFailed: a process kept dying.
        """
        remove_stale_sockets(self._paths)
        with contextlib.ExitStack() as stack:
            sockets = Path(tempfile.mkdtemp(prefix="temper-"))
            stack.callback(shutil.rmtree, sockets, ignore_errors=True)
            stack.callback(self._paths.processes.unlink, missing_ok=True)
            addresses = Addresses.in_directory(sockets)
            supervisor = Supervisor(
                self._children(addresses), on_tick=lambda: self._tick(supervisor, monitor, addresses, view)
            )
            replay = stack.enter_context(ReplayQuestions(addresses.replay))
            gate = stack.enter_context(GateQuestions(addresses.safety))
            metrics = MetricsTail(self._paths.metrics, from_end=True)
            monitor = RunMonitor(metrics, replay, gate, since_ns=self._started_ns)
            stack.enter_context(supervisor.handling_signals())
            stack.enter_context(view)
            monitor.start()
            stack.callback(monitor.stop)
            try:
                supervisor.run()
            finally:
                supervisor.stop(STOP_ORDER, before=lambda name: self._ask_before_stop(name, replay, gate))
            view.show(monitor.snapshot, self._listed)
            return self._summarise(), supervisor.signal

    def _children(self, addresses: Addresses) -> list[Child]:
        specs = processes_of(self._config, self._paths, addresses, self._run_id, self._limits, resume=self._resume)
        descriptors = (self._directory.lock_descriptor,)
        return [Child(spec, self._paths.logs / f"{spec.name}.log", inherited_descriptors=descriptors) for spec in specs]

    def _tick(self, supervisor: Supervisor, monitor: RunMonitor, addresses: Addresses, view: View) -> None:
        lines = [ProcessLine(child.spec.name, child.state, child.pid, child.restarts) for child in supervisor.children]
        if lines != self._listed:
            self._listed = lines
            write_process_list(self._paths, self._run_id, self._started_ns, addresses, supervisor.children)
        view.show(monitor.snapshot, lines)

    def _ask_before_stop(self, name: str, replay: ReplayQuestions, gate: GateQuestions) -> None:
        if name == "safety":
            self._counts = gate.counts() or self._counts
        elif name == "replay":
            self._replay = replay.stats(FINAL_CALL_S_MAX)

    def _summarise(self) -> dict[str, Any]:
        release = newest_release(self._paths)
        summary = compose(self._config.recipe, last_word(self._paths), release, self._counts, self._replay)
        write_summary(summary, self._paths.summary)
        return summary
