"""One run on this machine, from first process to summary: ties directory, supervisor, monitor and view together.

Decides nothing about training. What the processes are is in launch.topology, how they are kept alive in
launch.supervisor.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from launch.child import Child
from launch.config import RunConfig
from launch.distillation_summary import distillation_summary
from launch.errors import BadInput, RunFailed
from launch.ledger_tail import LedgerTail
from launch.metrics_tail import MetricsTail
from launch.monitor import RunMonitor, RunSnapshot
from launch.output import discard_output
from launch.process_list import remove_stale_sockets, write_process_list
from launch.releases import newest_release, revocations_if_known
from launch.revoking import store_undelivered
from launch.run_directory import RunDirectory
from launch.services import GateQuestions, ReplayQuestions
from launch.summary import compose, last_word, write_summary
from launch.supervisor import Supervisor
from launch.topology import Addresses, Limits, processes_of, stop_order
from launch.view import ProcessLine, View

DISK_BYTES_LEFT = 1024**2
"""With less than this a disk counts as full."""


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

    def run(self, view: View) -> tuple[dict[str, Any], int | None]:
        """Runs until the end.

        Returns:
          The summary, also written to RUN_DIR/summary.json, and the signal that ended the run, if one did.

        Raises:
          BadInput: a process refused its input.
          RunFailed: a process kept dying, or the run directory cannot be written.
          Why it failed is in RUN_DIR/failure.json then, where that can be written.
        """
        try:
            return self._run_or_say_why(view)
        except (BadInput, RunFailed) as error:
            self._note_failure(str(error))
            raise

    def _run_or_say_why(self, view: View) -> tuple[dict[str, Any], int | None]:
        try:
            return self._run(view)
        except OSError as error:
            raise RunFailed(f"the run in {self._paths.root} cannot go on: {error}") from error
        except RunFailed as error:
            # Then the logs do not say so either.
            if _is_full(self._paths.root):
                raise RunFailed(f"{error}\nthe disk of {self._paths.root} is full: make room, and --resume") from error
            raise

    def _run(self, view: View) -> tuple[dict[str, Any], int | None]:
        remove_stale_sockets(self._paths)
        store_undelivered(self._paths)
        with contextlib.ExitStack() as stack:
            sockets = Path(tempfile.mkdtemp(prefix="temper-"))
            stack.callback(shutil.rmtree, sockets, ignore_errors=True)
            stack.callback(self._paths.processes.unlink, missing_ok=True)
            addresses = Addresses.in_directory(sockets, self._config.replay.shards)
            supervisor = Supervisor(
                self._children(addresses), on_tick=lambda: self._tick(supervisor, monitor, addresses, view)
            )
            replay = stack.enter_context(ReplayQuestions(addresses.replay))
            gate = stack.enter_context(GateQuestions(addresses.safety, self._run_id))
            metrics = MetricsTail(self._paths.metrics, from_end=True)
            ledger = LedgerTail(self._paths.ledger)
            monitor = RunMonitor(metrics, replay, gate, ledger, since_ns=self._started_ns)
            stack.enter_context(supervisor.handling_signals())
            stack.enter_context(view)
            monitor.start()
            stack.callback(monitor.stop)
            try:
                supervisor.run()
            finally:
                order = stop_order(child.spec.name for child in supervisor.children)
                supervisor.stop(order, before=lambda name: _take_a_last_look(name, order, monitor))
                # Also of a run that fails: what the gate decided last may be the reason.
                self._show(supervisor, lambda: view.finish(monitor.snapshot, self._listed))
            return self._summarise(monitor.snapshot), supervisor.signal

    def _children(self, addresses: Addresses) -> list[Child]:
        specs = processes_of(self._config, self._paths, addresses, self._run_id, self._limits, resume=self._resume)
        descriptors = (self._directory.lock_descriptor,)
        return [Child(spec, self._paths.logs / f"{spec.name}.log", inherited_descriptors=descriptors) for spec in specs]

    def _tick(self, supervisor: Supervisor, monitor: RunMonitor, addresses: Addresses, view: View) -> None:
        lines = [ProcessLine(child.spec.name, child.state, child.pid, child.restarts) for child in supervisor.children]
        if lines != self._listed:
            self._listed = lines
            # For those who look on only: a full disk must not end the run from here.
            with contextlib.suppress(OSError):
                write_process_list(self._paths, self._run_id, self._started_ns, addresses, supervisor.children)
        self._show(supervisor, lambda: view.show(monitor.snapshot, lines))

    def _show(self, supervisor: Supervisor, show: Callable[[], None]) -> None:
        """Shows something; where that is not possible any more the run ends in order, as when its terminal closes."""
        try:
            show()
        except OSError as error:
            discard_output(error)
            supervisor.end(signal.SIGPIPE)

    def _note_failure(self, reason: str) -> None:
        with contextlib.suppress(OSError):
            content = {"reason": reason, "time_ns": time.time_ns()}
            self._paths.failure.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def _summarise(self, last: RunSnapshot) -> dict[str, Any]:
        release = newest_release(self._paths)
        revoked, _ = revocations_if_known(self._paths)
        learned = last_word(self._paths)
        summary = compose(self._config.recipe, learned, release, last.counts, last.replay, revoked=revoked)
        if (distillation := distillation_summary(self._config, release)) is not None:
            summary["distillation"] = distillation
        write_summary(summary, self._paths.summary)
        return summary


def _is_full(directory: Path) -> bool:
    try:
        return shutil.disk_usage(directory).free < DISK_BYTES_LEFT
    except OSError:
        return False


def _take_a_last_look(name: str, order: Sequence[str], monitor: RunMonitor) -> None:
    """When only gate and replay are left they have the run's last word, and nobody will ask them again."""
    first_replay = next((each for each in order if each.startswith("replay")), "")
    if name in {"safety", first_replay}:
        monitor.stop()
        monitor.look()
