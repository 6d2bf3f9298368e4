"""What happens to a replay service's disk and clock: a torn page, a read-only or a full disk, a stale reader, time.

Each time there is a status with a reason, and what was acknowledged is there afterwards.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from replay.chain import verify_chain
from replay.client import ReplayError, ReplaySampler, ReplayUnavailable, ReplayWriter
from replay.config import ReplayConfig
from replay.disk_reserve import RESERVE_BYTES
from replay.lmdb_files import DATA_FILE, used_bytes
from replay.reader import StoreReader
from replay.segment_files import SEGMENTS
from replay.testing import serving
from tests.robustness.replay_processes import ServerDied
from tests.robustness.replay_records import make_header, payload_of
from tests.robustness.replay_service import RUN, Service, append, sequences_in, service

pytestmark = [pytest.mark.robustness, pytest.mark.timeout(120)]

PAGE_BYTES = 4096
SECTOR_BYTES = 512
RECORDS = 600
TORN_PAGES = 3

MOUNT = shutil.which("mount") or "mount"
IN_NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
HOLDER = """
import sys
from pathlib import Path
from replay.reader import StoreReader

reader = StoreReader(Path(sys.argv[1]))
counters = reader.counters()
with reader.lend(range(counters.first_position, counters.next_position)) as records:
    digests = [bytes(record.payload[:8]) for record in records]
    print("holds", flush=True)
    sys.stdin.read()
    same = digests == [bytes(record.payload[:8]) for record in records]
reader.close()
print("unchanged" if same else "changed", flush=True)
"""


def active_file(running: Service) -> Path:
    """The data file of the segment that is written to."""
    return max((running.store / SEGMENTS).iterdir()) / DATA_FILE


@pytest.mark.parametrize("rest", ["zero", "anything"])
def test_a_torn_page_is_noticed_and_costs_only_what_lies_in_it(rest: str) -> None:
    """The first sector of a page is what was written, the rest is not: no record comes back wrong or goes unnoticed."""
    generator = random.Random(rest)
    with service() as running:
        with running.writer() as writer:
            append(writer, range(RECORDS))
            assert writer.flush(20.0)
        running.kill()
        file = active_file(running)
        good = file.read_bytes()
        pages = used_bytes(file) // PAGE_BYTES
        outcomes = set()
        for page in {pages - 1, pages - 2, *generator.sample(range(2, pages), TORN_PAGES)}:
            torn = bytearray(good)
            size = PAGE_BYTES - SECTOR_BYTES
            start = page * PAGE_BYTES + SECTOR_BYTES
            torn[start : start + size] = bytes(size) if rest == "zero" else generator.randbytes(size)
            file.write_bytes(torn)
            outcomes.add(outcome_of_damage(running))
            running.kill()
        assert "damaged records" in outcomes
        file.write_bytes(good)
        running.start()
        assert sequences_in(running) == list(range(RECORDS))


def outcome_of_damage(running: Service) -> str:
    """Starts a service on a damaged store and reads it: what is read is right, and what is missing is counted."""
    (running.place / "log").unlink()
    try:
        running.start()
    except ServerDied as error:
        assert "StoreCorrupt: " in str(error)
        return "not started"
    try:
        found = sequences_in(running)
    except ReplayError as error:
        assert "DATA_LOSS" in str(error)
        return "refused"
    with running.client() as client:
        stats = client.stats()
    assert len(set(found)) == len(found)
    assert len(found) + stats.damaged_records == stats.appended_records == RECORDS
    assert running.is_alive()
    return "damaged records" if stats.damaged_records else "nothing lost"


def test_what_was_not_committed_when_the_power_went_is_no_damage() -> None:
    """Pages beyond those of the last commit may hold anything."""
    with service() as running:
        with running.writer() as writer:
            append(writer, range(100))
            assert writer.flush(20.0)
        running.kill()
        file = active_file(running)
        used = used_bytes(file)
        with file.open("r+b") as data:
            data.seek(used)
            data.write(random.Random(0).randbytes(max(PAGE_BYTES, file.stat().st_size - used)))
        running.start()
        assert sequences_in(running) == list(range(100))
        with running.writer("actor-0.again") as writer:
            append(writer, range(50), "actor-0.again")
            assert writer.flush(20.0)
        assert sequences_in(running, "actor-0.again") == list(range(50))


def test_a_reader_that_never_lets_go_makes_no_file_grow() -> None:
    """While it holds on, the store is turned over several times; what it was lent stays as it was."""
    with service(payload_bytes_max=2**22, segment_bytes=2**19, records_max=10**6) as running:
        with running.writer() as writer, running.client() as client:
            append(writer, range(6_000))
            assert writer.flush(20.0)
            holder = subprocess.Popen(
                [sys.executable, "-c", HOLDER, str(running.store)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            try:
                assert holder.stdout is not None
                assert holder.stdout.readline() == "holds\n"
                largest = 0
                for start in range(6_000, 30_000, 1_000):
                    append(writer, range(start, start + 1_000))
                    largest = max(largest, disk_bytes(running.store))
                assert writer.flush(20.0)
                stats = client.stats()
                assert stats.evicted_records > 4 * stats.records
                # Segments that hold evicted records only in part, the space ahead, and the reserve.
                assert largest < 1.5 * stats.live_bytes + RESERVE_BYTES + 2 * 2**19
                answer, _ = holder.communicate("")
                assert answer == "unchanged\n"
            finally:
                holder.kill()
                holder.communicate()
        found = sequences_in(running)
        assert found == list(range(found[0], 30_000))


def disk_bytes(directory: Path) -> int:
    """Space that a directory's files take."""
    total = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a segment that is dropped meanwhile
            total += path.stat().st_blocks * 512
    return total


