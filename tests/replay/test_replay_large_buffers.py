"""The allocator's thresholds: taken where the C library has them, and then large blocks are reused."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import resource, sys
from replay.large_buffers import keep_large_buffers
kept = keep_large_buffers() if sys.argv[1] == "keep" else False
bytes(1_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(200):
    bytearray(1_000_000)[::4096] = bytes(245)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> tuple[str, int]:
    """What the program says of itself: whether the thresholds were taken, and the pages that it had to fault in."""
    # Without the threshold that glibc raises by itself once a large block has been freed.
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        env={"MALLOC_MMAP_THRESHOLD_": "131072", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    kept, faults = done.stdout.split()
    return kept, int(faults)


def test_large_blocks_are_reused_once_kept() -> None:
    kept, faults = page_faults("keep")
    assert kept == "True"
    assert faults < 2_000
    assert page_faults("give back")[1] > 20_000
