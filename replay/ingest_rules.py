"""Curation rules of the configuration, run by the service over the records that arrive, in a thread of their own.

The thread is a client like any other: it reads and annotates over the service's own address, so that it takes no path
that a process elsewhere could not take. Records that were stored while it did not run are looked at first. On a shard
the rules see global positions, and write such, as rules over all shards do; but the records of this shard only.

Exceptions: RuleError (replay.curation.rules) from `curator_of`, for rules that cannot be chosen.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from replay.client import ReplayClient
from replay.client_errors import ReplayError
from replay.config import ReplayConfig
from replay.curation.catalog import choose_rules
from replay.curation.curator import CurationResult, Curator
from replay.curation.ingest import IngestCuration
from replay.placed_source import PlacedSource

_JOIN_S = 10.0

_log = logging.getLogger(__name__)


def curator_of(config: ReplayConfig) -> Curator | None:
    """What runs the rules of the configuration; None where there are none. Raises RuleError."""
    if not config.rules:
        return None
    return Curator(choose_rules(config.rules, config.rule_modules), config.sample_seed)


@asynccontextmanager
async def applying_rules(curator: Curator | None, address: str, shard: int = 0) -> AsyncIterator[None]:
    """Runs the rules over the log of the service at `address`, which is this shard, while the context lasts."""
    if curator is None:
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_run, args=(curator, address, shard, stop), name="replay-rules", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        # The loop goes on meanwhile: it may be what the thread is waiting for.
        await asyncio.to_thread(thread.join, _JOIN_S)


def _run(curator: Curator, address: str, shard: int, stop: threading.Event) -> None:
    failed: set[str] = set()

    def report(result: CurationResult) -> None:
        for name, failures in result.failures.items():
            if name not in failed:  # the first of each rule: a rule that fails once fails often
                failed.add(name)
                _log.warning("rule %s failed: %s", name, failures.first)

    with ReplayClient(address) as client:
        try:
            IngestCuration(PlacedSource(client, shard), curator, on_batch=report).run(stop)
        except ReplayError as error:
            if not stop.is_set():
                _log.error("no rules are applied any more: %s", error)
