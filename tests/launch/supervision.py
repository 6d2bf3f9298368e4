"""Names that the tests of supervision share; the fixtures behind them are in conftest.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from launch.child import Child

FAKE_CHILD = Path(__file__).with_name("fake_child.py")

MakeChild = Callable[..., Child]
"""(*arguments of fake_child.py, **fields of ChildSpec) -> a child that is killed when the test ends."""

Eventually = Callable[[Callable[[], Any]], Any]
"""Calls a function until it returns something true, and returns that; fails after 10 s."""
