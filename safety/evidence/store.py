"""Keeps evidence and the artifacts of candidates that were not released, within their room, and forgets the rest.

The oldest verdicts' go first; the evidence of releases that stand is kept in any case. What no verdict names is what a
crash has left, and goes. Layout: `safety.evidence.file`. It decides nothing, and no verdict needs what it holds.

Exceptions: CustodyError (safety.keys.custody) where something cannot be written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from policies.artifact import artifact_digest
from policies.durable import replace_file
from safety.evidence.file import CANDIDATES_DIRECTORY, EVIDENCE_DIRECTORY, Evidence, evidence_path, write_evidence
from safety.keys.custody import CustodyError


class Kept(NamedTuple):
    """What belongs to one verdict; b"" for what it does not have.

    Attributes:
      evidence: digest of its evidence.
      candidate: digest of its candidate's artifact, where it was tested and not released.
      released: the same where it was released.
      standing: whether that release is not revoked.
    """

    evidence: bytes
    candidate: bytes
    released: bytes
    standing: bool = False


class EvidenceStore:
    """The two folders in the safety service's directory; made if they are not there.

    Args:
      directory: the safety service's.

    Raises:
      CustodyError: they cannot be made.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._evidence = directory / EVIDENCE_DIRECTORY
        self._candidates = directory / CANDIDATES_DIRECTORY
        try:
            self._evidence.mkdir(mode=0o755, exist_ok=True)
            self._candidates.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise CustodyError(f"evidence cannot be kept in {directory}: {error.strerror}") from error

    def write(self, evidence: Evidence) -> bytes:
        """Its digest (32 bytes), once it is on the disk. Raises CustodyError."""
        try:
            return write_evidence(self._directory, evidence)
        except OSError as error:
            raise CustodyError(f"evidence cannot be written to {self._evidence}: {error.strerror}") from error

    def keep_candidate(self, artifact: bytes) -> None:
        """Keeps the artifact of a candidate that is not released. Raises CustodyError."""
        try:
            replace_file(self._candidates / artifact_digest(artifact).hex(), artifact, 0o600)
        except OSError as error:
            raise CustodyError(f"the candidate cannot be kept in {self._candidates}: {error.strerror}") from error

    def forget(self, verdicts: Iterable[Kept], bytes_max: int) -> None:
        """Removes what no verdict names, and the oldest for which there is no room.

        Args:
          verdicts: all there are, newest first.
          bytes_max: room for evidence and candidates together.

        Raises:
          CustodyError: something cannot be removed.
        """
        try:
            self._forget(list(verdicts), bytes_max)
        except OSError as error:
            raise CustodyError(f"old evidence in {self._directory} cannot be removed: {error.strerror}") from error

    def _forget(self, verdicts: Sequence[Kept], bytes_max: int) -> None:
        sizes = {
            path: path.stat().st_size for folder in (self._evidence, self._candidates) for path in folder.iterdir()
        }
        standing = {self._evidence_path(each) for each in verdicts if each.standing}
        kept = standing & sizes.keys()
        kept_bytes = sum(sizes[path] for path in kept)
        for each in verdicts:
            new = {self._evidence_path(each), self._candidates / each.candidate.hex()} & sizes.keys() - kept
            kept_bytes += sum(sizes[path] for path in new)
            if kept_bytes > bytes_max:
                break
            kept |= new
        for path in sizes.keys() - kept:
            path.unlink()

    def _evidence_path(self, kept: Kept) -> Path:
        return evidence_path(self._directory, kept.evidence)
