"""kill -9 of the replay server at random moments under load, each followed by a restart and a full check.

    python -m tests.robustness.replay_campaign --kills 500 --seed 0 --output FILE

Several runs append through every kill, samplers draw, somebody marks and quarantines records. After each restart every
record is compared with what its actor sent (replay_check.py): 0 acknowledged ones may be lost, 0 stored twice, 0
corrupt. The store begins anew every EPOCH_KILLS kills with other settings: small segments, so that they are begun and
dropped under fire; little retention, or none; group commits of one record or of hundreds; both kinds of durability,
since a crash of the process undoes nothing in either. Some kills hit a server that is only just starting.

Prints progress and, last, one line of JSON. Stops at the first kill after which something is wrong, and leaves the
store where it is, and says where.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from replay.chain import verify_chain
from replay.lmdb_store import LmdbStore
from replay.reader import StoreReader
from replay.store import StoreSettings, run_key
from tests.robustness.replay_check import StoreCheck
from tests.robustness.replay_load import Load, wait
from tests.robustness.replay_processes import Server
from tests.robustness.replay_records import make_origin

EPOCH_KILLS = 25
KILL_S_MAX = 0.5
"""Longest time from the end of one check to the next kill."""

START_KILL_FRACTION = 0.1
START_KILL_S_MAX = 0.15

TABLES = {
    "per": "prioritised per exponent=0.6",
    "strata": "stratified strata by=actor_id",
    "old": "curated old filter='signals.value < 1000'",
}


@dataclass
class Report:
    """What a campaign came to."""

    seed: int
    kills: int = 0
    kills_at_start: int = 0
    stores: int = 0
    acknowledged_records: int = 0
    resent_records: int = 0
    sampled_records: int = 0
    checked_records: int = 0
    lost: int = 0
    duplicated: int = 0
    corrupt: int = 0
    inconsistent: int = 0
    refused: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    left_at: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing was wrong."""
        return not self.problems


class Epoch:
    """One store, from its beginning to an orderly end."""

    def __init__(self, place: Path, seed: int, report: Report) -> None:
        drawn = random.Random(seed)
        self._place = place
        self._store = place / "store"
        self._random = drawn
        self._report = report
        self._address = f"unix:{place / 's'}"
        tables = drawn.sample(sorted(TABLES), drawn.choice((0, 0, 1, 3)))
        self._config = draw_config(drawn, tables)
        row_bytes = drawn.choice((64, 256, 256, 4096))
        self._load = Load(
            self._address, seed, runs=drawn.randint(2, 4), row_bytes=row_bytes, tables=tables, name=str(seed)
        )
        self._check = StoreCheck(row_bytes, self._load.problems)
        self._standby = Server(place / "log")
        self._server: Server | None = None

    def run(self, kills: int, say: Callable[[str], None]) -> bool:
        """So many kills; returns whether nothing was wrong."""
        say(f"store {self._report.stores + 1}: {json.dumps(self._config)}, rows of {self._check.row_bytes} bytes")
        self._report.stores += 1
        try:
            self._start()
            self._load.start()
            for _ in range(kills):
                wait(self._random.uniform(0, KILL_S_MAX))
                self._kill_and_check()
                if self._load.problems.found:
                    self._load.abandon()
                    return False
            self._end()
        finally:
            for server in (self._server, self._standby):
                if server is not None:
                    server.kill()
            self._tell()
        return not self._load.problems.found

    def _kill_and_check(self) -> None:
        self._kill()
        while self._random.random() < START_KILL_FRACTION:
            self._begin()
            wait(self._random.uniform(0, START_KILL_S_MAX))
            self._kill()
            self._report.kills_at_start += 1
        self._start()
        acknowledged = self._load.acknowledged()
        reader = StoreReader(self._store)
        try:
            self._check.check(reader, acknowledged, self._load.marker, is_live=True)
        finally:
            reader.close()

    def _end(self) -> None:
        """Lets the writers finish, stops the server in order, and checks what there is to the last byte."""
        self._load.finish()
        if self._server is not None and self._server.stop() != 0:
            self._load.problems.add("refused", f"the server did not stop in order\n{self._server.story()}")
        self._server = None
        appended, acknowledged = self._load.appended(), self._load.acknowledged()
        if appended != acknowledged:
            self._load.problems.add("lost", f"{appended} appended, {acknowledged} acknowledged")
        store = LmdbStore(self._store, StoreSettings())
        try:
            self._check.check(store, acknowledged, self._load.marker, is_live=False)
            for run_id, count in appended.items():
                if (stored := store.next_sequence(run_key(make_origin(run_id, self._check.row_bytes)))) != count:
                    self._load.problems.add("lost", f"run {run_id}: {count} records appended, {stored} stored")
            report = verify_chain(store)
            if report.next_position != sum(appended.values()):
                self._load.problems.add("duplicated", f"{sum(appended.values())} appended, {report} in the chain")
        finally:
            store.close()

    def _begin(self) -> None:
        self._standby.wait_loaded()
        self._server, self._standby = self._standby, Server(self._place / "log")
        self._server.begin(self._store, self._address, self._config, spare_bytes_min=0)

    def _start(self) -> None:
        self._begin()
        if self._server is not None:
            self._server.wait_ready()

    def _kill(self) -> None:
        if self._server is not None:
            self._server.kill()
        self._server = None
        self._report.kills += 1

    def _tell(self) -> None:
        report, load = self._report, self._load
        report.acknowledged_records += sum(load.acknowledged().values())
        report.resent_records += sum(writer.resent for writer in load.writers)
        report.sampled_records += sum(sampler.records for sampler in load.samplers)
        report.checked_records += self._check.checked_records
        for kind, count in collections.Counter(kind for kind, _ in load.problems.found).items():
            setattr(report, kind, getattr(report, kind) + count)
        report.problems += [f"{kind}: {what}" for kind, what in load.problems.found[:20]]


