"""How the processes of a host live and die: signals as a waitable thing, and no child that outlives its parent.

Linux only, like the servers around it.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
from types import FrameType, TracebackType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""What asks a process to stop in order."""

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int, signum: signal.Signals) -> None:
    """From now on this process receives `signum` when its parent `parent_pid` dies; at once if it already has.

    The parent is, for the kernel, the thread that forked: it must be one that lives as long as its process.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl(PR_SET_PDEATHSIG): {os.strerror(error)}")
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signum)


class StopSignals:
    """Turns SIGTERM and SIGINT into a flag that can be waited for; SIGCHLD ends a wait too.

    Handlers are in place inside the `with` block, which must be in the main thread.
    """

    def __init__(self) -> None:
        self._stop = False

    def __enter__(self) -> StopSignals:
        """Installs the handlers."""
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._old_descriptor = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._old_handlers = {number: signal.signal(number, self._request_stop) for number in STOP_SIGNALS}
        # A handler that does nothing, because a default or ignored signal would not write to the descriptor.
        self._old_handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _ignore)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Puts the former handlers back."""
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_descriptor)
        self._reader.close()
        self._writer.close()

    def stop_requested(self) -> bool:
        """Whether SIGTERM or SIGINT has come."""
        return self._stop

    def wait(self, timeout_s: float) -> None:
        """Returns after any of the three signals, or after `timeout_s`."""
        if select.select([self._reader], [], [], timeout_s)[0]:
            self._reader.recv(4096)

    def _request_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stop = True


def _ignore(_number: int, _frame: FrameType | None) -> None:
    pass
