"""The candidate that is under way, on disk: a learner that dies before its answer is in effect offers it again.

RUN_DIR/learner/candidate, one at a time: the next one takes its place, and it is removed once it is answered. Whole or
absent, also after a crash. Format, version 1; the first two are each a line of UTF-8 that ends in a line feed:

    temper.candidate.v1
    {"artifact_digest": hex, "lineage_digest": hex or "", "run_id": text, "version": update count}
    the artifact's bytes

What cannot be read is no candidate: that is logged, and the next one takes its place.

Exceptions: CandidateFileError.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

from policies.artifact import ARTIFACT_BYTES_MAX, artifact_digest
from policies.durable import replace_file

NAME = "learner/candidate"
"""Its name in a run directory."""

_MAGIC = b"temper.candidate.v1\n"
_HEAD_BYTES_MAX = 4096

_log = logging.getLogger(__name__)


class CandidateFileError(Exception):
    """The candidate cannot be kept; the message says where and why."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What is offered.

    Attributes:
      version: learner update count.
      data: the artifact.
      lineage_digest: of the lineage that is kept of it (32 bytes); b"": none is.
    """

    version: int
    data: bytes = dataclasses.field(repr=False)
    lineage_digest: bytes = b""


class CandidateFile:
    """Where one candidate is kept. For one thread at a time.

    Args:
      path: of the file; its directory is made if it is not there.
      run_id: the training run; another run's candidate is none here.
    """

    def __init__(self, path: Path, run_id: str) -> None:
        self._path, self._run_id = path, run_id

    def keep(self, candidate: Candidate) -> None:
        """Keeps it in place of the one before, durably once this returns. Raises CandidateFileError."""
        head = {
            "artifact_digest": artifact_digest(candidate.data).hex(),
            "lineage_digest": candidate.lineage_digest.hex(),
            "run_id": self._run_id,
            "version": candidate.version,
        }
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._path, _MAGIC + json.dumps(head).encode() + b"\n" + candidate.data)
        except OSError as error:
            raise CandidateFileError(
                f"candidate {self._path} cannot be written: {error.strerror}; it is not offered before it is"
            ) from error

    def read(self) -> Candidate | None:
        """The candidate that is kept; None where there is none. Removes what an unfinished write has left."""
        try:
            for unfinished in self._path.parent.glob(f".{self._path.name}.*"):
                unfinished.unlink()
            return self._parsed()
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.error("candidate %s cannot be offered again, what became of it is not asked: %s", self._path, error)
            return None

    def remove(self) -> None:
        """Removes the candidate, if there is one; where that fails, it is merely asked for once more."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("candidate %s is answered and cannot be removed: %s", self._path, error.strerror)

    def _parsed(self) -> Candidate:
        """Raises OSError, ValueError, KeyError or TypeError."""
        with self._path.open("rb") as file:
            if file.readline(_HEAD_BYTES_MAX) != _MAGIC:
                raise ValueError(f"it does not begin with {_MAGIC!r}")
            head = json.loads(file.readline(_HEAD_BYTES_MAX))
            data = file.read(ARTIFACT_BYTES_MAX)
        if artifact_digest(data).hex() != head["artifact_digest"]:
            raise ValueError(f"its artifact has digest {artifact_digest(data).hex()}, not {head['artifact_digest']}")
        if head["run_id"] != self._run_id:
            raise ValueError(f"it is of run {head['run_id']!r}, this is run {self._run_id!r}")
        return Candidate(int(head["version"]), data, bytes.fromhex(head["lineage_digest"]))
