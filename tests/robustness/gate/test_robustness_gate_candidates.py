"""Candidates and environments that try everything on a real safety service: none gets through."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.robustness.gate.candidate_ways import CANDIDATES, Services
from tests.robustness.gate.ways import Way, held

pytestmark = pytest.mark.robustness


@pytest.fixture(scope="module")
def scene() -> Iterator[Services]:
    with CANDIDATES.opened() as scene:
        yield scene


@pytest.mark.parametrize("way", CANDIDATES.ways, ids=lambda way: way.name)
def test_it_does_not_get_through(scene: Services, way: Way) -> None:
    held(way, scene)
