"""Output that nobody takes: none was given, the pipe's reader has gone, the terminal was closed, the disk is full."""

from __future__ import annotations

import errno
import os
import sys

_STANDARD_OUTPUT, _STANDARD_ERROR = 1, 2


def open_closed_streams() -> None:
    """Opens the standard streams that this process was started without onto nothing.

    Otherwise the next file that is opened would take their place, and be written into by whoever prints.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        pass
    os.close(descriptor)
    # Python has no stream either where it found none.
    sys.stdout = sys.stdout or os.fdopen(_STANDARD_OUTPUT, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(_STANDARD_ERROR, "w", closefd=False)


def discard_output(error: OSError) -> None:
    """Sends what is yet to be written nowhere, so that whoever writes can end in order.

    Args:
      error: what writing to standard output raised. A terminal that was closed takes standard error with it.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    if error.errno == errno.EIO:
        os.dup2(nowhere, sys.stderr.fileno())
    os.close(nowhere)
