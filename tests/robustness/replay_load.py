"""What goes on at a replay server while it is killed: writers, samplers, and one who marks and quarantines records.

All of them in threads of this process, which is never killed, so that what was acknowledged is known. Whatever one of
them sees that must not be is added to `problems`.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from replay.client import (
    ReplayClient,
    ReplayError,
    ReplayRefused,
    ReplaySampler,
    ReplayUnavailable,
    ReplayWriter,
    SampledBatch,
    SampleTimeout,
)
from tests.robustness.replay_records import make_header, make_origin, payload_of, rows

WINDOW_RECORDS = 256
WINDOW_BYTES = 4 * 1024**2
RECONNECT_MS_MAX = 50
APPEND_S = 0.5
CLOSE_S = 20.0


@dataclass
class Problems:
    """What must not have happened, by kind. Thread-safe."""

    found: list[tuple[str, str]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: str, what: str) -> None:
        """Notes one; kinds are "lost", "duplicated", "corrupt", "inconsistent", "refused"."""
        with self._lock:
            self.found.append((kind, what))


class Worker:
    """A thread that does something again and again until it is stopped."""

    def __init__(self, name: str, problems: Problems) -> None:
        self.name = name
        self.problems = problems
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Returns when it has ended."""
        self._stopped.set()
        self._thread.join()

    @property
    def stopped(self) -> bool:
        """Whether it was told to end."""
        return self._stopped.is_set()

    def work(self) -> None:
        """Everything it does, until `stopped`."""
        raise NotImplementedError

    def rest(self, seconds: float) -> None:
        """Waits, unless it is stopped."""
        self._stopped.wait(seconds)

    def _run(self) -> None:
        try:
            self.work()
        except Exception as error:  # noqa: BLE001  whatever it is, it must not have happened
            self.problems.add("refused", f"{self.name}: {error!r}")


class Writing(Worker):
    """One actor run, whose records are numbered from 0 and never end."""

    def __init__(self, address: str, run_id: str, row_bytes: int, pause_s: float, problems: Problems) -> None:
        super().__init__(f"writer of {run_id}", problems)
        self.run_id = run_id
        self.appended = 0
        self._row_bytes = row_bytes
        self._pause_s = pause_s
        self._random = random.Random(run_id)
        self._writer = ReplayWriter(
            address,
            make_origin(run_id, row_bytes),
            window_records=WINDOW_RECORDS,
            window_bytes=WINDOW_BYTES,
            reconnect_ms_max=RECONNECT_MS_MAX,
        )

    @property
    def acknowledged(self) -> int:
        """How many records of the run were acknowledged: all below this sequence."""
        return self._writer.statistics.acknowledged

    @property
    def resent(self) -> int:
        """Records that were sent again after a break."""
        return self._writer.statistics.resent

    def work(self) -> None:
        """Appends batches of changing sizes."""
        while not self.stopped:
            sequences = range(self.appended, self.appended + self._random.randint(1, 24))
            payloads = [payload_of(self.run_id, sequence, self._row_bytes) for sequence in sequences]
            headers = [make_header(self.run_id, sequence) for sequence in sequences]
            while not self.stopped:
                with contextlib.suppress(ReplayUnavailable):  # nothing was queued
                    self._writer.append(headers, payloads, APPEND_S)
                    self.appended = sequences.stop
                    break
            self.rest(self._random.uniform(0, 2 * self._pause_s))

    def close(self) -> bool:
        """Waits until everything is acknowledged, and says whether it is."""
        try:
            return self._writer.close(CLOSE_S)
        except ReplayError as error:
            self.problems.add("refused", f"{self.name}: {error}")
            return False


