"""Small Minari data sets, made for the tests of the import. Not a test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import minari
import numpy as np
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

BOX = spaces.Box(-10, 10, (2,), np.float32)
TREE = spaces.Dict(
    {
        "position": spaces.Box(-10, 10, (3,), np.float64),
        "where": spaces.Tuple((spaces.Discrete(4), spaces.MultiBinary(3))),
    }
)

ENDS = ("terminated", "truncated", "neither")


def made_buffers(
    lengths: Sequence[int],
    *,
    observation: spaces.Space[Any] = BOX,
    action: spaces.Space[Any] | None = None,
    ends: Sequence[str] = ENDS,
    seeds: Sequence[int | None] | None = None,
) -> list[EpisodeBuffer]:
    """Episodes of these lengths, whose ends are in turn those of `ends`."""
    action = spaces.Discrete(3) if action is None else action
    observation.seed(1)
    action.seed(2)
    generator = np.random.default_rng(3)
    buffers = []
    for number, steps in enumerate(lengths):
        last = np.arange(steps) == steps - 1
        end = ends[number % len(ends)]
        buffers.append(
            EpisodeBuffer(
                id=number,
                seed=10 + number if seeds is None else seeds[number],
                observations=_batch(observation, steps + 1),
                actions=_batch(action, steps),
                rewards=generator.standard_normal(steps),
                terminations=last & (end == "terminated"),
                truncations=last & (end == "truncated"),
            )
        )
    return buffers


def _batch(space: spaces.Space[Any], count: int) -> Any:
    """Samples of a space, as Minari keeps them: arrays in mappings and tuples."""
    return _stacked(space, [space.sample() for _ in range(count)])


def _stacked(space: spaces.Space[Any], samples: Sequence[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _stacked(each, [sample[key] for sample in samples]) for key, each in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_stacked(each, [sample[at] for sample in samples]) for at, each in enumerate(space.spaces))
    if isinstance(space, spaces.Text):
        return list(samples)
    return np.array(samples, space.dtype)


def made_dataset(
    buffers: Sequence[EpisodeBuffer],
    *,
    name: str = "made/data-v0",
    observation: spaces.Space[Any] = BOX,
    action: spaces.Space[Any] | None = None,
    **settings: Any,
) -> Path:
    """A data set of these episodes in the collection (MINARI_DATASETS_PATH). Returns its directory."""
    given = {
        "env": "CartPole-v1",
        "eval_env": "CartPole-v1",
        "requirements": ["gymnasium>=1.0", "maze==2"],
        "algorithm_name": "random",
        "author": "nobody",
        "author_email": "nobody@example.org",
        "code_permalink": "https://example.org",
        "description": "made for a test",
        **settings,
    }
    dataset = minari.create_dataset_from_buffers(
        name,
        list(buffers),
        observation_space=observation,
        action_space=spaces.Discrete(3) if action is None else action,
        **given,
    )
    return Path(dataset.spec.data_path)
