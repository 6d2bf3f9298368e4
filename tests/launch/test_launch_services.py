"""Asking services that are not there, and one that is."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.services import GateQuestions, ReplayQuestions
from replay.client import ReplayClient, ReplayRefused, ReplayUnavailable
from safety.client import LeaseRefused, OfferRefused, SafetyClient, SafetyUnavailable


@pytest.mark.parametrize("error", [ReplayRefused("damaged"), ReplayUnavailable("gone")])
def test_a_replay_that_refuses_is_no_error_either(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """The view is drawn by who also looks after the processes: it must outlive whatever a service answers."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(ReplayClient, "stats", fail)
    with ReplayQuestions("unix:/nowhere") as replay:
        assert replay.stats() is None


@pytest.mark.parametrize("error", [OfferRefused("what?"), LeaseRefused("no"), SafetyUnavailable("gone")])
def test_a_gate_that_refuses_is_no_error_either(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(SafetyClient, "verdicts", fail)
    monkeypatch.setattr(SafetyClient, "trust", fail)
    with GateQuestions("unix:/nowhere") as gate:
        assert gate.verdicts() is None
        assert gate.counts() is None


def test_services_that_are_down_are_no_error(socket_directory: Path) -> None:
    with (
        ReplayQuestions(f"unix:{socket_directory}/r.sock") as replay,
        GateQuestions(f"unix:{socket_directory}/s.sock") as gate,
    ):
        assert replay.stats(0.1) is None
        assert gate.verdicts(0.1) is None
        assert gate.counts(0.1) is None
