"""The store in memory under the contract of every store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from replay.memory_store import MemoryStore
from replay.store import Store, StoreSettings
from replay.store_contract import StoreContract


class TestMemoryStore(StoreContract):
    @contextlib.contextmanager
    def open_store(self, settings: StoreSettings) -> Iterator[Store]:
        store = MemoryStore(settings)
        yield store
        store.close()