def test_a_clock_that_jumps_loses_nothing_early_and_nothing_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records are kept for 60 s by a clock that jumps an hour back, and later an hour and more ahead."""
    offset_ns = 0
    real_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + offset_ns)
    place = Path(tempfile.mkdtemp(prefix="temper-"))
    config = ReplayConfig(age_s_max=60.0, fresh_unconsumed_max=10_000)
    try:
        with serving(config, place / "store", f"unix:{place / 's'}"):
            running = Service(place, {})
            with running.writer() as writer, ReplaySampler(running.address, "fresh", 10, prefetch=1) as sampler:
                for number, hours in enumerate((0, -1, 0, -2)):
                    offset_ns = hours * 3_600 * 10**9
                    append(writer, range(100 * number, 100 * (number + 1)))
                    assert writer.flush(20.0)
                    drawn = [int(sampler.next(20.0).positions[0]) for _ in range(5)]
                    assert drawn == sorted(drawn)
                    assert sequences_in(running) == list(range(100 * (number + 1)))
                offset_ns = 200 * 10**9
                deadline_s = time.monotonic() + 20.0
                with running.client() as client:
                    while client.stats().records and time.monotonic() < deadline_s:
                        time.sleep(0.05)
                    stats = client.stats()
                assert (stats.records, stats.evicted_records) == (0, 400)
                append(writer, range(400, 420))
                assert writer.flush(20.0)
                assert sequences_in(running) == list(range(400, 420))
    finally:
        shutil.rmtree(place)


def can_mount() -> bool:
    """Whether a file system can be mounted in a namespace here."""
    try:
        mount = 'mount -t tmpfs -o size=1m none "$0"'
        return not subprocess.run(
            [*IN_NAMESPACE, mount, tempfile.gettempdir()], capture_output=True, check=False
        ).returncode
    except FileNotFoundError:
        return False


@pytest.fixture
def place() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="temper-"))
    yield directory
    shutil.rmtree(directory)


@pytest.mark.parametrize(
    ("scenario", "options"), [("killed_on_a_full_disk", "size=13m"), ("on_a_read_only_disk", "size=16m")]
)
def test_on_a_disk_of_its_own(scenario: str, options: str, place: Path) -> None:
    if not can_mount():
        pytest.skip("no file system can be mounted in a namespace here")
    code = f"from {__name__} import {scenario}; {scenario}({str(place)!r})"
    command = [*IN_NAMESPACE, f'mount -t tmpfs -o {options},mode=0700 none "$0" && exec "$1" -c "$2"', str(place)]
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    result = subprocess.run(
        [*command, sys.executable, code], capture_output=True, text=True, check=False, timeout=100, env=environment
    )
    assert (result.returncode, result.stdout) == (0, "passed\n"), result.stderr


def killed_on_a_full_disk(directory: str) -> None:
    """Again and again: the disk fills up, the service is killed and comes up on the full disk, room is made."""
    place = Path(directory)
    running = Service(place, {})
    running.start()
    row_bytes, appended = 1024, 0
    writer = running.writer(row_bytes=row_bytes)
    others = [place / f"others-{number}" for number in range(3)]
    for other in others:
        other.write_bytes(bytes(3 * 2**20))
    for other in others:
        with contextlib.suppress(ReplayUnavailable):
            for _ in range(1_000):
                append_one(writer, appended, row_bytes)
                appended += 1
        acknowledged = writer.statistics.acknowledged
        assert writer.statistics.unacknowledged > 0
        running.kill()
        running.start()
        stored = sequences_in(running, row_bytes=row_bytes)
        # A short message may have found room before a longer one ahead of it, so they need not be in order.
        assert len(set(stored)) == len(stored)
        assert set(range(acknowledged)) <= set(stored)
        other.unlink()
        deadline_s = time.monotonic() + 20.0
        while writer.statistics.unacknowledged and time.monotonic() < deadline_s:
            time.sleep(0.02)
        assert writer.statistics.unacknowledged == 0
    assert writer.close(20.0)
    assert sorted(sequences_in(running, row_bytes=row_bytes)) == list(range(appended))
    assert running.stop() == 0
    check_offline(running.store, appended)
    print("passed")


def on_a_read_only_disk(directory: str) -> None:
    """A store whose disk has become read-only can be read, not served; nothing can be made there."""
    place = Path(directory)
    running = Service(place, {})
    running.start()
    with running.writer() as writer:
        append(writer, range(100))
        assert writer.flush(20.0)
    assert running.stop() == 0
    logs = Path(tempfile.mkdtemp(prefix="temper-"))
    try:
        subprocess.run([MOUNT, "-o", "remount,ro", str(place)], check=True)
        config = logs / "config.toml"
        config.write_text('recipe = "cartpole"\n')
        command = [sys.executable, "-m", "launch.cli", "replay", "serve", "--config", str(config)]
        command += ["--directory", str(place / "store"), "--listen", f"unix:{logs / 's'}"]
        refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert refused.returncode == 2, refused
        assert "Read-only file system" in refused.stderr, refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1, refused.stderr
        another = Service(logs, {})
        another.store = place / "new"
        with pytest.raises(ServerDied, match=r"StoreError: .*Read-only file system"):
            another.start()
        another.kill()
        check_offline(place / "store", 100)
        subprocess.run([MOUNT, "-o", "remount,rw", str(place)], check=True)
    finally:
        shutil.rmtree(logs)
    running.start()
    assert sequences_in(running, RUN) == list(range(100))
    assert running.stop() == 0
    print("passed")


def append_one(writer: ReplayWriter, sequence: int, row_bytes: int) -> None:
    """Appends one record, waiting half a second for room."""
    writer.append([make_header(RUN, sequence)], [payload_of(RUN, sequence, row_bytes)], 0.5)


def check_offline(store: Path, records: int) -> None:
    """The whole chain, by a reader that needs no writing."""
    reader = StoreReader(store)
    try:
        assert verify_chain(reader).records == records
    finally:
        reader.close()
