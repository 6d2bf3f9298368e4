"""`temper replay import`: a data set from elsewhere into a store, with its provenance.

TARGET is as everywhere (launch.replay_target), and may be an empty directory, which becomes a store. What is there
already is recognised, so an import that was interrupted goes on when it is run again.

--json prints one object: {"format", "records" (read), "steps" (their rows), "inserted" (new), "duplicates" (there
already)}, and for minari {"dataset", "digest", "actor_id", "run_id", "episodes", "left_over_steps"}.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from launch.arguments_replay import ReplayImport
from launch.errors import BadInput
from launch.json_output import json_line
from launch.progress import progress
from launch.replay_target import locate, open_client
from replay.exchange.errors import ExchangeError

if TYPE_CHECKING:
    from replay.exchange.intake import ImportedRecord, ImportSummary
    from replay.exchange.sink import RecordSink

_MINARI_ACTOR = "minari"


class _Source(NamedTuple):
    """What is imported, and how far it is known before."""

    records: Iterable[ImportedRecord]
    total: int
    """Of what is counted for the progress bar."""
    weight: Callable[[ImportedRecord], int]
    """How much of it a record is."""
    described: Callable[[], dict[str, Any]]
    """What --json says besides; asked for at the end."""


def run(arguments: ReplayImport) -> int:
    """Imports it and says what was new."""
    for name, value in (("--steps-per-record", arguments.steps_per_record), ("--limit", arguments.limit)):
        if value < 0:
            raise BadInput(f"{name} {value} must be 0 or more: nothing was imported")
    try:
        source = _minari(arguments) if arguments.format == "minari" else _parquet(arguments)
        with _open_sink(arguments.target) as sink:
            summary = _imported(source, sink, json=arguments.json)
    except ExchangeError as error:
        raise BadInput(str(error)) from error
    described = source.described()
    if arguments.json:
        found = {"format": arguments.format, **summary._asdict(), "duplicates": summary.records - summary.inserted}
        print(json_line({**found, **described}))
    else:
        print("\n".join(_lines(summary, described)))
    return 0


def _imported(source: _Source, sink: RecordSink, *, json: bool) -> ImportSummary:
    from replay.exchange.intake import import_records  # noqa: PLC0415  help must not load the store

    with progress("importing", source.total, json=json) as shown:

        def counted() -> Iterator[ImportedRecord]:
            for record in source.records:
                yield record
                shown.advance(source.weight(record))

        return import_records(counted(), sink)


def _minari(arguments: ReplayImport) -> _Source:
    from replay.exchange.minari import MinariRecords  # noqa: PLC0415  an extra of its own
    from replay.exchange.minari_dataset import MinariDataset  # noqa: PLC0415

    dataset = MinariDataset(arguments.source, download=arguments.download)
    records = MinariRecords(
        dataset,
        actor_id=arguments.actor_id or _MINARI_ACTOR,
        steps_per_record=arguments.steps_per_record,
        episodes_max=arguments.limit,
    )

    def described() -> dict[str, Any]:
        return {
            "dataset": dataset.dataset.id,
            "digest": dataset.dataset.digest,
            "actor_id": records.origin.actor_id,
            "run_id": records.origin.run_id,
            "episodes": records.episodes,
            "left_over_steps": records.left_over,
        }

    return _Source(records, dataset.steps, lambda each: each.record.header.steps, described)


def _parquet(arguments: ReplayImport) -> _Source:
    from replay.exchange.parquet_import import ParquetRecords  # noqa: PLC0415  an extra of its own

    only_minari = {
        "--actor-id": arguments.actor_id,
        "--steps-per-record": arguments.steps_per_record,
        "--limit": arguments.limit,
        "--download": arguments.download,
    }
    for name, value in only_minari.items():
        if value:
            raise BadInput(f"{name} is for Minari data sets: records of an export stay as they are")
    records = ParquetRecords(Path(arguments.source))
    return _Source(records, records.total, lambda _: 1, dict)


@contextlib.contextmanager
def _open_sink(target: str) -> Iterator[RecordSink]:
    """Where the records go, closed at the end. Raises BadInput."""
    path = Path(target)
    if path.is_dir() and not any(path.iterdir()):
        with contextlib.closing(_store_sink(path, ())) as sink:
            yield sink
        return
    place = locate(target)
    if place.shards > 1:
        raise BadInput(f"{target} has {place.shards} shards: give the address or the directory of one of them")
    if place.addresses:
        from replay.exchange.service_sink import ServiceSink  # noqa: PLC0415  a directory needs no gRPC

        with open_client(place.addresses[0]), contextlib.closing(ServiceSink(place.addresses[0])) as service:
            yield service
        return
    from replay.reader import StoreReader  # noqa: PLC0415  an address needs no store

    with contextlib.closing(StoreReader(place.directories[0])) as reader:
        totalled = tuple(sorted(reader.counters().signal_totals))
    with contextlib.closing(_store_sink(place.directories[0], totalled)) as sink:
        yield sink


def _store_sink(directory: Path, totalled: tuple[str, ...]) -> RecordSink:
    """A store's directory. What is not totalled again would be forgotten."""
    from replay.exchange.sink import StoreSink  # noqa: PLC0415  an address needs no store
    from replay.lmdb_store import LmdbStore  # noqa: PLC0415
    from replay.store import StoreBusy, StoreSettings  # noqa: PLC0415

    try:
        # "async": what the machine's end undoes, the next import brings again; and runs may begin anywhere.
        return StoreSink(LmdbStore(directory, StoreSettings(signal_names=totalled, durability="async")))
    except StoreBusy as error:
        raise BadInput(f"{error}; or give the address of the service that has it as TARGET") from None


def _lines(summary: ImportSummary, described: dict[str, Any]) -> Iterator[str]:
    there = summary.records - summary.inserted
    yield f"{summary.records:,} records of {summary.steps:,} rows: {summary.inserted:,} new, {there:,} there already"
    if described:
        yield f"{described['dataset']}, {described['episodes']:,} episodes, as run {described['run_id']}"
    if described.get("left_over_steps"):
        yield f"the last {described['left_over_steps']} steps fill no record and were left out"
