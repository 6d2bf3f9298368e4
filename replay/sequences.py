"""Which sequences of one actor run are stored: the basis of exactly-once, whatever order records arrive in.

Kept as one watermark, below which everything is stored, and the few sequences ahead of it. Knows no records.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from replay.store import SEQUENCE_LEAD_MAX, RecordInvalid


class RunSequences:
    """The set {0, ..., next - 1} | ahead, where every member of `ahead` is greater than `next`."""

    __slots__ = ("ahead", "next")

    def __init__(self, next_sequence: int = 0, ahead: Iterable[int] = ()) -> None:
        self.next = next_sequence
        self.ahead = set(ahead)

    def copy(self) -> RunSequences:
        """An independent copy, to be changed inside a transaction that may fail."""
        return RunSequences(self.next, self.ahead)

    def admit(self, sequences: Sequence[int]) -> Sequence[int]:
        """Adds `sequences` (ascending, at least one) and returns the indices of those that were new.

        Raises RecordInvalid, with nothing added, if one lies SEQUENCE_LEAD_MAX or more ahead of the watermark.
        """
        if sequences[-1] - self.next >= SEQUENCE_LEAD_MAX:
            raise RecordInvalid(
                f"sequence {sequences[-1]} is {sequences[-1] - self.next} ahead of the next expected, {self.next}; "
                f"the limit is {SEQUENCE_LEAD_MAX}: send the missing ones first; nothing of the batch was stored"
            )
        if not self.ahead and sequences[0] == self.next and sequences[-1] == self.next + len(sequences) - 1:
            self.next += len(sequences)
            return range(len(sequences))
        new = [
            index for index, sequence in enumerate(sequences) if sequence >= self.next and sequence not in self.ahead
        ]
        self.ahead.update(sequences[index] for index in new)
        self._advance()
        return new

    def raise_to(self, sequence: int) -> None:
        """Counts every sequence below `sequence` as stored; does nothing where they are."""
        if sequence > self.next:
            self.next = sequence
            self.ahead = {ahead for ahead in self.ahead if ahead >= sequence}
            self._advance()

    def _advance(self) -> None:
        while self.next in self.ahead:
            self.ahead.discard(self.next)
            self.next += 1
