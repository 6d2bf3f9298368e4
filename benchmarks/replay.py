"""Replay side by side with dm-reverb: inserts, samples, latencies, memory and disk, in turns, on the same machine.

    python -m benchmarks.replay [--section inserts samples] [--sizes cartpole sprites noise] [--rounds 3]
    python -m benchmarks.replay --section writers shards records eviction     (how the figures move as things grow)
    python -m benchmarks.replay --section records --records-max 10000000     (about ten minutes, 4 GB of disk)
    python -m benchmarks.replay --section ceiling     (flashbax and cpprb: in memory, in the same process)

Ours is `temper replay serve` with its default settings but for how much it keeps: an insert counts once it is committed
and synced. The peer keeps its records in memory; it is installed in an environment of its own on the first call, and
used in every way that we know, from what its documentation recommends to the fastest (see peer_reverb.py). Both are
written to by the same number of processes with the same unrolls (replay_payloads.py), of T = 20 steps. Prints a table
for each section and, last, one line of JSON. Where a measurement fails, these hold what was measured until then, with
the reason under "failed", and the status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from benchmarks.peer_installation import CACHE, install
from benchmarks.process_group import BenchmarkError
from benchmarks.replay_comparison import KEPT, Scratch, ceiling_rows, insert_rows, sample_rows
from benchmarks.replay_growth import eviction_rows, record_rows, shard_rows, writer_rows
from benchmarks.replay_measure import Timing
from benchmarks.replay_payloads import make, save
from benchmarks.replay_results import Results, Row, summary, table
from benchmarks.replay_systems import Load, Reverb, System, Temper

REVERB = "dm-reverb[tensorflow]==0.14.0"
CEILING = {"flashbax": ("flashbax==0.1.3", "jax"), "cpprb": ("cpprb==11.0.0",)}
SECTIONS = ("inserts", "samples", "writers", "shards", "records", "eviction", "ceiling")
STREAMS = (1, 2, 4, 16, 64)
SHARDS = (1, 2)
STREAMS_OF_SHARDS = (2, 4)
RECORDS = (10**4, 10**5, 10**6, 10**7)
TURNED_OVER = 200_000
"""Unrolls that the store keeps where eviction is measured: a twentieth of a day's at 50 a second."""


