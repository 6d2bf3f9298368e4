"""What outcomes may be, and what is counted from them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from safety.statistics.counts import CountsError, PairedOutcomes, Severity, SliceOutcomes
from safety.statistics.parameters import ParameterError
from tests.safety.statistics.slices import pairs, slice_of

NO_EVENTS = np.zeros((2, 3), np.int64)


def test_an_episode_counts_once_by_its_worst_event() -> None:
    outcomes = SliceOutcomes("s", (5, 6, 7), np.array([[9, 0, 1], [4, 2, 0], [0, 0, 0]]), np.zeros(3))
    assert outcomes.worst.tolist() == [Severity.SEVERE, Severity.MAJOR, Severity.NONE]
    assert [outcomes.violating(severity) for severity in (Severity.MINOR, Severity.MAJOR, Severity.SEVERE)] == [2, 2, 1]
    assert outcomes.violates(Severity.SEVERE).tolist() == [True, False, False]


def test_an_empty_slice_is_one() -> None:
    outcomes = slice_of([])
    assert (outcomes.episodes, outcomes.violating(Severity.MINOR), len(outcomes.worst)) == (0, 0, 0)


def test_none_is_not_the_severity_of_an_event() -> None:
    with pytest.raises(ParameterError, match="NONE"):
        slice_of([0, 1]).violating(Severity.NONE)


@pytest.mark.parametrize(
    ("seeds", "events", "capability", "message"),
    [
        ((1, 1), NO_EVENTS, np.zeros(2), "twice"),
        ((1, 2), NO_EVENTS[:1], np.zeros(2), r"\[1, 3\]"),
        ((1, 2), NO_EVENTS[:, :2], np.zeros(2), r"\[2, 2\]"),
        ((1, 2), NO_EVENTS, np.zeros(3), r"\[3\]"),
        ((1, 2), NO_EVENTS - 1, np.zeros(2), "-1 events"),
        ((1, 2), NO_EVENTS * np.nan, np.zeros(2), "not integers"),
        ((1, 2), NO_EVENTS, np.array([0.0, np.nan]), "1 capabilities are not finite"),
        ((1, 2), NO_EVENTS, np.array([np.inf, -np.inf]), "2 capabilities are not finite"),
    ],
)
def test_refuses_what_no_evaluation_can_have(
    seeds: tuple[int, ...], events: NDArray[np.int64], capability: NDArray[np.float64], message: str
) -> None:
    with pytest.raises(CountsError, match=message):
        SliceOutcomes("s", seeds, events, capability)


def test_outcomes_do_not_change_with_the_arrays_they_came_from() -> None:
    events, capability = NO_EVENTS.copy(), np.zeros(2)
    outcomes = SliceOutcomes("s", (1, 2), events, capability)
    events[:], capability[:] = 1, np.nan
    assert outcomes.violating(Severity.MINOR) == 0
    assert np.all(outcomes.capability == 0)
    with pytest.raises(ValueError, match="read-only"):
        outcomes.events[0, 0] = 1


def test_pairs_are_of_the_same_seeds_and_slice() -> None:
    with pytest.raises(CountsError, match="different seeds"):
        PairedOutcomes(slice_of([0, 0]), slice_of([0, 0], first_seed=1))
    with pytest.raises(CountsError, match="different seeds"):
        PairedOutcomes(slice_of([0, 0]), slice_of([0]))
    with pytest.raises(CountsError, match="cannot be paired"):
        PairedOutcomes(slice_of([0]), slice_of([0], name="windy"))


def test_discordance_counts_what_only_one_of_the_two_did() -> None:
    paired = PairedOutcomes(slice_of([3, 3, 0, 1, 0], [1, 2, 3, 4, 5]), slice_of([3, 0, 3, 0, 0], [5, 4, 3, 2, 1]))
    assert paired.discordance(Severity.SEVERE) == (1, 1, 5)
    assert paired.discordance(Severity.MINOR) == (2, 1, 5)
    assert paired.capability_losses().tolist() == [4, 2, 0, -2, -4]
    assert pairs(2, 1, 9).discordance(Severity.SEVERE) == (2, 1, 9)
