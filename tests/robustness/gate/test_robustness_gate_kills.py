"""The safety service and its evaluator killed at every step: nothing is released without a verdict."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.robustness.gate.kill_ways import KILLS, Killing
from tests.robustness.gate.ways import Way, held

pytestmark = pytest.mark.robustness


@pytest.fixture(scope="module")
def scene() -> Iterator[Killing]:
    with KILLS.opened() as scene:
        yield scene


@pytest.mark.parametrize("way", KILLS.ways, ids=lambda way: way.name)
def test_it_does_not_get_through(scene: Killing, way: Way) -> None:
    held(way, scene)
