"""A progress bar on standard error for commands that take long; nothing where nobody would see it.

Exceptions: none of its own.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from rich import progress as rich_progress

_Item = TypeVar("_Item")


class Progress(Protocol):
    """Where to say how much has been done."""

    def advance(self, count: int = 1) -> None:
        """That many more are done."""


class _Unseen:
    def advance(self, count: int = 1) -> None:
        """Shows nothing."""


@contextlib.contextmanager
def progress(what: str, total: int, *, json: bool) -> Iterator[Progress]:
    """A bar that is there as long as the context, and gone after it.

    Args:
      what: what is being done, e.g. "auditing".
      total: how much there is to do; 0 where that is not known.
      json: whether a program reads the output: then nothing is shown, nor where standard error is no terminal.
    """
    if json or not sys.stderr.isatty():
        yield _Unseen()
        return
    # Only a terminal needs rich, and it takes a while to load.
    from rich import progress as rich_progress  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield _Bar(bars, bars.add_task(what, total=total or None))


def counted(items: Iterable[_Item], shown: Progress) -> Iterator[_Item]:
    """The same items; each is counted as done when the next one is asked for."""
    for item in items:
        yield item
        shown.advance()


class _Bar:
    def __init__(self, bars: rich_progress.Progress, task: rich_progress.TaskID) -> None:
        self._bars = bars
        self._task = task

    def advance(self, count: int = 1) -> None:
        """That many more are done."""
        self._bars.advance(self._task, count)
