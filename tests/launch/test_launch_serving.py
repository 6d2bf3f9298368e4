"""A service as a process: its ready line, and its orderly end."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from launch.serving import announce, serve_until_signal


def test_announce_prints_the_line_a_supervisor_waits_for(capsys: pytest.CaptureFixture[str]) -> None:
    announce("replay")("unix:/run/replay.sock")
    assert capsys.readouterr().out == "temper replay ready at unix:/run/replay.sock\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_service_in_order(number: signal.Signals) -> None:
    events: list[str] = []

    async def serve(stop: asyncio.Event) -> None:
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), number)
        await stop.wait()
        events.append("closed")

    assert serve_until_signal(serve) == 0
    assert events == ["closed"]


def test_what_the_service_raises_comes_out() -> None:
    async def serve(_: asyncio.Event) -> None:
        raise ValueError("cannot bind")

    with pytest.raises(ValueError, match="cannot bind"):
        serve_until_signal(serve)
