"""Verification by re-execution: a sample of a log's records is run again from provenance, compared, and marked.

From a record's header and origin come the environment (by id, version and code digest), the seeds, and where in its
episode it begins; from the records before it the actions since its first episode began; from the record itself the
rest. The marks are the signals `verified` and `mismatch`, one of them 1 and the other 0, and `verification_error`, the
largest absolute difference of any number compared. A record that cannot be run again, or only in part, is not marked.
What agreement is, is in actors.agreement; what is said of a record, in actors.judgement.

Works over any replay.source.RecordSource. Memory is bounded whatever the size of the log. To re-execute is to trust the
environment that is installed here, and nothing else: a module that only a record names is not imported for its sake.

Exceptions: VerificationError (a ValueError) for a fraction that is none; FilterError; what the source raises. That an
environment raises while it is stepped, or does not come back, makes records unverifiable.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from actors.config import EnvironmentConfig
from actors.judgement import Verdict
from actors.known_environments import KnownEnvironments
from actors.verifier import Verifier
from replay.filters import parse_filter
from replay.record_pages import paged
from replay.source import RecordSource

MISMATCHES_MAX = 10_000
"""Most mismatches that a report lists; it counts all of them."""

LOOK_BACK = 65_536
"""How many positions before the first record wanted the records that lead up to it are looked for, and how many records
after the last one those that say how it ended."""

_REASONS_MAX = 100
_OTHER = "other reasons"

_SHARD_POSITIONS = 1 << 48
"""Positions of one shard: what is below is another log's."""


class VerificationError(ValueError):
    """What is to be verified makes no sense; the message is one line."""


class Mismatch(NamedTuple):
    """A record that says what did not happen."""

    position: int
    what: str
    """The column, the field of the header, or signals.NAME."""
    step: int
    """The first row of its columns where it is wrong; 0 for the header."""
    error: float
    """Largest absolute difference of any number compared."""


@dataclass
class VerificationReport:
    """What a verification came to."""

    records: int = 0
    """Records chosen: verified + unverifiable, and those of the mismatches that had been chosen."""
    verified: int = 0
    mismatched: int = 0
    """Those noticed on the way to others included."""
    unverifiable: int = 0
    steps: int = 0
    """Environment steps made."""
    mismatches: dict[int, Mismatch] = field(default_factory=dict)
    """By position, the first MISMATCHES_MAX of them."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Why records are unverifiable, and how many for that reason."""
    error_max: float = 0.0
    """Largest absolute difference in a record that is verified."""

    def count(self, verdict: Verdict) -> bool:
        """Takes one verdict in; False for a mismatch that is known already."""
        if verdict.position in self.mismatches:
            return False
        self.records += verdict.chosen
        if verdict.status == "verified":
            self.verified += 1
            self.error_max = max(self.error_max, verdict.error)
        elif verdict.status == "unverifiable":
            self.unverifiable += 1
            known = verdict.reason in self.reasons or len(self.reasons) < _REASONS_MAX
            self.reasons[verdict.reason if known else _OTHER] += 1
        else:
            self.mismatched += 1
            if len(self.mismatches) < MISMATCHES_MAX:
                found = Mismatch(verdict.position, verdict.what, verdict.row, verdict.error)
                self.mismatches[verdict.position] = found
        return True


def check_fraction(fraction: float) -> None:
    """Raises VerificationError unless it is in (0, 1]."""
    if not 0.0 < fraction <= 1.0:
        raise VerificationError(f"fraction = {fraction} must be in (0, 1]: nothing was verified")


def is_sampled(position: int, fraction: float, seed: int) -> bool:
    """Whether the record at a position belongs to the sample: the same ones for the same seed, whoever asks.

    A greater fraction of the same seed holds every record that a smaller one does.
    """
    key = (seed % 2**64).to_bytes(8, "little")
    digest = hashlib.blake2b(position.to_bytes(8, "little"), digest_size=8, key=key).digest()
    return int.from_bytes(digest, "little") < fraction * 2.0**64


def verify(
    source: RecordSource,
    environment: EnvironmentConfig | None,
    *,
    fraction: float = 1.0,
    seed: int = 0,
    filter_text: str = "",
    from_position: int = 0,
    limit: int = 0,
    mark: bool = True,
    progress: Callable[[int], object] = lambda _count: None,
) -> VerificationReport:
    """Verifies a sample of the records in a log, and marks them.

    Args:
      source: the log, and where the marks go.
      environment: the environment to run them again in; None: the one that each record names, with its own settings.
      fraction: which part of the records, in (0, 1].
      seed: of the choice.
      filter_text: only records that pass.
      from_position: only records from here on; those before are read where they lead up to one.
      limit: at most so many records, 0 for no limit.
      mark: whether to write the marks.
      progress: called with how many more records of the log have been gone through.

    Raises:
      VerificationError: fraction is out of range.
      FilterError: the filter cannot be read.
      EnvironmentUnsupported: `environment` cannot be made.
      And whatever the source raises.
    """
    check_fraction(fraction)
    passes = parse_filter(filter_text)
    environments = KnownEnvironments(environment)
    report = VerificationReport()
    verifier = Verifier(source, environments)

    def conclude(last: bool) -> None:
        verdicts = verifier.verdicts(last=last)
        if mark:
            write_marks(source, verdicts)
        for verdict in verdicts:
            report.count(verdict)
        report.steps = verifier.steps

    chosen = gone_through = beyond = 0
    try:
        for record in paged(source, from_position=from_position - min(LOOK_BACK, from_position % _SHARD_POSITIONS)):
            wanted = (
                record.position >= from_position
                and (not limit or chosen < limit)
                and is_sampled(record.position, fraction, seed)
                and passes(record)
            )
            verifier.look_at(record, chosen=wanted)
            chosen += wanted
            gone_through += record.position >= from_position
            if verifier.full:
                conclude(last=False)
                progress(gone_through)
                gone_through = 0
            # A lane that nothing comes of any more would not be settled before the end of the log.
            beyond = 0 if wanted else beyond + 1
            if limit and chosen >= limit and (verifier.settled or beyond >= LOOK_BACK):
                break
        conclude(last=True)
        progress(gone_through)
    finally:
        environments.close()
    return report


def write_marks(source: RecordSource, verdicts: Iterable[Verdict]) -> int:
    """Writes what the verdicts say about their records; returns how many are marked. Raises what the source raises."""
    marks = {
        verdict.position: {
            "verified": float(verdict.status == "verified"),
            "mismatch": float(verdict.status == "mismatch"),
            "verification_error": verdict.error,
        }
        for verdict in verdicts
        if verdict.status != "unverifiable"
    }
    if marks:
        source.annotate(marks)
    return len(marks)
