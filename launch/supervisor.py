"""Runs a run's processes on one machine: starts them together, restarts the dead, stops them in order.

What the processes are is in `launch.topology`, how one is looked after in `launch.child`. Here are the order of events
and the signals. Nothing here knows what a policy or a record is.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from launch.child import Child

TICK_S = 0.1
"""How often the processes are looked at."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends a run; SIGHUP not where it was ignored at the start, as under nohup."""


class Supervisor:
    """Looks after children until the run is over.

    The first of STOP_SIGNALS ends the run in order; the second kills every child at once.
    """

    def __init__(self, children: Sequence[Child], *, on_tick: Callable[[], None] = lambda: None) -> None:
        """Takes the children in the order in which they are started.

        Args:
          children: at least one whose spec says that its end ends the run.
          on_tick: called about every TICK_S from the main thread, also while stopping. It must not raise: then the
            children are killed, and have no time to end in order.
        """
        self.children = tuple(children)
        self._on_tick = on_tick
        self._signals: list[int] = []

    @property
    def signal(self) -> int | None:
        """The signal that ended the run, if one did."""
        return self._signals[0] if self._signals else None

    def end(self, number: int) -> None:
        """Ends the run as this signal would, if nothing has ended it before."""
        if not self._signals:
            self._signals.append(number)

    def run(self) -> None:
        """Starts every child and returns when the run is over: its leading child ended in order, or a signal came.

        The children that still run are left to `stop`, also when this raises.

        Raises:
          BadInput: a child refused its input.
          RunFailed: a child kept dying.
        """
        for child in self.children:
            child.start()
        while not self._signals:
            over = False
            for child in self.children:
                over = child.poll() or over
            if over:
                return
            self._on_tick()
            time.sleep(TICK_S)

    def stop(self, order: Sequence[str], *, before: Callable[[str], None] = lambda _: None) -> None:
        """Stops the children one after the other, each within its own time; afterwards none is left.

        Args:
          order: names of children; those not named are stopped last, names without a child are passed over.
          before: called with a child's name right before that child is asked to stop, where it runs.
        """
        named = {child.spec.name: child for child in self.children}
        try:
            for name in [*(name for name in order if name in named), *(name for name in named if name not in order)]:
                if named[name].pid is not None:
                    before(name)
                self._stop_one(named[name])
        finally:
            for child in self.children:
                child.kill()

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Takes STOP_SIGNALS while the block runs; to be entered in the main thread, around `run` and `stop`."""
        numbers = [number for number in STOP_SIGNALS if number != signal.SIGHUP or not _is_ignored(number)]
        previous = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _stop_one(self, child: Child) -> None:
        child.request_stop()
        deadline = time.monotonic() + child.spec.stop_s_max
        while not child.has_stopped():
            if len(self._signals) > 1 or time.monotonic() > deadline:
                child.kill()
                return
            self._on_tick()
            time.sleep(TICK_S / 2)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)


def _is_ignored(number: signal.Signals) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN


def exit_status(signal_number: int | None) -> int:
    """The conventional exit status of a run ended by a signal (128 + its number), 0 for one that came to its end."""
    return 128 + signal_number if signal_number is not None else 0