class Sampling(Worker):
    """A sampler that checks every record of every batch it gets."""

    def __init__(
        self, address: str, table: str, row_bytes: int, problems: Problems, *, same_host: bool, pause_s: float = 0.0
    ) -> None:
        super().__init__(f"sampler of {table}", problems)
        self.delivered: set[int] = set()
        self.records = 0
        self._once = table == "fresh"
        self._row_bytes = row_bytes
        self._pause_s = pause_s
        self._make: Callable[[], ReplaySampler] = lambda: ReplaySampler(address, table, 8, same_host=same_host)

    def work(self) -> None:
        """Draws and checks."""
        with self._make() as sampler:
            while not self.stopped:
                with contextlib.suppress(SampleTimeout):
                    self._check(sampler.next(0.2))
                self.rest(self._pause_s)

    def _check(self, batch: SampledBatch) -> None:
        for lane, (position, header, origin) in enumerate(
            zip(batch.positions.tolist(), batch.headers, batch.origins, strict=True)
        ):
            expected = rows(origin.run_id, header.sequence, self._row_bytes)
            if not np.array_equal(batch.columns["data"][:, lane], expected):
                self.problems.add("corrupt", f"{self.name}: position {position} is not what its actor sent")
            if self._once and position in self.delivered:
                self.problems.add("duplicated", f"{self.name}: position {position} was delivered twice")
            if self._once:
                self.delivered.add(position)
        self.records += len(batch.positions)


class Marking(Worker):
    """Somebody who annotates, quarantines and re-prioritises records, and remembers what was done."""

    def __init__(self, address: str, seed: int, prioritised: str | None, problems: Problems) -> None:
        super().__init__("marker", problems)
        self.marks: dict[int, float] = {}
        self.quarantined: set[int] = set()
        self._address = address
        self._prioritised = prioritised
        self._random = random.Random(seed)

    def work(self) -> None:
        """One change after the other."""
        with ReplayClient(self._address, timeout_s=1.0) as client:
            while not self.stopped:
                # One that was not answered may have been done, or not.
                with contextlib.suppress(ReplayUnavailable):
                    self._change(client)
                self.rest(self._random.uniform(0, 0.05))

    def _change(self, client: ReplayClient) -> None:
        stats = client.stats()
        if not stats.records:
            return
        position = self._random.randrange(stats.evicted_records, stats.appended_records)
        value = float(self._random.randrange(10**9))
        choice = self._random.random()
        if choice < 0.1:
            # One that was evicted meanwhile is no error: it quarantines nothing.
            client.quarantine(f"position == {position}", "drawn by lot")
            self.quarantined.add(position)
        elif choice < 0.3 and self._prioritised is not None:
            client.update_priorities(self._prioritised, [position], [value])
        elif client.annotate({position: {"mark": value}}):
            self.marks[position] = value


class Load:
    """All of the above at one server."""

    def __init__(self, address: str, seed: int, *, runs: int, row_bytes: int, tables: list[str], name: str) -> None:
        drawn = random.Random(seed)
        self.problems = Problems()
        self.row_bytes = row_bytes
        pause_s = drawn.choice((0.005, 0.02, 0.05))
        self.writers = [
            Writing(address, f"actor-{number}.{name}-{number}", row_bytes, pause_s, self.problems)
            for number in range(runs)
        ]
        self.fresh = Sampling(address, "fresh", row_bytes, self.problems, same_host=drawn.random() < 0.5)
        self.samplers = [
            self.fresh,
            *(
                Sampling(address, table, row_bytes, self.problems, same_host=drawn.random() < 0.5, pause_s=0.02)
                for table in ["uniform", *tables]
            ),
        ]
        self.marker = Marking(address, seed, "per" if "per" in tables else None, self.problems)
        self._workers: list[Worker] = [*self.writers, *self.samplers, self.marker]

    def start(self) -> None:
        """Begins."""
        for worker in self._workers:
            worker.start()

    def acknowledged(self) -> dict[str, int]:
        """By run: how many records were acknowledged."""
        return {writer.run_id: writer.acknowledged for writer in self.writers}

    def appended(self) -> dict[str, int]:
        """By run: how many records were handed to its writer."""
        return {writer.run_id: writer.appended for writer in self.writers}

    def finish(self) -> None:
        """Stops everybody, waiting until all that was appended is acknowledged."""
        for writer in self.writers:
            writer.stop()
        for writer in self.writers:  # while somebody draws: full tables hold appends back
            if not writer.close():
                self.problems.add("refused", f"{writer.name}: not everything was acknowledged in {CLOSE_S} s")
        for worker in self._workers:
            worker.stop()

    def abandon(self) -> None:
        """Stops everybody and waits for nothing."""
        for worker in self._workers:
            worker.stop()


def wait(seconds: float) -> None:
    """Waits as long as that, however short."""
    time.sleep(max(0.0, seconds))


__all__ = ["Load", "Problems", "ReplayRefused", "wait"]
