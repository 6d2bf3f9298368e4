"""What a way round the gate is, and how one is tried. Knows none itself.

A way is a function that tries something against real parts of Temper, checks that nothing was let through, and returns
the reason that was given. Its name is the way's name, its docstring says what is tried. Groups share a scene: what is
costly to set up, and what their ways try themselves on.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, NamedTuple, NoReturn, TypeVar

Scene = TypeVar("Scene")


class GotThrough(AssertionError):
    """Something was let through that must not be, or was refused for another reason than the one that counts."""


class Way(NamedTuple):
    """One way, by name.

    Attributes:
      name: of few words.
      sentence: what is tried.
      expected: pattern that the reason must match.
      attempt: tries it on a scene; returns the reason, or raises GotThrough.
    """

    name: str
    sentence: str
    expected: str
    attempt: Callable[..., str]


class Group(Generic[Scene]):
    """Ways on one kind of scene.

    Args:
      name: of the group.
      scene: given a directory whose path is short enough for Unix sockets, opens the scene.
    """

    def __init__(self, name: str, scene: Callable[[Path], contextlib.AbstractContextManager[Scene]]) -> None:
        self.name = name
        self.scene = scene
        self.ways: list[Way] = []

    @contextlib.contextmanager
    def opened(self) -> Iterator[Scene]:
        """The scene, in a directory that is removed with it."""
        with tempfile.TemporaryDirectory(prefix="temper-") as directory, self.scene(Path(directory)) as scene:
            yield scene

    def way(self, expected: str) -> Callable[[Callable[[Scene], str]], Callable[[Scene], str]]:
        """Adds the decorated function, which must be refused for a reason that matches `expected`."""

        def add(attempt: Callable[[Scene], str]) -> Callable[[Scene], str]:
            sentence = " ".join((attempt.__doc__ or "").split())
            self.ways.append(Way(attempt.__name__.replace("_", " "), sentence, expected, attempt))
            return attempt

        return add


def held(way: Way, scene: object) -> str:
    """Tries a way and returns the reason for which it was refused. Raises GotThrough."""
    reason = " ".join(way.attempt(scene).split())
    if not re.search(way.expected, reason):
        raise GotThrough(f"{way.name}: refused, but for another reason than {way.expected!r}: {reason}")
    return reason


def got_through(what: object) -> NoReturn:
    """Raises GotThrough."""
    raise GotThrough(f"let through: {what}")