class Bench:
    """One call of the benchmark: what is asked for, and the directories and peers that it takes."""

    def __init__(self, options: argparse.Namespace, directory: Path) -> None:
        self._options = options
        self._directory = directory
        self._scratch = Scratch(directory)
        self._timing = Timing(options.warm_up_s, options.seconds)
        self._cache = options.cache.expanduser().absolute()

    def rows(self) -> Iterable[Row]:
        """Measures everything, round by round."""
        options = self._options
        comparing = {"inserts", "samples", "writers"} & set(options.section)
        systems: list[System] = [Temper()]
        if comparing and "reverb" in options.peers:
            systems.append(Reverb(install(self._cache / "dm-reverb-0.14.0", "dm-reverb 0.14.0", ((REVERB,),))))
        for _ in range(options.rounds):
            for size in options.sizes:
                if "inserts" in options.section:
                    yield from insert_rows(systems, self._load(size), self._timing, self._scratch)
                if "samples" in options.section:
                    yield from sample_rows(systems, self._load(size), self._timing, self._scratch)
                if "ceiling" in options.section and size != "noise":
                    yield from ceiling_rows(self._ceiling(), self._load(size), self._timing, self._scratch)
            if "writers" in options.section:
                yield from writer_rows(systems, self._load("cartpole"), STREAMS, self._timing, self._scratch)
            if "shards" in options.section:
                yield from shard_rows(self._load("cartpole"), SHARDS, STREAMS_OF_SHARDS, self._timing, self._scratch)
        if "records" in options.section:
            counts = [count for count in RECORDS if count <= options.records_max]
            # Some are written while it is measured.
            load = self._load("tiny", 2 * options.records_max + 10**6)
            yield from record_rows(systems[0], load, counts, self._timing, self._scratch)
        if "eviction" in options.section:
            turnovers = [count for count in (1, 2, 5, 10, 20, 50, 100) if count <= options.turnovers]
            load = self._load("cartpole", TURNED_OVER)
            yield from eviction_rows(systems[0], load, turnovers, self._timing, self._scratch)

    def _load(self, size: str, records_max: int | None = None) -> Load:
        payloads = self._directory / f"payloads-{size}"
        if not payloads.exists():
            save(make(size, self._options.seed), payloads)
        return Load(size, payloads, records_max or KEPT[size])

    def _ceiling(self) -> dict[str, Path]:
        return {
            name: install(self._cache / requirements[0].replace("==", "-"), name, (requirements,))
            for name, requirements in CEILING.items()
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0, or 1 with one message where something could not be measured."""
    options = _options(arguments)
    about: dict[str, object] = {
        "benchmark": "replay",
        "cores": sorted(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load_average_before": os.getloadavg()[0],
        "rounds": options.rounds,
        "seconds": options.seconds,
        "peer": REVERB,
    }
    results = Results()
    try:
        with _ended_by_signals(), tempfile.TemporaryDirectory(prefix="temper-bench-", dir=options.scratch) as scratch:
            about["fsync_ms"] = fsync_ms(Path(scratch))
            for row in Bench(options, Path(scratch)).rows():
                results.rows.append(row)
                _say(f"{row.section} {row.size}: {row.system} {row.way}: {_figures(row)}")
    except BenchmarkError as error:
        _say(f"replay: {error}")
        about["failed"] = str(error)
    print(table(results))
    print(json.dumps(summary(results, about)), flush=True)
    return 1 if "failed" in about else 0


def fsync_ms(directory: Path) -> float:
    """How long the disk takes to sync a page (ms): what a store that syncs depends on; about 0 in memory."""
    taken_s = []
    with (directory / "fsync").open("wb", buffering=0) as file:
        for _ in range(20):
            start_s = time.monotonic()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            taken_s.append(time.monotonic() - start_s)
    return statistics.median(taken_s) * 1e3


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.scratch is not None and not options.scratch.is_dir():
        parser.error(f"--scratch {options.scratch} is not a directory")
    if options.section == ["ceiling"] and options.sizes == ["noise"]:
        parser.error("section ceiling has no noise: in memory it is what sprites are")
    try:
        if options.cores:
            os.sched_setaffinity(0, options.cores)  # every process that is measured inherits it
    except (OSError, ValueError) as error:
        parser.error(f"--cores {' '.join(map(str, options.cores))}: {error}")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="replay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--section", nargs="+", choices=SECTIONS, default=["inserts", "samples"], help="what to measure"
    )
    parser.add_argument("--sizes", nargs="+", choices=sorted(KEPT), default=list(KEPT), help="unrolls (all)")
    parser.add_argument("--peers", nargs="*", choices=["reverb"], default=["reverb"], help="side by side with (reverb)")
    parser.add_argument("--rounds", type=_at_least_one, default=3, help="measurements of each (default 3)")
    parser.add_argument("--seconds", type=_seconds, default=5.0, help="length of each measurement (default 5 s)")
    parser.add_argument("--warm-up-s", type=_seconds, default=1.5, help="before each measurement (default 1.5 s)")
    parser.add_argument(
        "--records-max", type=int, choices=RECORDS, default=10**6, help="section records: up to (default 10^6)"
    )
    parser.add_argument("--turnovers", type=_at_least_one, default=20, help="section eviction: up to (default 20)")
    parser.add_argument("--cores", type=int, nargs="+", help="the cores that all are held to (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the unrolls (default 0)")
    parser.add_argument("--scratch", type=Path, help="where stores are made: the disk that is measured")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where the peers' environments are kept")
    return parser


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text} s is no length of time to measure for")
    return value


def _figures(row: Row) -> str:
    return ", ".join(f"{name} {value:,.4g}" for name, value in row.figures.items() if value is not None)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Within it SIGINT and SIGTERM raise SystemExit, so that what was started is ended and scratch files are removed.

    Once: another one does not interrupt that.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)

    def leave(number: int, frame: object) -> NoReturn:
        del frame
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    raise SystemExit(main())
