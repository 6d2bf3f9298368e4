"""The table of ways itself: there are enough of them, each says what it tries, and one that gets through is told."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.robustness.gate import __main__ as command
from tests.robustness.gate.ways import Group, got_through

WAYS_MIN = 40


def test_there_are_enough_ways_and_each_says_what_it_tries() -> None:
    ways = [way for group in command.GROUPS for way in group.ways]
    assert len(ways) >= WAYS_MIN
    assert len({way.name for way in ways}) == len(ways)
    assert [way.name for way in ways if not way.sentence.endswith(".") or len(way.expected) < 5] == []


@contextlib.contextmanager
def open_gate(directory: Path) -> Iterator[Path]:
    yield directory


def test_what_gets_through_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    group = Group("open gate", open_gate)

    @group.way("forged")
    def refused(scene: Path) -> str:
        """It is refused as it must be."""
        return "it is forged"

    @group.way("forged")
    def refused_for_another_reason(scene: Path) -> str:
        """It is refused because the disk is full."""
        return "no space left"

    @group.way("forged")
    def let_through(scene: Path) -> str:
        """It is let through."""
        return got_through("a release")

    monkeypatch.setattr(command, "GROUPS", (group,))
    assert command.main([]) == 1
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["ways"], summary["held"]) == (3, 1)
    assert summary["got_through"] == ["refused for another reason", "let through"]
    assert command.main(["nonsense"]) == 2
