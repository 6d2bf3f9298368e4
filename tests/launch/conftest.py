"""What the launch tests share: children that are always reaped, and waiting with a deadline."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launch.child import Backoff, Child, ChildSpec
from tests.launch.supervision import FAKE_CHILD, Eventually, MakeChild


@pytest.fixture
def eventually() -> Eventually:
    """Calls a function until it returns something true, and returns that; fails after 10 s."""

    def wait(condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + 10.0
        while not (value := condition()):
            assert time.monotonic() < deadline, "did not happen within 10 s"
            time.sleep(0.01)
        return value

    return wait


@pytest.fixture
def make_child(tmp_path: Path) -> Iterator[MakeChild]:
    """Makes a child that runs fake_child.py with the given arguments; kills what is left at the end."""
    made: list[Child] = []

    def make(*arguments: str, name: str = "fake", descriptors: tuple[int, ...] = (), **fields: Any) -> Child:
        # -S: a fake child needs no site-packages, and starts in half the time without.
        spec = ChildSpec(name, [sys.executable, "-S", str(FAKE_CHILD), *arguments], **fields)
        backoff = Backoff(initial_s=0.02, max_s=0.05)
        made.append(Child(spec, tmp_path / f"{name}.log", inherited_descriptors=descriptors, backoff=backoff))
        return made[-1]

    yield make
    for child in made:
        child.kill()
