"""Stands for an LMDB environment that cannot be opened, so that a store with one such segment still has the others.

Offers what is used of lmdb_environment.LmdbEnvironment. Exceptions: StoreError, with the reason, for whatever needs it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TypeVar

from replay.lmdb_environment import Transaction
from replay.store import StoreError

T = TypeVar("T")


class BrokenEnvironment:
    """Stands for an environment that cannot be opened: whatever is asked of it fails with the reason."""

    def __init__(self, error: StoreError) -> None:
        self._error = error

    def reading(self) -> contextlib.AbstractContextManager[Transaction]:
        """Raises StoreError."""
        raise StoreError(str(self._error)) from self._error

    def reading_kept(self, make: Callable[[Transaction], T]) -> contextlib.AbstractContextManager[T]:  # noqa: ARG002
        """Raises StoreError."""
        raise StoreError(str(self._error)) from self._error

    def write(self, what: str, change: Callable[[Transaction], T]) -> T:  # noqa: ARG002
        """Raises StoreError."""
        raise StoreError(f"{what} failed: {self._error}") from self._error

    def used_bytes(self) -> int:
        """Raises StoreError."""
        raise StoreError(str(self._error)) from self._error

    def sync(self) -> None:
        """Nothing was written."""

    def check_readers(self) -> int:
        """Nobody reads."""
        return 0

    def make_readable_again(self) -> None:
        """It never was."""

    def close(self) -> None:
        """There is nothing to close."""

    def let_go(self) -> None:
        """Likewise."""
