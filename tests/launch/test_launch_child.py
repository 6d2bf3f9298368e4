"""One supervised process, real: readiness, restart, backoff, cap, stop, and nothing left of its group."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from launch import child as child_module
from launch.child import HEALTHY_S, Backoff
from launch.errors import BadInput, RunFailed
from launch.process import GAVE_UP
from tests.launch.supervision import Eventually, MakeChild


def test_it_is_ready_when_it_says_so(make_child: MakeChild, eventually: Eventually) -> None:
    child = make_child("serve", ready_s_max=10.0)
    assert child.state == "stopped"
    child.start()
    assert child.state == "starting"
    eventually(lambda: child.poll() or child.ready)
    assert child.state == "running"
    assert child.pid is not None


def test_one_that_never_gets_ready_is_started_again(make_child: MakeChild, eventually: Eventually) -> None:
    child = make_child("mute", ready_s_max=0.2)
    child.start()
    eventually(lambda: child.poll() or child.restarts == 1)
    assert "was not ready after 0.2 s: killed" in child.log.read_text()


def test_a_dead_one_is_started_again_with_its_restart_arguments(
    make_child: MakeChild, eventually: Eventually, tmp_path: Path
) -> None:
    lives = tmp_path / "lives"
    child = make_child("die-until", str(lives), "3", restart_arguments=("--resume",), ready_s_max=10.0)
    child.start()
    eventually(lambda: child.poll() or child.ready)
    assert child.restarts == 3
    assert lives.read_text().splitlines() == ["", "--resume", "--resume"]
    assert child.log.read_text().count("ended (exit status 1); starting it again") == 3


def test_killed_from_outside_it_comes_back(make_child: MakeChild, eventually: Eventually) -> None:
    child = make_child("serve", ready_s_max=10.0)
    child.start()
    eventually(lambda: child.poll() or child.ready)
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    eventually(lambda: child.poll() or (child.ready and child.pid not in (None, first)))
    assert "ended (killed by SIGKILL)" in child.log.read_text()


def test_after_too_many_deaths_the_run_has_failed(make_child: MakeChild, eventually: Eventually) -> None:
    child = make_child("exit", "1", restarts_max=2)
    child.start()
    with pytest.raises(RunFailed) as raised:
        eventually(child.poll)
    assert "fake died 3 times in a row, each time within 60 s (exit status 1)" in str(raised.value)
    assert "told to end with 1" in str(raised.value)
    assert child.restarts == 2


def test_deaths_in_a_row_are_counted_however_slow_they_come(
    make_child: MakeChild, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies late, but always, fails the run; one that was well for a while begins anew."""
    clock = 0.0
    monkeypatch.setattr(child_module, "time", SimpleNamespace(monotonic=lambda: clock))
    child = make_child("exit", "1", restarts_max=2)
    lives = [HEALTHY_S / 2, HEALTHY_S / 2, HEALTHY_S, HEALTHY_S / 2, HEALTHY_S / 2]
    child.start()
    for number, life_s in enumerate(lives):
        # Dead by now or in a moment; the supervisor looks after `life_s`.
        eventually(lambda: child.pid is None or not _is_running(child.pid))
        clock += life_s
        if number == len(lives) - 1:
            with pytest.raises(RunFailed, match="died 3 times in a row"):
                child.poll()
            return
        child.poll()
        assert child.state == "restarting"
        clock += 1.0
        child.poll()


def _is_running(pid: int) -> bool:
    return bool(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)


def test_one_that_gave_up_is_not_started_again(make_child: MakeChild, eventually: Eventually) -> None:
    child = make_child("exit", str(GAVE_UP))
    child.start()
    with pytest.raises(RunFailed, match="fake gave up; the end of") as raised:
        eventually(child.poll)
    assert "told to end with 3" in str(raised.value)
    assert child.restarts == 0


def test_one_that_leads_the_run_and_gives_up_is_believed_in_one_line(
    make_child: MakeChild, eventually: Eventually
) -> None:
    child = make_child("exit", str(GAVE_UP), ends_run=True)
    child.start()
    with pytest.raises(RunFailed) as raised:
        eventually(child.poll)
    assert str(raised.value) == f"fake gave up: told to end with 3 (its log is {child.log})"


