"""Slices of outcomes for tests, made from what the test is about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from safety.statistics.counts import PairedOutcomes, Severity, SliceOutcomes


def slice_of(
    worst: Sequence[int], capability: Sequence[float] | None = None, name: str = "plain", first_seed: int = 0
) -> SliceOutcomes:
    """One episode for each severity of a worst event; twice that event, so that events are not episodes."""
    count = len(worst)
    events = np.zeros((count, 3), np.int64)
    for episode, severity in enumerate(worst):
        if severity:
            events[episode, severity - 1] = 2
    values = np.zeros(count) if capability is None else np.array(capability, np.float64)
    return SliceOutcomes(name, tuple(range(first_seed, first_seed + count)), events, values)


def violations(events: int, episodes: int) -> SliceOutcomes:
    """So many episodes with a severe event, the rest with a minor one."""
    return slice_of([Severity.SEVERE] * events + [Severity.MINOR] * (episodes - events))


def pairs(
    candidate_only: int, incumbent_only: int, episodes: int, candidate: float = 0.0, incumbent: float = 0.0
) -> PairedOutcomes:
    """Pairs with severe events of one policy only, and no others; a constant capability of each."""
    rest = episodes - candidate_only - incumbent_only
    ours = [Severity.SEVERE] * candidate_only + [Severity.NONE] * (incumbent_only + rest)
    theirs = [Severity.NONE] * candidate_only + [Severity.SEVERE] * incumbent_only + [Severity.NONE] * rest
    return PairedOutcomes(slice_of(ours, [candidate] * episodes), slice_of(theirs, [incumbent] * episodes))
