"""Shows a run while it runs: a live table on a terminal, plain lines anywhere else.

Draws what launch.monitor has gathered and never asks a service itself. All methods belong to one thread and return at
once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import IO, TYPE_CHECKING, NamedTuple, Protocol

from launch.monitor import RunSnapshot
from launch.output import discard_output
from launch.verdicts import (
    BreachedEpoch,
    describe_breach,
    describe_promotion,
    describe_revoked,
    describe_verdict,
)
from protos.replay.v1 import replay_pb2

if TYPE_CHECKING:
    from rich.console import Group

LIVE_REFRESH_S = 0.5
PLAIN_LINE_S = 5.0
NEWS_ROWS = 6

UNKNOWN = "-"


@dataclass(frozen=True)
class ProcessLine:
    """How one process is doing."""

    name: str
    state: str
    pid: int | None
    restarts: int


class View(Protocol):
    """Where a run is shown. A context manager: what it takes from the terminal, it gives back."""

    def show(self, snapshot: RunSnapshot, processes: Sequence[ProcessLine]) -> None:
        """Shows the state, if it is time to; cheap when it is not."""

    def finish(self, snapshot: RunSnapshot, processes: Sequence[ProcessLine]) -> None:
        """Shows the last state, whether it is time to or not."""

    def __enter__(self) -> View:
        """Takes the terminal."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Gives it back."""


def make_view(stream: IO[str], recipe: str) -> View:
    """The view that fits where the output goes."""
    return LiveView(stream, recipe) if stream.isatty() else PlainView(stream)


def figures(snapshot: RunSnapshot) -> list[tuple[str, str]]:
    """What both views show, as (label, text), in order; "-" for what is not known yet."""
    metrics, replay = snapshot.metrics, snapshot.replay
    rows = [
        ("env steps", _number(metrics.get("env_steps"), ",.0f")),
        ("steps/s", _number(metrics.get("env_steps_per_s"), ",.0f")),
        ("return", _number(metrics.get("return_mean"), ".2f")),
        ("policy lag", _lag(metrics.get("policy_lag_mean"), metrics.get("policy_lag_p95"))),
        ("updates", _number(metrics.get("updates"), ",.0f")),
        ("replay", _fill(replay, snapshot.replay_down)),
        ("insert wait", _seconds(sum(table.insert_wait_s for table in replay.tables) if replay else None)),
        ("sample wait", _seconds(sum(table.sample_wait_s for table in replay.tables) if replay else None)),
        ("learner wait", _wait(metrics.get("wait_data_s"), metrics.get("sample_failure"))),
        ("lease", _lease(metrics.get("lease_refusal"), snapshot.breaches)),
    ]
    rows.append(("candidates", snapshot.counts.describe() if snapshot.counts else UNKNOWN))
    # Most runs have none of these, and need no row for them.
    if evaluation := metrics.get("evaluation"):
        rows.append(("evaluation", _evaluation(evaluation)))
    if metrics.get("rollbacks"):
        rows.append(("rollbacks", _number(metrics["rollbacks"], ",.0f")))
    return [*rows, ("revoked", describe_revoked(snapshot.revoked))] if snapshot.revoked else rows


class News(NamedTuple):
    """One thing that the gate has decided, to be shown once.

    Attributes:
      kind: of the decision: one kind comes in the order of its times.
      time_ns: since the epoch.
      text: one line.
      good: whether it lets a policy act.
    """

    kind: str
    time_ns: int
    text: str
    good: bool


def news(snapshot: RunSnapshot) -> list[News]:
    """The verdicts, promotions and breaches of a snapshot, oldest first."""
    found = [News("verdict", each.issue_time_ns, describe_verdict(each), each.approved) for each in snapshot.verdicts]
    found += [News("promotion", each.time_ns, describe_promotion(each), True) for each in snapshot.promoted]
    found += [News("breach", each.time_ns, describe_breach(each), False) for each in snapshot.breaches]
    return sorted(found, key=lambda each: each.time_ns)


