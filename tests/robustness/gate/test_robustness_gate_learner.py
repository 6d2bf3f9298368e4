"""A learner, or somebody in its place, that helps itself to a release: none gets through."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.robustness.gate.learner_ways import LEARNER
from tests.robustness.gate.reader import Readers
from tests.robustness.gate.ways import Way, held

pytestmark = pytest.mark.robustness


@pytest.fixture(scope="module")
def scene() -> Iterator[Readers]:
    with LEARNER.opened() as scene:
        yield scene


@pytest.mark.parametrize("way", LEARNER.ways, ids=lambda way: way.name)
def test_it_does_not_get_through(scene: Readers, way: Way) -> None:
    held(way, scene)