def draw_config(drawn: random.Random, tables: Sequence[str]) -> dict[str, Any]:
    """Settings of a store that turns its segments over under fire."""
    records_max = drawn.choice((300, 2_000, 8_000))
    return {
        "records_max": records_max,
        "payload_bytes_max": drawn.choice((2**20, 2**23, 2**26)),
        "age_s_max": drawn.choice((0.0, 0.0, 3.0)),
        "segment_bytes": drawn.choice((2**16, 2**18, 2**20)),
        "durability": drawn.choice(("sync", "sync", "async")),
        "async_ms_max": drawn.choice((20.0, 200.0)),
        "commit_records_max": drawn.choice((1, 32, 512)),
        "commit_ms_max": drawn.choice((0.0, 2.0, 5.0)),
        "fresh_unconsumed_max": min(records_max, drawn.choice((128, 8_000))),
        "priorities_interval_s": 0.1,
        "signal_totals": ["steps", "value"],
        "tables": [TABLES[name] for name in tables],
    }


def run_campaign(kills: int, seed: int, place: Path, say: Callable[[str], None]) -> Report:
    """Kills a server so often.

    Args:
      kills: how often, at the least.
      seed: of the moments, the settings and the load.
      place: an empty directory with a short path; stores that were found good are removed from it.
      say: takes lines of progress.
    """
    report = Report(seed)
    started_s = time.monotonic()
    while report.kills < kills and report.passed:
        directory = place / f"{report.stores}"
        directory.mkdir()
        epoch = Epoch(directory, seed * 10_000 + report.stores, report)
        if epoch.run(min(EPOCH_KILLS, kills - report.kills), say):
            shutil.rmtree(directory)
        else:
            report.left_at = str(directory)
        report.seconds = time.monotonic() - started_s
        say(
            f"{report.kills} kills in {report.seconds:.0f} s: {report.acknowledged_records} records acknowledged, "
            f"{report.checked_records} checked, {len(report.problems)} problems"
        )
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 if nothing was wrong."""
    parser = argparse.ArgumentParser(
        prog="replay_campaign", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=500, help="how often to kill (default 500)")
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn (default 0)")
    parser.add_argument("--output", type=Path, help="also write the line of JSON to this file")
    options = parser.parse_args(arguments)
    place = Path(tempfile.mkdtemp(prefix="temper-"))
    report = run_campaign(options.kills, options.seed, place, lambda line: print(line, flush=True))
    if report.passed:
        shutil.rmtree(place)
    for problem in report.problems:
        print(problem, file=sys.stderr)
    line = json.dumps({"campaign": "replay", "passed": report.passed, **asdict(report)})
    if options.output is not None:
        options.output.write_text(line + "\n", encoding="utf-8")
    print(line, flush=True)
    return 0 if report.passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