class PlainView:
    """Lines for a pipe or a log: the figures every few seconds; what the gate decides, and restarts, as they come."""

    def __init__(self, stream: IO[str], *, interval_s: float = PLAIN_LINE_S) -> None:
        self._stream = stream
        self._interval_s = interval_s
        self._next_at = 0.0
        self._shown_ns: dict[str, int] = {}
        self._revoked_shown = 0
        self._restarts: dict[str, int] = {}

    def show(self, snapshot: RunSnapshot, processes: Sequence[ProcessLine]) -> None:
        """Writes the lines that are due."""
        for process in processes:
            if process.restarts > self._restarts.get(process.name, 0):
                self._restarts[process.name] = process.restarts
                self._write(snapshot, f"{process.name} started again (restart {process.restarts})")
        for each in news(snapshot):
            if each.time_ns > self._shown_ns.get(each.kind, 0):
                self._shown_ns[each.kind] = each.time_ns
                self._write(snapshot, each.text)
        if revoked := snapshot.revoked[self._revoked_shown :]:
            self._revoked_shown = len(snapshot.revoked)
            self._write(snapshot, f"revoked: {describe_revoked(revoked)}")
        if time.monotonic() < self._next_at:
            return
        self._next_at = time.monotonic() + self._interval_s
        if snapshot.metrics:
            self._write(snapshot, "  ".join(f"{label} {text}" for label, text in figures(snapshot)))
        else:
            self._write(snapshot, "starting: " + ", ".join(f"{process.name} {process.state}" for process in processes))

    def finish(self, snapshot: RunSnapshot, processes: Sequence[ProcessLine]) -> None:
        """Writes the last figures, and what has not been written yet."""
        self._next_at = 0.0
        self.show(snapshot, processes)

    def _write(self, snapshot: RunSnapshot, text: str) -> None:
        print(f"[{snapshot.elapsed_s:7.1f} s] {text}", file=self._stream, flush=True)

    def __enter__(self) -> PlainView:
        """Takes nothing."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Gives nothing back."""


class LiveView:
    """A table that is redrawn in place, with the newest decisions of the gate under it."""

    def __init__(self, stream: IO[str], recipe: str) -> None:
        # Only a terminal needs rich, and it takes a while to load.
        from rich.console import Console  # noqa: PLC0415
        from rich.live import Live  # noqa: PLC0415

        self._recipe = recipe
        self._live = Live(console=Console(file=stream), auto_refresh=False, transient=False)
        self._next_at = 0.0
        self._stack = ExitStack()

    def show(self, snapshot: RunSnapshot, processes: Sequence[ProcessLine]) -> None:
        """Redraws when it is time to."""
        if time.monotonic() < self._next_at:
            return
        self._next_at = time.monotonic() + LIVE_REFRESH_S
        self._live.update(self._draw(snapshot, processes), refresh=True)

    def finish(self, snapshot: RunSnapshot, processes: Sequence[ProcessLine]) -> None:
        """Draws the last picture."""
        self._live.update(self._draw(snapshot, processes), refresh=True)

    def _draw(self, snapshot: RunSnapshot, processes: Sequence[ProcessLine]) -> Group:
        from rich.console import Group  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        table = Table(title=f"temper train {self._recipe}   {snapshot.elapsed_s:.0f} s", show_header=False)
        for label, text in figures(snapshot):
            table.add_row(label, text)
        states = (f"{process.name} {process.state}" + _times(process.restarts) for process in processes)
        table.add_row("processes", ", ".join(states))
        newest = news(snapshot)[-NEWS_ROWS:]
        return Group(table, *(Text(each.text, style="green" if each.good else "yellow") for each in newest))

    def __enter__(self) -> LiveView:
        """Starts drawing."""
        self._stack.enter_context(self._live)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the last picture and gives the cursor back, where the terminal is still there."""
        try:
            self._stack.close()
        except OSError as lost:
            discard_output(lost)


def _number(value: object, pattern: str) -> str:
    # A mean over nothing is written as null.
    return format(float(value), pattern) if isinstance(value, (int, float)) else UNKNOWN


def _seconds(value: object) -> str:
    return f"{float(value):.1f} s" if isinstance(value, (int, float)) else UNKNOWN


def _wait(waited_s: object, failure: object) -> str:
    return f"{_seconds(waited_s)}; since the last batch: {failure}" if failure else _seconds(waited_s)


def _lag(mean: object, p95: object) -> str:
    return f"{_number(mean, '.1f')} (p95 {_number(p95, '.0f')})"


def _lease(refusal: object, breaches: Sequence[BreachedEpoch]) -> str:
    if refusal is None:
        return UNKNOWN
    # A breach has been told in a line of its own, with all its figures.
    epoch = next((breach.epoch for breach in breaches if breach.reason == refusal), 0)
    if epoch:
        return f"refused: epoch {epoch} is breached"
    return f"refused: {refusal}" if refusal else "held"


def _evaluation(evaluation: Mapping[str, object]) -> str:
    """How far the candidate under way has come, as the learner's figures have it."""
    done, most = _number(evaluation.get("episodes_done"), ",.0f"), _number(evaluation.get("episodes_total"), ",.0f")
    return f"candidate {_number(evaluation.get('version'), '.0f')}, {done} of at most {most} episodes"


def _fill(replay: replay_pb2.StatsResponse | None, down: Sequence[str]) -> str:
    if replay is None:
        return UNKNOWN
    missing = f"; down: {', '.join(down)}" if down else ""
    return f"{replay.records:,} records, {replay.payload_bytes / 1e6:,.0f} MB{missing}"


def _times(restarts: int) -> str:
    return f" (restarted {restarts}x)" if restarts else ""
