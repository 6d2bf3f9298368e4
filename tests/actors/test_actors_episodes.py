"""Which policies an episode is counted for, against a reference that looks at the whole episode at once."""

from __future__ import annotations

import numpy as np
import pytest

from actors.episodes import Episodes, episode_tag

SERVED = ""


@pytest.mark.parametrize(
    ("earlier", "later", "violated", "tag"),
    [
        ("release.3", "release.3", False, "release.3"),
        ("release.3", "release.4", False, ""),
        ("release.3", SERVED, False, ""),
        (SERVED, "release.3", False, ""),
        ("release.3", "lease.1", False, "lease.1"),
        ("release.3", "lease.1", True, "lease.1"),
        (SERVED, "lease.1", True, "lease.1"),
        ("lease.1", "release.3", False, "lease.1"),
        ("lease.1", SERVED, True, "lease.1"),
        ("lease.9", "lease.10", False, "lease.10"),
        ("lease.10", "lease.9", False, "lease.10"),
        # What happened before the epoch began is not held against it.
        ("lease.9", "lease.10", True, "lease.9"),
    ],
)
def test_the_tag_of_an_episode_in_which_two_have_acted(earlier: str, later: str, violated: bool, tag: str) -> None:
    assert episode_tag(earlier, later, violated) == tag


def whole_episode_tag(tags: list[str], violations: list[bool]) -> str:
    """The same from all steps of an episode, epochs ascending."""
    epochs = [int(tag.removeprefix("lease.")) if tag.startswith("lease.") else 0 for tag in tags]
    if not any(epochs):
        return tags[0] if len(set(tags)) == 1 else ""
    if any(violations):
        so_far = [epoch for epoch in epochs[: violations.index(True) + 1] if epoch]
        return f"lease.{max(so_far)}" if so_far else f"lease.{min(epoch for epoch in epochs if epoch)}"
    return f"lease.{max(epochs)}"


def test_any_course_of_policies_and_violations() -> None:
    generator = np.random.default_rng(0)
    lanes, seen = 5, set()
    episodes = Episodes(lanes, lambda lane, episode: episode)
    everywhere = np.arange(lanes)
    episodes.start(everywhere)
    steps: list[tuple[list[str], list[bool]]] = [([], []) for _ in range(lanes)]
    totals: list[dict[str, float]] = [{} for _ in range(lanes)]
    epoch, tag = 1, "release.1"
    for _ in range(3_000):
        if generator.random() < 0.2:
            epoch += int(generator.random() < 0.5)
            tag = str(generator.choice([f"lease.{epoch}", f"lease.{epoch}", "release.1", "release.2", SERVED]))
        episodes.act_by(tag)
        cost = (generator.random(lanes) < 0.1).astype(np.float32)
        episodes.advance(np.ones(lanes, np.bool_), np.zeros(lanes, np.float32), cost)
        ended = np.flatnonzero(generator.random(lanes) < 0.25)
        for lane in range(lanes):
            steps[lane][0].append(tag)
            steps[lane][1].append(bool(cost[lane]))
        for lane in ended.tolist():
            expected, violated = whole_episode_tag(*steps[lane]), any(steps[lane][1])
            seen.add((expected.partition(".")[0], len(set(steps[lane][0])) > 1, violated))
            if expected:
                for name in ["episodes"] + ["violating_episodes"] * violated:
                    key = f"{expected}.{name}"
                    totals[lane][key] = totals[lane].get(key, 0.0) + 1.0
            steps[lane] = ([], [])
        episodes.finish(ended)
        episodes.start(ended)
        if generator.random() < 0.1:
            assert episodes.take_ended_tagged() == totals
            totals = [{} for _ in range(lanes)]
    assert seen >= {(kind, True, violated) for kind in ("lease", "") for violated in (True, False)}
    assert ("release", False, True) in seen


def test_the_episode_of_a_lane_that_waits_for_its_next_one_is_not_changed() -> None:
    """It has been counted by then; a policy that comes now acts in the next one only."""
    episodes = Episodes(2, lambda lane, episode: episode)
    nothing, everybody = np.zeros(2, np.float32), np.ones(2, np.bool_)
    episodes.start(np.arange(2))
    episodes.act_by("lease.1")
    episodes.advance(everybody, nothing, nothing)
    episodes.finish(np.array([0]))
    episodes.act_by("lease.2")
    episodes.advance(np.array([False, True]), nothing, nothing)
    episodes.start(np.array([0]))
    episodes.advance(everybody, nothing, nothing)
    episodes.finish(np.arange(2))
    assert episodes.take_ended_tagged() == [{"lease.1.episodes": 1.0, "lease.2.episodes": 1.0}, {"lease.2.episodes": 1}]
    assert episodes.take_ended_tagged() == [{}, {}]
