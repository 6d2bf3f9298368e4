"""`temper replay export`: records to files that other tools read.

--json prints one object: {"format", "records", "steps" (rows, boundary rows among them), "episodes" (rlds), "files",
"bytes"}. What the files hold is at the head of replay/exchange/{parquet,rlds,jsonl,prov}.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from launch.arguments_replay import ReplayExport
from launch.errors import BadInput, LaunchError
from launch.json_output import json_line
from launch.progress import counted, progress
from launch.replay_target import check_range, open_source
from replay.episode_pieces import RowsContradictory
from replay.exchange.errors import ExchangeError, ExportFailed
from replay.record import LoggedRecord
from replay.record_pages import paged
from replay.source import RecordSource

if TYPE_CHECKING:
    from replay.exchange.output import ExportSummary


_STEPS_ELSEWHERE = {"parquet": "has them anyway", "rlds": "has them anyway", "prov": "is about records only"}


def run(arguments: ReplayExport) -> int:
    """Writes the files and says what they hold."""
    check_range(arguments.from_position, arguments.limit)
    if arguments.steps and arguments.format != "jsonl":
        raise BadInput(f"--steps is for jsonl: {arguments.format} {_STEPS_ELSEWHERE[arguments.format]}")
    with open_source(arguments.target, writable=False) as source:
        export = _export(arguments, source)
        # In short calls: writing takes longer than a service lets one call last.
        records = paged(
            source,
            filter_text=arguments.filter,
            from_position=arguments.from_position,
            limit=arguments.limit,
            with_payload=arguments.format in ("parquet", "rlds") or arguments.steps,
        )
        total = _total(source, arguments)
        try:
            with progress("exporting", total, json=arguments.json) as shown:
                summary = export(counted(records, shown), arguments.output)
        except ExportFailed as error:
            raise LaunchError(str(error)) from error
        except (ExchangeError, RowsContradictory) as error:
            raise BadInput(str(error)) from error
    print(_json(arguments, summary) if arguments.json else _text(summary))
    return 0


def _export(arguments: ReplayExport, source: RecordSource) -> Callable[[Iterable[LoggedRecord], Path], ExportSummary]:
    """The function of the format; each needs packages of its own."""
    if arguments.format == "parquet":
        from replay.exchange.parquet import export_parquet  # noqa: PLC0415

        return partial(export_parquet, quarantines=source.quarantines)
    if arguments.format == "rlds":
        from replay.exchange.rlds import export_rlds  # noqa: PLC0415

        return partial(export_rlds, quarantines=source.quarantines)
    if arguments.format == "prov":
        from replay.exchange.prov import export_prov  # noqa: PLC0415

        return export_prov
    from replay.exchange.jsonl import export_jsonl  # noqa: PLC0415

    return partial(export_jsonl, with_steps=arguments.steps)


def _total(source: RecordSource, arguments: ReplayExport) -> int:
    """How many records there will be; 0 where only reading them tells."""
    if arguments.filter or arguments.from_position:
        return 0
    records = source.stats().records
    return min(records, arguments.limit) if arguments.limit else records


def _json(arguments: ReplayExport, summary: ExportSummary) -> str:
    found = {"format": arguments.format, "records": summary.records, "steps": summary.steps}
    episodes = {"episodes": summary.episodes} if arguments.format == "rlds" else {}
    files = {"files": [str(file) for file in summary.files], "bytes": summary.size_bytes}
    return json_line({**found, **episodes, **files})


def _text(summary: ExportSummary) -> str:
    episodes = f" as {summary.episodes:,} episodes" if summary.episodes else ""
    files = ", ".join(str(file) for file in summary.files)
    return f"{summary.records:,} records of {summary.steps:,} rows{episodes}: {files} ({summary.size_bytes:,} bytes)"
