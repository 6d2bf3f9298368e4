"""What the ledger says of past verdicts: how many, which release is the incumbent, what was judged before.

Read from the entries when the service starts, each verified against the key and against the chain, and kept up with
each verdict since. It writes nothing.

Exceptions: LedgerError where an entry's verdict is not one that this service signed at this place.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import DecodeError

from policies.signing import VERDICT_TYPE, SignatureError, VerifyKey, verify
from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2
from safety.ledger import LedgerEntry, LedgerError
from safety.verdicts import ledger_fields, statement_in

VERDICT = "verdict"
"""Kind of the ledger entries that hold verdicts."""


class VerdictHistory:
    """Past verdicts, oldest first.

    Args:
      entries: the ledger's.
      key: that must have signed them.
      run_id: that they must be about.
    """

    def __init__(self, entries: Iterable[LedgerEntry], key: VerifyKey, run_id: str) -> None:
        self.approved = 0
        self.rejected = 0
        self.incumbent_digest = b""
        self._statements: list[common_pb2.SignedStatement] = []
        self._judged: dict[bytes, tuple[common_pb2.SignedStatement, safety_pb2.VerdictStatement]] = {}
        self._key = key
        self._run_id = run_id
        for entry in entries:
            if entry.kind == VERDICT:
                self.add(entry)

    @property
    def evaluations(self) -> int:
        """Verdicts so far; the next evaluation has the number after it."""
        return self.approved + self.rejected

    def add(self, entry: LedgerEntry) -> None:
        """Takes a verdict's entry into account; raises LedgerError unless it is the verdict that must stand there."""
        try:
            signed = statement_in(entry.fields)
            statement = safety_pb2.VerdictStatement.FromString(verify(self._key, signed, VERDICT_TYPE))
        except (SignatureError, DecodeError, ValueError, KeyError, TypeError) as error:
            raise LedgerError(
                f"ledger entry {entry.index} holds no verdict signed by {self._key.key_id}: {error}"
            ) from error
        expected = ledger_fields(signed, statement, self.evaluations + 1)
        numbered = statement.release_number == (self.approved + 1 if statement.approved else 0)
        if entry.fields != expected or statement.previous_entry_digest != entry.previous or not numbered:
            raise LedgerError(f"ledger entry {entry.index} does not say what its verdict says, or stands out of place")
        if statement.run_id != self._run_id:
            raise LedgerError(f"ledger entry {entry.index} is about run {statement.run_id!r}, not {self._run_id!r}")
        if statement.approved:
            self.approved += 1
            self.incumbent_digest = statement.artifact_digest
        else:
            self.rejected += 1
        self._statements.append(signed)
        if statement.criteria:
            self._judged[statement.artifact_digest] = signed, statement

    def recorded(
        self, digest: bytes, criteria_digest: bytes, suite_digest: bytes, now_ns: int
    ) -> common_pb2.SignedStatement | None:
        """The verdict that stands for an artifact (32-byte digest), if it has been judged by this rule and suite.

        An artifact that has been judged by the criteria is not judged again: with fresh seeds for every attempt, a bad
        one would pass at last. One that could not be judged, whose approval has expired, or that was judged before the
        settings or the environment changed, may be offered again.
        """
        if digest not in self._judged:
            return None
        signed, statement = self._judged[digest]
        if (statement.criteria_digest, statement.suite_digest) != (criteria_digest, suite_digest):
            return None
        return None if statement.approved and now_ns >= statement.expiry_time_ns else signed

    def newest(self, limit: int) -> list[common_pb2.SignedStatement]:
        """Verdicts, newest first, at most `limit` (0: all)."""
        statements = self._statements[-limit:] if limit else self._statements
        return statements[::-1]
