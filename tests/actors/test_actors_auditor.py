"""The auditor, round by round over a list, and as a process over a real service that goes away and comes back."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from actors.auditor import BEHIND_MAX, BEHIND_S_MAX, GATHERED_S_MAX, Auditor, AuditorJob, AuditorMetrics
from actors.config import EnvironmentConfig
from actors.environment import EnvironmentUnsupported
from actors.verification import VerificationError, is_sampled
from protos.replay.v1 import replay_pb2
from replay.client import ReplayClient, ReplayUnavailable, ReplayWriter
from replay.config import ReplayConfig
from replay.record import LoggedRecord
from replay.testing import serving
from tests.actors.recorded_runs import record_run, with_column
from tests.replay.listed_source import ListedSource

CATCH = EnvironmentConfig("catch")
TIMEOUT_S = 30.0


class NowAndThen(ListedSource):
    """Cannot be reached while `down`."""

    down = False
    annotate_only = False

    def records(
        self, *, filter_text: str = "", from_position: int = 0, limit: int = 0, with_payload: bool = False
    ) -> Iterator[LoggedRecord]:
        self._ask()
        return super().records(
            filter_text=filter_text, from_position=from_position, limit=limit, with_payload=with_payload
        )

    def get(self, positions: Sequence[int], *, with_payload: bool = True) -> list[LoggedRecord]:
        self._ask()
        return super().get(positions, with_payload=with_payload)

    def annotate(self, signals: Mapping[int, Mapping[str, float]]) -> int:
        if self.annotate_only:
            raise ReplayUnavailable("replay is away")
        return super().annotate(signals)

    def _ask(self) -> None:
        if self.down:
            raise ReplayUnavailable("replay is away")


def auditor_of(source: ListedSource, fraction: float = 1.0, steps_per_s_max: float = 1e9) -> Auditor:
    return Auditor(source, AuditorJob(CATCH, "unix:/nowhere", fraction, 0, steps_per_s_max))


def test_records_are_verified_as_they_arrive(caplog: pytest.LogCaptureFixture) -> None:
    records = record_run(CATCH, lanes=2, length=5, unrolls=20)
    records[13] = with_column(records[13], "reward", 1, 8.0)
    source = ListedSource(records[:20])
    auditor = auditor_of(source)
    for _ in range(3):
        auditor.audit()
    assert auditor.report.verified == 19
    assert source.marks(13)["mismatch"] == 1.0
    source.append(records[20:])
    for _ in range(3):
        auditor.audit()
    auditor.close()
    assert (auditor.report.verified, auditor.report.mismatched, auditor.report.unverifiable) == (39, 1, 0)
    errors = [entry.getMessage() for entry in caplog.records if entry.levelno == logging.ERROR]
    assert errors == ["record 13 is not what happened: reward is wrong from row 1 on (largest difference 8)"]


def test_only_the_sample_is_marked() -> None:
    records = record_run(CATCH, lanes=3, length=5, unrolls=40)
    source = ListedSource(records)
    auditor = auditor_of(source, fraction=0.3)
    for _ in range(3):
        auditor.audit()
    auditor.close()
    marked = [record.position for record in records if source.marks(record.position)]
    assert marked == [record.position for record in records if is_sampled(record.position, 0.3, 0)]


def test_nobody_can_tell_the_sample_beforehand() -> None:
    """In a log of one actor positions are its own sequence: it would forge the others."""
    records = record_run(CATCH, lanes=3, length=5, unrolls=40)
    samples = []
    for _ in range(2):
        source = ListedSource(records)
        auditor = Auditor(source, AuditorJob(CATCH, "unix:/nowhere", 0.3, steps_per_s_max=1e9))
        for _ in range(3):
            auditor.audit()
        auditor.close()
        samples.append([record.position for record in records if source.marks(record.position)])
    assert 10 < len(samples[0]) < 70
    assert samples[0] != samples[1]


def test_it_rests_in_proportion_to_its_work() -> None:
    records = record_run(CATCH, lanes=2, length=10, unrolls=200)
    auditor = auditor_of(ListedSource(records), steps_per_s_max=500.0)
    rest_s = auditor.audit()
    steps = auditor.report.steps
    auditor.close()
    assert 0 < steps < 4000, "a round is a part of the work"
    assert steps / 500.0 - TIMEOUT_S < rest_s <= max(steps / 500.0, 1.0)
    assert rest_s > 1.0


def test_a_service_that_is_away_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    records = record_run(CATCH, lanes=2, length=5, unrolls=10)
    source = NowAndThen(records)
    auditor = auditor_of(source)
    source.down = True
    rests = [auditor.audit() for _ in range(4)]
    assert 0 < min(rests) < max(rests) < 10.0
    source.down = False
    for _ in range(3):
        auditor.audit()
    auditor.close()
    assert auditor.report.verified == len(records)
    warnings = [entry for entry in caplog.records if entry.levelno == logging.WARNING]
    assert len(warnings) == 1, "once for each time that it goes away"


def test_what_could_not_be_written_is_written_later() -> None:
    records = record_run(CATCH, lanes=2, length=5, unrolls=10)
    source = NowAndThen(records)
    auditor = auditor_of(source)
    source.annotate_only = True
    for _ in range(3):
        auditor.audit()
    assert (auditor.report.verified, source.annotations) == (20, 0)
    source.annotate_only = False
    auditor.audit()
    auditor.close()
    assert source.annotations == 20


def test_it_begins_near_the_newest_record_and_leaves_out_what_it_cannot_keep_up_with() -> None:
    far = 10 * BEHIND_MAX
    source = ListedSource(record_run(CATCH, lanes=1, length=5, unrolls=2, first_position=3))
    newest = record_run(CATCH, lanes=1, length=9, unrolls=6, first_position=far)
    source.append(newest)
    auditor = auditor_of(source)
    for _ in range(3):
        auditor.audit()
    assert auditor.report.verified == 6, "the old ones are not looked at"
    source.append(record_run(CATCH, actor_id="b", lanes=1, length=9, unrolls=4, first_position=3 * far))
    for _ in range(3):
        auditor.audit()
    auditor.close()
    assert auditor.report.verified == 10
    assert auditor.metrics.left_out == 3 * far + 4 - BEHIND_MAX // 2 - (far + 6)


def test_a_log_that_lost_its_end_is_read_on_from_there() -> None:
    """As after a crash of an async store: positions are given again, to other records."""
    one = record_run(CATCH, actor_id="a", lanes=2, length=5, unrolls=10)
    other = record_run(CATCH, actor_id="b", lanes=2, length=5, unrolls=10, first_position=15)
    source = ListedSource(one)
    auditor = auditor_of(source)
    for _ in range(3):
        auditor.audit()
    assert auditor.report.verified == 20
    for position in range(15, 20):
        del source.kept[position]
    auditor.audit()
    source.append(other)
    for _ in range(3):
        auditor.audit()
    auditor.close()
    assert (auditor.report.verified, auditor.report.mismatched, auditor.report.unverifiable) == (40, 0, 0)
    assert all(source.marks(record.position)["verified"] == 1.0 for record in other)
    assert auditor.report.steps == sum(int(record.columns["mask"].sum()) for record in (*one, *other))


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_it_rests_as_long_as_it_works() -> None:
    class Busy(ListedSource):
        def stats(self) -> replay_pb2.StatsResponse:
            end_s = time.process_time() + 0.6
            while time.process_time() < end_s:
                pass
            return super().stats()

    source = Busy(record_run(CATCH, lanes=2, length=5, unrolls=4))
    auditor = Auditor(source, AuditorJob(CATCH, "unix:/nowhere", 1.0, 0), clock=Clock())
    # On a clock that stands still all of that is work, which may be half.
    assert auditor.audit() >= 1.2
    auditor.close()


def test_time_in_which_it_was_kept_waiting_is_rest_enough() -> None:
    clock = Clock()

    class Waiting(ListedSource):
        def stats(self) -> replay_pb2.StatsResponse:
            clock.now_s += 60.0
            return super().stats()

    source = Waiting(record_run(CATCH, lanes=2, length=5, unrolls=600))
    auditor = Auditor(source, AuditorJob(CATCH, "unix:/nowhere", 1.0, 0, 1e9), clock=clock)
    rests = [auditor.audit() for _ in range(3)]
    auditor.close()
    assert rests == [0.0, 0.0, 0.0], "it has not caught up"
    assert auditor.metrics.left_out == 0, "it was slow, but nothing newer came"


def test_it_stays_with_the_newest_and_looks_at_as_many_as_it_was_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times as many records come as it gets to read: then nearly each that it reads is run again."""
    monkeypatch.setattr("actors.auditor._PAGE_RECORDS", 4)
    clock, source, rounds = Clock(), ListedSource([]), 40
    per_round, rounds_behind_max = 40, int(BEHIND_S_MAX / 2.0) + 1
    # Each record is an episode by itself.
    records = record_run(CATCH, lanes=4, length=9, unrolls=per_round * rounds // 4)
    auditor = Auditor(source, AuditorJob(CATCH, "unix:/nowhere", 0.1, 0, 1e9), clock=clock)
    for number in range(rounds):
        source.append(records[per_round * number : per_round * (number + 1)])
        auditor.audit()
        clock.now_s += 2.0
        assert auditor.metrics.behind <= rounds_behind_max * per_round
    metrics, report = auditor.metrics, auditor.report
    auditor.finish()
    auditor.close()
    assert metrics.looked_at + metrics.left_out + metrics.behind == len(records)
    assert metrics.looked_at < 0.3 * len(records)
    assert report.records > 0.05 * len(records)
    assert report.verified == metrics.marked == source.annotations
    late = [record.position for record in records[-rounds_behind_max * per_round :] if source.marks(record.position)]
    assert len(late) > 10


def test_when_it_has_caught_up_it_looks_at_no_more_than_its_share() -> None:
    clock, source = Clock(), ListedSource([])
    records = record_run(CATCH, lanes=4, length=9, unrolls=300)
    auditor = Auditor(source, AuditorJob(CATCH, "unix:/nowhere", 0.1, 0, 1e9), clock=clock)
    auditor.audit()
    clock.now_s += 1.5 * BEHIND_S_MAX
    source.append(records[:400])
    auditor.audit()
    clock.now_s += 1.5 * BEHIND_S_MAX
    for start in range(400, 1200, 100):
        source.append(records[start : start + 100])
        auditor.audit()
        clock.now_s += 1.0
    auditor.finish()
    auditor.close()
    assert (auditor.metrics.left_out, auditor.metrics.behind, auditor.metrics.looked_at) == (0, 0, 1200)
    assert [record.position for record in records if source.marks(record.position)] == [
        record.position for record in records if is_sampled(record.position, 0.1, 0)
    ]


def test_gathered_records_do_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """It never catches up, and its share is so small that a group would take long to fill."""
    monkeypatch.setattr("actors.auditor._PAGE_RECORDS", 100)
    clock, source = Clock(), ListedSource(record_run(CATCH, lanes=4, length=9, unrolls=500))
    auditor = Auditor(source, AuditorJob(CATCH, "unix:/nowhere", 0.05, 0, 1e9), clock=clock)
    auditor.audit()
    assert auditor.report.records == 0
    clock.now_s += GATHERED_S_MAX
    auditor.audit()
    auditor.close()
    assert 0 < auditor.report.records < 20


def test_at_the_end_it_judges_the_newest(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("actors.auditor._FINISH_RECORDS", 20)
    records = record_run(CATCH, lanes=4, length=9, unrolls=25)
    source = ListedSource(records)
    with caplog.at_level(logging.INFO, "actors.auditor"):
        # One that was stopped before it began, and one that was behind.
        auditor = auditor_of(source)
        auditor.finish()
        auditor.close()
        assert auditor.metrics == AuditorMetrics(looked_at=20, behind=0, left_out=0, marked=20)
        source.append(record_run(CATCH, actor_id="b", lanes=4, length=9, unrolls=25, first_position=100))
        auditor.finish()
        auditor.close()
    assert auditor.metrics == AuditorMetrics(looked_at=40, behind=0, left_out=80, marked=40)
    assert [position for position in range(200) if source.marks(position)] == [*range(80, 100), *range(180, 200)]
    assert caplog.messages[-1].endswith("40 records looked at, 40 marked, 0 behind, 80 left out")


def test_at_the_end_a_service_that_is_away_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    source = NowAndThen(record_run(CATCH, lanes=2, length=5, unrolls=10))
    source.down = True
    auditor = auditor_of(source)
    auditor.finish()
    auditor.close()
    assert "replay is away; what came last was not audited" in caplog.text


def test_jobs_that_make_no_sense() -> None:
    with pytest.raises(VerificationError, match="fraction"):
        auditor_of(ListedSource([]), fraction=0.0)
    with pytest.raises(VerificationError, match="steps_per_s_max"):
        auditor_of(ListedSource([]), steps_per_s_max=0.0)
    with pytest.raises(EnvironmentUnsupported):
        Auditor(ListedSource([]), AuditorJob(EnvironmentConfig("cartpool"), ""))


_PROGRAM = """
import logging, sys
from actors.auditor import AuditorJob, run_auditor
from actors.config import EnvironmentConfig
logging.basicConfig(level=logging.INFO)
sys.exit(run_auditor(AuditorJob(EnvironmentConfig("catch"), sys.argv[1], fraction=1.0)))
"""


@pytest.fixture
def address() -> Iterator[str]:
    directory = Path(tempfile.mkdtemp(prefix="temper-"))
    yield f"unix:{directory / 's'}"
    shutil.rmtree(directory)


def send(address: str, records: Sequence[LoggedRecord]) -> None:
    writer = ReplayWriter(address, records[0].origin, window_records=1000, window_bytes=2**24, reconnect_ms_max=100)
    writer.append([record.header for record in records], [record.payload for record in records], TIMEOUT_S)
    writer.close(TIMEOUT_S)
    assert writer.statistics.acknowledged == len(records)


def wait_for_marks(address: str, count: int) -> dict[int, dict[str, float]]:
    """The marks of every record, once `count` of them have some."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        with ReplayClient(address) as client:
            listed = list(client.records())
        marks = {record.position: dict(record.marks.signals) for record in listed if record.marks.signals}
        if len(marks) >= count:
            return marks
        assert time.monotonic() < deadline_s, f"{len(marks)} of {count} records were marked in {TIMEOUT_S} s"
        time.sleep(0.1)


def test_the_process_outlives_a_restart_of_replay_and_ends_in_order(address: str, tmp_path: Path) -> None:
    config = ReplayConfig()
    first = record_run(CATCH, actor_id="a", lanes=2, length=9, unrolls=4)
    second = record_run(CATCH, actor_id="b", lanes=2, length=9, unrolls=4)
    second[5] = with_column(second[5], "observation", 3, 0.0)
    log = (tmp_path / "log").open("w+")
    with serving(config, tmp_path / "replay", address):
        process = subprocess.Popen([sys.executable, "-c", _PROGRAM, address], stderr=log, stdout=log)
        try:
            send(address, first)
            assert all(mark["verified"] == 1.0 for mark in wait_for_marks(address, 8).values())
        except BaseException:
            process.kill()
            process.wait()
            raise
    try:
        with serving(config, tmp_path / "replay", address):
            send(address, second)
            marks = wait_for_marks(address, 16)
            assert [position for position, mark in marks.items() if mark["mismatch"]] == [13]
            assert os.getpriority(os.PRIO_PROCESS, process.pid) > os.getpriority(os.PRIO_PROCESS, 0)
            process.send_signal(signal.SIGTERM)
            assert process.wait(TIMEOUT_S) == 0
    finally:
        process.kill()
        process.wait()
        log.close()
    said = (tmp_path / "log").read_text()
    assert "record 13 is not what happened: observation is wrong from row 3 on" in said
    assert re.search(r"16 records audited: 15 verified, 1 mismatches, 0 unverifiable", said)


@contextlib.contextmanager
def a_busy_machine() -> Iterator[None]:
    """Twice as many processes as there are CPUs, each of which wants a whole one."""
    program = "import time\nend_s = time.monotonic() + 60\nwhile time.monotonic() < end_s: pass"
    with contextlib.ExitStack() as stack:
        for _ in range(2 * (os.cpu_count() or 1)):
            process = subprocess.Popen([sys.executable, "-c", program])
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield


@pytest.mark.robustness
def test_on_a_busy_machine_a_liar_is_found_while_he_lies(address: str, tmp_path: Path) -> None:
    """A tenth of the records of a real service is run again as they come; what came last, by the time that it ends."""
    log = tmp_path / "log"
    honest = record_run(CATCH, actor_id="honest", lanes=60, length=9, unrolls=15)
    lies = [
        with_column(record, "reward", 1, 8.0)
        for record in record_run(CATCH, actor_id="liar", lanes=16, length=9, unrolls=10)
    ]
    with (
        serving(ReplayConfig(fresh_unconsumed_max=10_000), tmp_path / "replay", address),
        started(_PROGRAM.replace("fraction=1.0", "fraction=0.1"), address, log=log) as process,
    ):
        send(address, honest)
        wait_for_marks(address, 1)
        with a_busy_machine():
            send(address, lies)
            wait_for(log, "is not what happened: reward is wrong from row 1 on")
            assert stop_in_time(process) == 0, log.read_text()
        with ReplayClient(address) as client:
            marked = [record for record in client.records() if record.marks.signals]
    found = [record.position for record in marked if record.marks.signals["mismatch"]]
    assert {record.origin.actor_id for record in marked if record.position in found} == {"liar"}
    assert all(record.marks.signals["verified"] for record in marked if record.origin.actor_id == "honest")
    said = re.findall(r"(\d+) records looked at, (\d+) marked, 0 behind, 0 left out", log.read_text())
    assert said[-1] == (str(len(honest) + len(lies)), str(len(marked)))


_STANDS_STILL = """
import logging, sys, threading
from actors.auditor import AuditorJob, run_auditor
from actors.config import EnvironmentConfig
from actors.environments.catch import Catch
logging.basicConfig(level=logging.INFO)

def stand_still(*_):
    print("it stands still", file=sys.stderr, flush=True)
    threading.Event().wait()

setattr(Catch, sys.argv[2], stand_still)
sys.exit(run_auditor(AuditorJob(EnvironmentConfig("catch"), sys.argv[1], fraction=1.0)))
"""


def stop_in_time(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGTERM)
    # It has two seconds, whatever it is at; so long as the interpreter takes to end is allowed besides.
    return process.wait(2.0 + 3.0)


@contextlib.contextmanager
def started(program: str, *arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=file, stderr=file)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def wait_for(log: Path, words: str) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while words not in log.read_text():
        assert time.monotonic() < deadline_s, log.read_text()
        time.sleep(0.05)


@pytest.mark.parametrize("method", ["step", "reset"])
def test_it_stops_in_time_though_the_environment_stands_still(address: str, tmp_path: Path, method: str) -> None:
    log = tmp_path / "log"
    with serving(ReplayConfig(), tmp_path / "replay", address):
        send(address, record_run(CATCH, lanes=2, length=9, unrolls=4))
        with started(_STANDS_STILL, address, method, log=log) as process:
            wait_for(log, "it stands still")
            assert stop_in_time(process) == 0, log.read_text()


def test_it_stops_in_time_though_the_service_is_away(address: str, tmp_path: Path) -> None:
    """Its call waits for the service to come up, for longer than it may take to stop."""
    log = tmp_path / "log"
    program = _PROGRAM.replace("sys.exit", "print('it begins', file=sys.stderr, flush=True); sys.exit")
    with started(program, address, log=log) as process:
        wait_for(log, "it begins")
        time.sleep(0.5)
        assert stop_in_time(process) == 0, log.read_text()


def test_what_it_cannot_begin_with_ends_it(address: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started(_PROGRAM.replace('"catch"', '"cartpool"'), address, log=log) as process:
        assert process.wait(TIMEOUT_S) == 1
    assert "unknown environment 'cartpool'" in log.read_text()
