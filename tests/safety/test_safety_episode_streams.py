"""Streams of random numbers: every lane draws from its own, whatever the others do."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray

from safety.evaluation.episode_streams import Draw, LaneStreams, episode_generator, normal, uniform


def test_streams_follow_the_documented_formula() -> None:
    code = hashlib.sha256(b"temper.episode-stream.v1\nactions\n7").digest()
    expected = np.random.Generator(np.random.PCG64(int.from_bytes(code, "big"))).random(3)
    assert episode_generator(7, "actions").random(3).tolist() == expected.tolist()


@pytest.mark.parametrize("draw", [uniform, normal])
@pytest.mark.parametrize("shape", [(), (1,), (3, 2), (20, 20)])
def test_a_lane_draws_what_its_generator_gives_one_after_the_other(draw: Draw, shape: tuple[int, ...]) -> None:
    steps = 300
    size = int(np.prod(shape))
    expected = np.empty(steps * size, np.float32)
    draw(episode_generator(5, "x"), expected)
    streams = LaneStreams(3, shape, draw, "x")
    streams.start(np.array([0, 1, 2]), [4, 5, 6])
    pattern = np.random.default_rng(0).random((steps * 2, 3)) < 0.5
    drawn: list[NDArray[np.float32]] = []
    for drawing in pattern:
        taken = streams.take(drawing)
        if drawing[1] and len(drawn) < steps:
            drawn.append(taken[1].copy())
    assert len(drawn) > 200
    assert np.array_equal(np.array(drawn).reshape(-1), expected[: len(drawn) * size])


def test_a_lane_can_begin_another_episode_and_others_go_on() -> None:
    streams = LaneStreams(2, (), uniform, "x")
    both = np.ones(2, np.bool_)
    streams.start(np.array([0, 1]), [1, 2])
    first = [streams.take(both).copy() for _ in range(5)]
    streams.start(np.array([1]), [2])
    second = [streams.take(both).copy() for _ in range(5)]
    assert [row[1] for row in second] == [row[1] for row in first]
    assert [row[0] for row in first + second] == [
        np.float32(value) for value in episode_generator(1, "x").random(10, np.float32)
    ]
