"""Two real servers under load, one of them killed: the other goes on, and what the dead one's actors held comes later.

Promised: records of the shard that lives are written and sampled all along; of no shard is an acknowledged record lost,
stored twice, or handed out twice by the fresh table.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replay.client import ReplayUnavailable, ReplayWriter, SampleTimeout
from replay.client_sharded import open_client, open_sampler, open_writer
from replay.schema import PayloadLayout
from replay.sharding import shard_of, shard_ranking
from replay.testing import make_columns, make_header, make_origin
from tests.robustness.replay_processes import Server

pytestmark = [pytest.mark.robustness, pytest.mark.timeout(180)]

SHARDS = 2
ACTORS = [f"actor-{number:04d}" for number in range(4)]
BATCH_SIZE = 16
TIMEOUT_S = 60.0
SETTINGS = {"fresh_unconsumed_max": 256, "commit_ms_max": 1.0}


class Shards:
    """The servers; killed at the end, whatever happened."""

    def __init__(self, sockets: Path, directory: Path) -> None:
        self._directory = directory
        self._addresses = [f"unix:{sockets / f'replay-{shard}.sock'}" for shard in range(SHARDS)]
        self.addresses = ",".join(self._addresses)
        self._servers: dict[int, Server] = {}

    def start(self, shard: int) -> None:
        """Starts one and waits until it serves."""
        server = self._servers[shard] = Server(self._directory / f"{shard}.log")
        server.wait_loaded()
        server.begin(self._directory / f"shard-{shard}", self._addresses[shard], SETTINGS)
        server.wait_ready()

    def kill(self, shard: int) -> None:
        """kill -9."""
        self._servers[shard].kill()

    def close(self) -> None:
        """Kills what runs."""
        for server in self._servers.values():
            server.kill()


class Load:
    """An actor that appends until it is told to stop, in a thread of its own."""

    def __init__(self, addresses: str, actor_id: str, stop: threading.Event) -> None:
        origin = make_origin(actor_id, f"run-of-{actor_id}")
        self.appended = 0
        self._payload = PayloadLayout(origin.schema).encode(make_columns())
        self._stop = stop
        self.writer: ReplayWriter = open_writer(
            addresses, origin, window_records=32, window_bytes=2**20, reconnect_ms_max=200
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def acknowledged(self) -> int:
        """Records that will never be lost."""
        return self.writer.statistics.acknowledged

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.writer.append([make_header() for _ in range(4)], [self._payload] * 4, 0.2)
            except ReplayUnavailable:
                continue
            self.appended += 4

    def end(self) -> None:
        """Returns once everything is acknowledged."""
        self._thread.join(TIMEOUT_S)
        assert self.writer.flush(TIMEOUT_S)
        assert self.writer.close(TIMEOUT_S)


class Learner:
    """Takes fresh batches until it is told to stop, in a thread of its own."""

    def __init__(self, addresses: str, stop: threading.Event) -> None:
        self.sampled: list[int] = []
        self._stop = stop
        self._sampler = open_sampler(addresses, "fresh", BATCH_SIZE)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.sampled += self._sampler.next(0.2).positions.tolist()
            except SampleTimeout:
                continue

    def of_shard(self, shard: int) -> int:
        """Records sampled from it."""
        return sum(shard_of(position) == shard for position in tuple(self.sampled))

    def end(self) -> None:
        """Returns once its thread has ended."""
        self._thread.join(TIMEOUT_S)
        self._sampler.close()


@pytest.fixture
def shards(socket_directory: Path, tmp_path: Path) -> Iterator[Shards]:
    """Both servers, running."""
    servers = Shards(socket_directory, tmp_path)
    try:
        for shard in range(SHARDS):
            servers.start(shard)
        yield servers
    finally:
        servers.close()


def until(condition: Callable[[], bool], what: str) -> None:
    """Waits until `condition()`."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {TIMEOUT_S} s: {what}"
        time.sleep(0.01)


def test_one_of_two_killed_again_and_again(shards: Shards) -> None:
    stop_writing, stop_sampling = threading.Event(), threading.Event()
    learner = Learner(shards.addresses, stop_sampling)
    loads = {actor: Load(shards.addresses, actor, stop_writing) for actor in ACTORS}
    home = {actor: shard_ranking(actor, SHARDS)[0] for actor in ACTORS}
    assert set(home.values()) == {0, 1}
    try:
        until(lambda: all(load.acknowledged > 20 for load in loads.values()), "every actor writes")
        for victim in (1, 0, 1):
            shards.kill(victim)
            check_the_other_goes_on(learner, loads, home, victim)
            shards.start(victim)
            check_all_write(loads)
        stop_writing.set()
        for load in loads.values():
            load.end()
        check_logs(shards, loads, home)
        until(lambda: sum(load.appended for load in loads.values()) - len(learner.sampled) < 400, "nearly all drawn")
    finally:
        stop_writing.set()
        stop_sampling.set()
        learner.end()
        for load in loads.values():
            load.writer.close(0.1)
    assert max(Counter(learner.sampled).values()) == 1, "fresh gave a record twice"


def check_the_other_goes_on(learner: Learner, loads: dict[str, Load], home: dict[str, int], victim: int) -> None:
    """While `victim` is down: its actors wait, all others write, and the learner learns from what they write."""
    living = [actor for actor in ACTORS if home[actor] != victim]
    before = {actor: loads[actor].acknowledged for actor in living}
    sampled = learner.of_shard(1 - victim)
    until(lambda: all(loads[actor].acknowledged > before[actor] + 50 for actor in living), "the others write on")
    until(lambda: learner.of_shard(1 - victim) > sampled + 10 * BATCH_SIZE, "the other is sampled on")
    waiting = [loads[actor].acknowledged for actor in ACTORS if actor not in living]
    time.sleep(0.1)
    assert waiting == [loads[actor].acknowledged for actor in ACTORS if actor not in living]


def check_all_write(loads: dict[str, Load]) -> None:
    """None of them is left behind."""
    before = {actor: load.acknowledged for actor, load in loads.items()}
    until(lambda: all(load.acknowledged > before[actor] + 50 for actor, load in loads.items()), "all write")


def check_logs(shards: Shards, loads: dict[str, Load], home: dict[str, int]) -> None:
    """Every record appended is on its actor's shard, once."""
    with open_client(shards.addresses) as client:
        found = Counter(
            (shard_of(record.position), record.origin.actor_id, record.header.sequence) for record in client.records()
        )
    expected = [(home[actor], actor, sequence) for actor, load in loads.items() for sequence in range(load.appended)]
    assert found == Counter(expected)
