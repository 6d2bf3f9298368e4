"""How many training episodes there were and how many had a cost, in all and by tag: values, read by nobody here.

Exceptions: CountsUnreadable for totals that cannot be what replay counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

LEASE_TAG = "lease"
RELEASE_TAG = "release"
"""Kinds of tags; a tag is KIND.NUMBER, see actors.episodes."""


class CountsUnreadable(Exception):
    """The totals of training episodes and violations could not be had, or make no sense."""


class TrainingCounts(NamedTuple):
    """Episodes that have ended in training, and those of them that had any cost."""

    episodes: int
    violating: int


@dataclasses.dataclass(frozen=True)
class TrainingTotals:
    """Since replay began.

    Attributes:
      total: all episodes.
      tagged: those with a tag, by kind and number of the tag.
      complete: whether every tag that there ever was is among them: replay totals only so many names.
    """

    total: TrainingCounts
    tagged: Mapping[tuple[str, int], TrainingCounts]
    complete: bool = True

    def held_against(self, epoch: int) -> TrainingCounts:
        """The episodes that an epoch of leases answers for: all but those of releases and of epochs before it.

        A tag that is missing excuses nothing.

        Raises:
          CountsUnreadable: the tags excuse more than there is.
        """
        episodes, violating = self.total
        for (kind, number), counts in self.tagged.items():
            if kind == RELEASE_TAG or number < epoch:
                episodes, violating = episodes - counts.episodes, violating - counts.violating
        if not 0 <= violating <= episodes:
            raise CountsUnreadable(
                f"{violating} of {episodes} episodes that epoch {epoch} answers for are counted as violating"
            )
        return TrainingCounts(episodes, violating)

    def release(self, number: int) -> TrainingCounts:
        """The episodes in which nothing but this release acted; a tag that was never on a record has none.

        Raises:
          CountsUnreadable: violations of it could be missing.
        """
        if not self.complete:
            raise CountsUnreadable(
                f"replay totals so many signals that it may leave out further ones: violations of release {number} "
                "could be among them"
            )
        return self.tagged.get((RELEASE_TAG, number), TrainingCounts(0, 0))
