"""Statements that are not what they are shown for: none gets through."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.robustness.gate.reader import Readers
from tests.robustness.gate.statement_ways import STATEMENTS
from tests.robustness.gate.ways import Way, held

pytestmark = pytest.mark.robustness


@pytest.fixture(scope="module")
def scene() -> Iterator[Readers]:
    with STATEMENTS.opened() as scene:
        yield scene


@pytest.mark.parametrize("way", STATEMENTS.ways, ids=lambda way: way.name)
def test_it_does_not_get_through(scene: Readers, way: Way) -> None:
    held(way, scene)