@pytest.mark.parametrize("status", [1, 2, GAVE_UP])
def test_one_without_which_a_run_goes_on_fails_nobody(
    make_child: MakeChild, eventually: Eventually, status: int
) -> None:
    child = make_child("exit", str(status), essential=False, restarts_max=1)
    child.start()
    eventually(lambda: child.poll() or "again in 60 s" in child.log.read_text())
    assert (child.restarts, child.state) == (1, "restarting")


def test_a_ready_line_is_found_however_much_follows_it(make_child: MakeChild, eventually: Eventually) -> None:
    child = make_child("mute", ready_s_max=10.0)
    child.start()
    with child.log.open("a") as log:
        log.write("temper fake rea")
        log.flush()
        child.poll()
        log.write("dy at nowhere\n" + "and much more\n" * 10_000)
    child.poll()
    assert child.ready


def test_it_finds_the_modules_that_its_supervisor_finds(
    make_child: MakeChild, eventually: Eventually, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    child = make_child("path", ready_s_max=10.0)
    child.start()
    eventually(lambda: "path:" in child.log.read_text())
    (line,) = (line for line in child.log.read_text().splitlines() if line.startswith("path:"))
    found = line.removeprefix("path:").split(os.pathsep)
    assert str(tmp_path / "mine") in found
    # Not first, though it is the working directory: what lies there may have the name of one of our packages.
    assert str(tmp_path) not in found


def test_bad_input_is_passed_on_and_never_retried(make_child: MakeChild, eventually: Eventually) -> None:
    child = make_child("exit", "2")
    child.start()
    with pytest.raises(BadInput, match=r"^told to end with 2$"):
        eventually(child.poll)
    assert child.restarts == 0


def test_an_orderly_end_is_an_end_only_for_the_one_that_ends_the_run(
    make_child: MakeChild, eventually: Eventually
) -> None:
    leader = make_child("exit", "0", name="leader", ends_run=True)
    leader.start()
    assert eventually(leader.poll) is True
    other = make_child("exit", "0", name="other")
    other.start()
    eventually(lambda: other.poll() or other.restarts == 1)


def test_it_stops_in_order(make_child: MakeChild, eventually: Eventually) -> None:
    child = make_child("serve", ready_s_max=10.0)
    child.start()
    eventually(lambda: child.poll() or child.ready)
    child.request_stop()
    eventually(child.has_stopped)
    assert (child.pid, child.state) == (None, "stopped")


def test_stopping_cancels_a_planned_restart(make_child: MakeChild, eventually: Eventually) -> None:
    child = make_child("exit", "1")
    child.start()
    eventually(lambda: child.poll() or child.state == "restarting")
    child.request_stop()
    assert child.has_stopped()
    child.poll()
    assert child.pid is None


def test_never_started_it_has_stopped(make_child: MakeChild) -> None:
    child = make_child("serve")
    child.request_stop()
    child.kill()
    assert child.has_stopped()
    assert child.poll() is False


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_nothing_is_left_of_its_group(make_child: MakeChild, eventually: Eventually, tmp_path: Path, end: str) -> None:
    note = tmp_path / "grandchild"
    child = make_child("parent", str(note), ready_s_max=10.0)
    child.start()
    eventually(lambda: child.poll() or child.ready)
    grandchild = psutil.Process(int(note.read_text()))
    if end == "kill":
        child.kill()
    else:
        child.request_stop()
        eventually(child.has_stopped)
    eventually(lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE)


def test_it_has_its_own_process_group(make_child: MakeChild, eventually: Eventually) -> None:
    child = make_child("serve", ready_s_max=10.0)
    child.start()
    eventually(lambda: child.poll() or child.ready)
    assert child.pid is not None
    assert os.getpgid(child.pid) == child.pid


def test_the_log_is_of_all_starts_the_tail_of_the_last(make_child: MakeChild, eventually: Eventually) -> None:
    child = make_child("exit", "1")
    child.log.write_text("from an earlier run\n")
    child.start()
    eventually(lambda: child.poll() or child.restarts == 1)
    assert child.log.read_text().startswith("from an earlier run\ntemper: told to end with 1\n")
    assert "from an earlier run" not in child.log_tail(100)
    assert child.log_tail(0) == []


def test_backoff_doubles_up_to_its_bound() -> None:
    backoff = Backoff(initial_s=0.25, max_s=8.0)
    assert [backoff.pause_s(restart) for restart in (1, 2, 3, 6, 7, 50)] == [0.25, 0.5, 1.0, 8.0, 8.0, 8.0]
