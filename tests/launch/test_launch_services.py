"""Asking services that are not there, and one that is."""

from __future__ import annotations

from pathlib import Path

from launch.services import GateQuestions, ReplayQuestions


def test_services_that_are_down_are_no_error(socket_directory: Path) -> None:
    with (
        ReplayQuestions(f"unix:{socket_directory}/r.sock") as replay,
        GateQuestions(f"unix:{socket_directory}/s.sock") as gate,
    ):
        assert replay.stats(0.1) is None
        assert gate.verdicts(0.1) is None
        assert gate.counts(0.1) is None
