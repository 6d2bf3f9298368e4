"""The lineages of a run, in RUN_DIR/lineage: written for every checkpoint and every candidate, before it is one.

Names: VERSION.lineage, the learner's update count in 12 digits; VERSION-N.lineage (N = 2, 3, ...) where a learner that
went back to an older checkpoint reached that count again, with other records. Each is whole or absent, also after a
crash. What one holds is in learner.lineage_file.

Kept for ever: those of candidates that became releases, the revoked ones included. Of all others: the newest
NEWEST_KEPT checkpoints and the newest NEWEST_KEPT candidates, and among the older ones the farther back the fewer, such
that no two are nearer to each other than a sixteenth of their age in updates. So their number grows with the logarithm
of the run's length.

Exceptions: LineageError where nothing can be written. A file that is damaged is left alone, and said to be.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from learner.lineage import LineageError
from learner.lineage_file import Lineage, LineageHead, encode_lineage, read_lineage, read_lineage_head
from policies.durable import replace_file

DIRECTORY = "lineage"
"""Its name in a run directory."""

SUFFIX = ".lineage"
NEWEST_KEPT = 64
GAP_DIVISOR = 16

_log = logging.getLogger(__name__)


def lineage_paths(directory: Path) -> Sequence[Path]:
    """The files of an archive in the order in which they were reached; () where there is none."""
    found = []
    for path in directory.glob(f"*{SUFFIX}"):
        version, _, attempt = path.stem.partition("-")
        if version.isdecimal() and (attempt.isdecimal() or not attempt):
            found.append((int(version), int(attempt or 1), path))
    return [path for _, _, path in sorted(found)]


class LineageArchive:
    """Writes lineages, and removes those that need not be kept. For one thread, and one process at a time.

    Args:
      directory: made if it is not there.
      released: artifact digests of the releases so far.

    Raises:
      LineageError: the directory cannot be made.
    """

    def __init__(self, directory: Path, released: Iterable[bytes] = ()) -> None:
        self._directory = directory
        self._released = set(released)
        self._heads: dict[Path, LineageHead] = {}
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for unfinished in directory.glob(f".*{SUFFIX}.*"):
                unfinished.unlink()
        except OSError as error:
            raise LineageError(f"lineages cannot be kept in {directory}: {error.strerror}") from error
        heads = {}
        for path in lineage_paths(directory):
            try:
                heads[path] = read_lineage_head(path)
            except LineageError as error:
                _log.warning("a lineage is damaged: %s", error)
        # In the order in which they were written, which need not be that of their versions.
        self._heads.update(sorted(heads.items(), key=lambda item: item[1].time_ns))

    def write(self, lineage: Lineage) -> Path:
        """Keeps a lineage, durably once this returns, and returns where. Raises LineageError.

        That of a checkpoint and that of a candidate of the same policy become one.
        """
        path, lineage = self._place(lineage)
        if self._heads.get(path) != lineage.head:
            try:
                replace_file(path, encode_lineage(lineage))
            except OSError as error:
                raise LineageError(f"lineage {path} cannot be written: {error.strerror}") from error
            self._heads.pop(path, None)
            self._heads[path] = lineage.head
            self._thin()
        return path

    def keep(self, artifact_digest: bytes) -> None:
        """Keeps the lineage of this candidate for ever: it has become a release."""
        self._released.add(artifact_digest)

    def _place(self, lineage: Lineage) -> tuple[Path, Lineage]:
        """Where a lineage belongs, and what is to stand there."""
        attempt = 1
        while True:
            name = f"{lineage.head.version:012d}" + (f"-{attempt}" if attempt > 1 else "")
            path = self._directory / f"{name}{SUFFIX}"
            if not path.exists():
                return path, lineage
            head = _joined(path, lineage)
            if head is not None:
                return path, dataclasses.replace(lineage, head=head)
            attempt += 1

    def _thin(self) -> None:
        for path in self._superfluous():
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                _log.warning("lineage %s is kept: %s", path, error.strerror)
            del self._heads[path]

    def _superfluous(self) -> list[Path]:
        recent = {*self._newest_of(lambda head: head.checkpoint), *self._newest_of(lambda head: head.artifact_digest)}
        newest = next(reversed(self._heads.values())).version
        found, kept_version = [], None
        # Oldest first: what has just ceased to be recent stays if it is far enough from the one before it.
        for path, head in self._heads.items():
            gap = math.inf if kept_version is None else abs(head.version - kept_version)
            spaced = GAP_DIVISOR * gap >= abs(newest - head.version)
            if path in recent or spaced or head.artifact_digest in self._released:
                kept_version = head.version
            else:
                found.append(path)
        return found

    def _newest_of(self, kind: Callable[[LineageHead], object]) -> Iterator[Path]:
        chosen = (path for path, head in reversed(self._heads.items()) if kind(head))
        return itertools.islice(chosen, NEWEST_KEPT)


def _joined(path: Path, lineage: Lineage) -> LineageHead | None:
    """The head of both, where the file is of the same policy; None where it is of another, or damaged."""
    try:
        held = read_lineage(path)
    except LineageError:
        return None
    ours, theirs = lineage.head, held.head
    digests = {head.artifact_digest for head in (ours, theirs) if head.artifact_digest}
    if (ours.env_steps, ours.run_id) != (theirs.env_steps, theirs.run_id) or len(digests) > 1:
        return None
    if lineage.consumed != held.consumed:
        return None
    return dataclasses.replace(
        theirs,
        checkpoint=ours.checkpoint or theirs.checkpoint,
        artifact_digest=next(iter(digests), b""),
    )
