"""The order of events over several real children, and what signals to the supervisor lead to."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from launch.errors import BadInput, RunFailed
from launch.supervisor import Supervisor, exit_status
from tests.launch.supervision import Eventually, MakeChild

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_leaders_end_ends_the_run(make_child: MakeChild) -> None:
    leader = make_child("exit", "0", name="leader", ends_run=True)
    other = make_child("serve", name="other")
    supervisor = Supervisor([leader, other])
    supervisor.run()
    assert other.state == "running"
    supervisor.stop(["other"])
    assert other.has_stopped()
    assert supervisor.signal is None


def test_children_stop_in_the_order_asked_for_the_rest_after_them(make_child: MakeChild) -> None:
    children = {name: make_child("serve", name=name) for name in ("a", "b", "c")}
    for child in children.values():
        child.start()
    asked: list[str] = []

    def before(name: str) -> None:
        assert all(children[earlier].pid is None for earlier in asked)
        assert children[name].pid is not None
        asked.append(name)

    Supervisor(list(children.values())).stop(["c", "a"], before=before)
    assert asked == ["c", "a", "b"]


def test_a_stubborn_child_is_killed_after_its_time(make_child: MakeChild, eventually: Eventually) -> None:
    child = make_child("stubborn", ready_s_max=10.0, stop_s_max=0.2)
    child.start()
    eventually(lambda: child.poll() or child.ready)
    started_at = time.monotonic()
    Supervisor([child]).stop([])
    assert 0.2 <= time.monotonic() - started_at < 3.0
    assert child.pid is None


def test_all_are_killed_when_stopping_itself_fails(make_child: MakeChild) -> None:
    child = make_child("serve")
    child.start()

    def fail(_: str) -> None:
        raise RuntimeError("while asking")

    with pytest.raises(RuntimeError, match="while asking"):
        Supervisor([child]).stop([], before=fail)
    assert child.pid is None


@pytest.mark.parametrize(("status", "error"), [("2", BadInput), ("1", RunFailed)])
def test_what_a_child_fails_with_is_raised_and_the_others_can_be_stopped(
    make_child: MakeChild, status: str, error: type[Exception]
) -> None:
    other = make_child("serve", name="other")
    supervisor = Supervisor([other, make_child("exit", status, name="bad", restarts_max=1)])
    with pytest.raises(error):
        supervisor.run()
    assert other.pid is not None
    supervisor.stop([])
    assert other.pid is None


def test_ticks_go_on_while_stopping(make_child: MakeChild, eventually: Eventually) -> None:
    ticks: list[str] = []
    child = make_child("stubborn", ready_s_max=10.0, stop_s_max=0.3)
    supervisor = Supervisor([child], on_tick=lambda: ticks.append(child.state))
    child.start()
    eventually(lambda: child.poll() or child.ready)
    supervisor.stop([])
    assert len(ticks) >= 2


@pytest.mark.parametrize(("number", "status"), [(None, 0), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_exit_status(number: int | None, status: int) -> None:
    assert exit_status(number) == status


Start = Callable[..., tuple[subprocess.Popen[str], dict[str, psutil.Process]]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts supervised_run.py, waits until its children are ready, and returns it with them."""
    supervisors: list[subprocess.Popen[str]] = []
    processes: list[psutil.Process] = []

    def begin(*behaviours: str) -> tuple[subprocess.Popen[str], dict[str, psutil.Process]]:
        command = [sys.executable, "-m", "tests.launch.supervised_run", str(tmp_path), *behaviours]
        supervisor = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
        supervisors.append(supervisor)
        assert supervisor.stdout is not None
        children = {name: psutil.Process(pid) for name, pid in json.loads(supervisor.stdout.readline()).items()}
        processes.extend(children.values())
        return supervisor, children

    yield begin
    for supervisor in supervisors:
        supervisor.kill()
        supervisor.communicate()
    for process in processes:
        if process.is_running():
            process.kill()


def _gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_run_in_order(start: Start, number: signal.Signals, status: int) -> None:
    supervisor, children = start("leader=serve", "other=serve")
    supervisor.send_signal(number)
    assert supervisor.wait(10.0) == status
    assert all(_gone(child) for child in children.values())


def test_under_nohup_a_hangup_is_ignored(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        supervisor, children = start("leader=serve")
    finally:
        signal.signal(signal.SIGHUP, previous)
    supervisor.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert supervisor.poll() is None
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(10.0) == 143
    assert all(_gone(child) for child in children.values())


def test_an_end_from_within_is_as_a_signal_and_never_a_second_one(make_child: MakeChild) -> None:
    child = make_child("serve", name="leader", ready_s_max=10.0)
    supervisor = Supervisor([child], on_tick=lambda: supervisor.end(signal.SIGPIPE) if child.ready else None)
    supervisor.run()
    supervisor.stop([])
    assert supervisor.signal == signal.SIGPIPE
    assert child.log.read_text().endswith("temper fake ended in order\n")


def test_a_second_signal_kills_at_once(start: Start) -> None:
    supervisor, children = start("leader=stubborn", "other=stubborn", "third=stubborn")
    started_at = time.monotonic()
    supervisor.send_signal(signal.SIGINT)
    time.sleep(0.2)
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(10.0) == 130
    # Three stubborn children in order would have taken a second each.
    assert time.monotonic() - started_at < 2.5
    assert all(_gone(child) for child in children.values())


def test_a_killed_supervisor_leaves_no_orphan(start: Start, eventually: Eventually) -> None:
    supervisor, children = start("leader=serve", "other=serve")
    supervisor.kill()
    supervisor.wait()
    eventually(lambda: all(_gone(child) for child in children.values()))
