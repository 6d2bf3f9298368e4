"""A ledger, keys or settings that were tampered with: none gets through."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.robustness.gate.ledger_ways import LEDGER, Template
from tests.robustness.gate.ways import Way, held

pytestmark = pytest.mark.robustness


@pytest.fixture(scope="module")
def scene() -> Iterator[Template]:
    with LEDGER.opened() as scene:
        yield scene


@pytest.mark.parametrize("way", LEDGER.ways, ids=lambda way: way.name)
def test_it_does_not_get_through(scene: Template, way: Way) -> None:
    held(way, scene)
