"""`temper replay import`: a data set from elsewhere into a store, with its provenance.

TARGET is as everywhere (launch.replay_target), and may be an empty directory, which becomes a store. What is there
already is recognised, so an import that was interrupted goes on when it is run again. Where TARGET has several shards,
each record goes to that of its actor.

A record that was exported under quarantine enters with its quarantine or not at all: a running service would give it
away before it is under quarantine there.

--json prints one object: {"format", "records" (taken), "steps" (their rows), "inserted" (new), "duplicates" (there
already)}, for parquet {"left_out" (under quarantine), "marked" (that signals were written about), "quarantined" (that
came under quarantine)}, and for minari {"dataset", "digest", "actor_id", "run_id", "episodes", "left_over_steps"}.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from launch.arguments_replay import ReplayImport
from launch.errors import BadInput, LaunchError
from launch.json_output import json_line
from launch.progress import progress
from launch.replay_target import locate, looking_at, open_client
from replay.exchange.errors import ExchangeError

if TYPE_CHECKING:
    from replay.exchange.intake import ImportedRecord, ImportSummary
    from replay.exchange.parquet_import import ParquetRecords
    from replay.exchange.sink import RecordSink, SinkPart

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
    export: ParquetRecords | None = None
    """The export that they are of, whose marks come too."""


class _Sink(NamedTuple):
    """Where the records go."""

    records: RecordSink
    parts: Sequence[SinkPart]
    """The shards; a log that has none is one."""


def run(arguments: ReplayImport) -> int:
    """Imports it and says what was new."""
    from replay.store import StoreFull  # noqa: PLC0415  an extra of its own

    for name, value in (("--steps-per-record", arguments.steps_per_record), ("--limit", arguments.limit)):
        if value < 0:
            raise BadInput(f"{name} {value} must be 0 or more: nothing was imported")
    try:
        source = _minari(arguments) if arguments.format == "minari" else _parquet(arguments)
        with _open_sink(arguments.target) as sink:
            # Before it is known whether a service can be put under quarantine, nothing of it may enter.
            held = arguments.marks and all(part.store is not None for part in sink.parts)
            summary = _imported(source, sink.records, with_quarantined=held, json=arguments.json)
            marks = _marked(source.export, sink.parts, json=arguments.json) if source.export and arguments.marks else {}
    except ExchangeError as error:
        raise BadInput(str(error)) from error
    except StoreFull as error:
        raise LaunchError(
            f"{error}; what was imported before is there: where there is room, import it again"
        ) from error
    described = source.described()
    if source.export is not None:
        described |= {"left_out": summary.left_out, "marked": 0, "quarantined": 0, **marks}
    if arguments.json:
        found = {"records": summary.records, "steps": summary.steps, "inserted": summary.inserted}
        counted = {"format": arguments.format, **found, "duplicates": summary.records - summary.inserted}
        print(json_line({**counted, **described}))
    else:
        print("\n".join(_lines(summary, described)))
    return 0


def _marked(export: ParquetRecords, parts: Sequence[SinkPart], *, json: bool) -> dict[str, int]:
    from replay.exchange.mark_intake import import_marks  # noqa: PLC0415  an extra of its own

    with progress("marking", export.total, json=json) as shown:
        return import_marks(export, parts, shown.advance)._asdict()


def _imported(source: _Source, sink: RecordSink, *, with_quarantined: bool, json: bool) -> ImportSummary:
    from replay.exchange.intake import import_records  # noqa: PLC0415  help must not load the store

    with progress("importing", source.total, json=json) as shown:

        def counted() -> Iterator[ImportedRecord]:
            for record in source.records:
                yield record
                shown.advance(source.weight(record))

        return import_records(counted(), sink, with_quarantined=with_quarantined)


def _minari(arguments: ReplayImport) -> _Source:
    if not arguments.marks:
        raise BadInput("--no-marks is for exports of Temper's: a Minari data set has no marks")
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
    return _Source(records, records.total, lambda _: 1, dict, records)


@contextlib.contextmanager
def _open_sink(target: str) -> Iterator[_Sink]:
    """Where the records go, closed at the end. Raises BadInput."""
    with contextlib.ExitStack() as opened:
        parts = _open_parts(target, opened)
        if len(parts) == 1:
            yield _Sink(parts[0], parts)
            return
        from replay.exchange.sharded_sink import ShardedSink  # noqa: PLC0415  most logs are whole

        yield _Sink(ShardedSink(parts), parts)


def _open_parts(target: str, opened: contextlib.ExitStack) -> list[SinkPart]:
    """The shards of the target, all of them. Raises BadInput."""
    path = Path(target)
    with looking_at(target):
        is_empty = bool(target) and path.is_dir() and not any(path.iterdir())
    if is_empty:
        return [opened.enter_context(contextlib.closing(_store_sink(path, ())))]
    place = locate(target)
    parts: list[SinkPart] = []
    if place.addresses:
        from replay.exchange.service_sink import ServiceSink  # noqa: PLC0415  a directory needs no gRPC

        for address in place.addresses:
            opened.enter_context(open_client(address))
            parts.append(opened.enter_context(contextlib.closing(ServiceSink(address))))
        return parts
    from replay.reader import StoreReader  # noqa: PLC0415  an address needs no store

    for directory in place.directories:
        with contextlib.closing(StoreReader(directory)) as reader:
            totalled = tuple(sorted(reader.counters().signal_totals))
        parts.append(opened.enter_context(contextlib.closing(_store_sink(directory, totalled))))
    return parts


def _store_sink(directory: Path, totalled: tuple[str, ...]) -> SinkPart:
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
    if "dataset" in described:
        yield f"{described['dataset']}, {described['episodes']:,} episodes, as run {described['run_id']}"
    if described.get("left_over_steps"):
        yield f"the last {described['left_over_steps']} steps fill no record and were left out"
    if described.get("marked") or described.get("quarantined"):
        yield f"{described['marked']:,} of them have new signals, {described['quarantined']:,} came under quarantine"
    if described.get("left_out"):
        yield (
            f"{described['left_out']:,} more are under quarantine where they come from and were left out: they enter "
            "with their marks, and only a directory that no service has open"
        )
