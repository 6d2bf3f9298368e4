"""Episodes as the rows of records, boundary rows included (docs/decisions/0002), and rows cut into records.

Two ways to cut: every episode by itself, so that its last row is followed by its own last observation; or one row after
another as an actor does, so that every record has the same number of rows and an episode may begin in the midst of one.

Exceptions: none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


class EpisodeRows(NamedTuple):
    """An episode of k steps as R rows: k of them, or k + 1 where it was truncated."""

    number: int
    seed: int | None
    steps: int
    """k."""
    observations: Arrays
    """Columns [R + 1, *shape]."""
    others: Arrays
    """Columns [R, *shape]; "reward" and "mask" among them."""

    @property
    def rows(self) -> int:
        """R."""
        return len(self.others["mask"])


class Span(NamedTuple):
    """Rows first to first + rows - 1 of an episode."""

    episode: EpisodeRows
    first: int
    rows: int

    @property
    def steps(self) -> int:
        """How many of the rows are steps."""
        return min(self.first + self.rows, self.episode.steps) - min(self.first, self.episode.steps)

    @property
    def ends_episode(self) -> bool:
        """Whether the episode's last step is in it."""
        return self.first < self.episode.steps <= self.first + self.rows


class RecordRows(NamedTuple):
    """The rows of a record, and the observation after them."""

    spans: list[Span]
    after: Arrays
    """Observation columns, one row [*shape] each."""

    @property
    def steps(self) -> int:
        """T: how many rows there are."""
        return sum(span.rows for span in self.spans)

    def columns(self) -> Arrays:
        """Observation columns [T + 1, *shape], all others [T, *shape]."""
        observations = {
            name: np.concatenate(
                [*(span.episode.observations[name][span.first : span.first + span.rows] for span in self.spans), [last]]
            )
            for name, last in self.after.items()
        }
        others = {
            name: np.concatenate(
                [span.episode.others[name][span.first : span.first + span.rows] for span in self.spans]
            )
            for name in self.spans[0].episode.others
        }
        return {**observations, **others}


def episode_rows(
    number: int, seed: int | None, observations: Arrays, steps: Arrays, *, terminated: bool
) -> EpisodeRows:
    """The rows of an episode of k steps.

    Args:
      number: of the episode in its lane.
      seed: its environment was reset with.
      observations: columns [k + 1, *shape].
      steps: columns [k, *shape] of what happened in its steps, "reward" among them.
      terminated: whether its last step terminated it; if not, that step was truncated.
    """
    count = len(steps["reward"])
    discount = np.ones(count, np.float32)
    others = {**steps, "cost": np.zeros(count, np.float32), "discount": discount, "mask": np.ones(count, np.bool_)}
    if terminated:
        discount[-1] = 0
    else:
        others = {name: np.concatenate([each, np.zeros_like(each[:1])]) for name, each in others.items()}
        observations = {name: np.concatenate([each, each[-1:]]) for name, each in observations.items()}
    return EpisodeRows(number, seed, count, observations, others)


def cut_by_episode(episodes: Iterable[EpisodeRows], rows_max: int) -> Iterator[RecordRows]:
    """Each episode as a record, or as several of at most `rows_max` rows."""
    for episode in episodes:
        for first in range(0, episode.rows, rows_max):
            rows = min(rows_max, episode.rows - first)
            after = {name: each[first + rows] for name, each in episode.observations.items()}
            yield RecordRows([Span(episode, first, rows)], after)


class FixedCut:
    """Episodes as records of `rows` rows each, one row after another.

    Attributes:
      left_over: steps at the end that fill no record; known once the iteration has ended.
    """

    def __init__(self, episodes: Iterable[EpisodeRows], rows: int) -> None:
        self.left_over = 0
        self._episodes = episodes
        self._rows = rows

    def __iter__(self) -> Iterator[RecordRows]:
        spans: list[Span] = []
        missing = self._rows
        for episode in self._episodes:
            first = 0
            while first < episode.rows:
                if not missing:
                    # Only here is it known what comes after the record's last row.
                    yield RecordRows(spans, {name: each[first] for name, each in episode.observations.items()})
                    spans, missing = [], self._rows
                rows = min(missing, episode.rows - first)
                spans.append(Span(episode, first, rows))
                first += rows
                missing -= rows
        if spans and not missing:
            yield RecordRows(spans, {name: each[-1] for name, each in spans[-1].episode.observations.items()})
        else:
            self.left_over = sum(span.steps for span in spans)
