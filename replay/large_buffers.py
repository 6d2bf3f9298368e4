"""Keeps the memory of large messages in the process, instead of asking the kernel for it anew for every one.

glibc gives blocks above a threshold back to the kernel as soon as they are freed. A service that takes half a megabyte
in, parses it, joins it and writes it does so four times a record, and every time the kernel clears every page: raw
frames came in about a fifth faster without. What is kept is bounded, and shows as resident memory.

For a process that moves records of this size for a living; it changes the allocator of the whole process. Where the C
library is another one, nothing happens.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

KEPT_BYTES_MAX = 256 * 1024**2
"""Unused memory at the top of the heap beyond this goes back to the kernel."""

BLOCK_BYTES_MAX = 32 * 1024**2
"""Larger blocks than the largest message still come from the kernel, and go back to it."""


def keep_large_buffers() -> bool:
    """Sets the allocator's thresholds; returns whether it took them."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, BLOCK_BYTES_MAX) and mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES_MAX))
