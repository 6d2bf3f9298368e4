"""Asking services that are not there, and one that is."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.services import GateQuestions, ReplayQuestions
from launch.verdicts import Revoked
from policies.signing import SigningKey
from policies.testing import signed_revocation
from protos.common.v1 import common_pb2
from replay.client import ReplayClient, ReplayRefused, ReplayUnavailable, ReplayWriter
from replay.schema import PayloadLayout
from replay.testing import make_columns, make_header, make_origin, serving
from safety.client import LeaseRefused, OfferRefused, SafetyClient, SafetyUnavailable
from safety.revocations import RevocationRefused


@pytest.mark.parametrize("error", [ReplayRefused("damaged"), ReplayUnavailable("gone")])
def test_a_replay_that_refuses_is_no_error_either(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """The view is drawn by who also looks after the processes: it must outlive whatever a service answers."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(ReplayClient, "stats", fail)
    with ReplayQuestions("unix:/nowhere") as replay:
        assert replay.stats() is None


@pytest.mark.parametrize(
    "error", [OfferRefused("what?"), LeaseRefused("no"), RevocationRefused("whose?"), SafetyUnavailable("gone")]
)
def test_a_gate_that_refuses_is_no_error_either(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(SafetyClient, "verdicts", fail)
    monkeypatch.setattr(SafetyClient, "revocations", fail)
    with GateQuestions("unix:/nowhere", "run-1") as gate:
        assert gate.verdicts() is None
        assert gate.revoked() is None


def test_services_that_are_down_are_no_error(socket_directory: Path) -> None:
    with (
        ReplayQuestions(f"unix:{socket_directory}/r.sock") as replay,
        GateQuestions(f"unix:{socket_directory}/s.sock", "run-1") as gate,
    ):
        assert replay.stats(0.1) is None
        assert gate.verdicts(0.1) is None
        assert gate.revoked(0.1) is None


def test_only_what_is_not_known_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    key = SigningKey.generate()
    asked: list[tuple[str, int]] = []

    def listed(_client: object, run_id: str, after_number: int, _timeout_s: float) -> list[common_pb2.SignedStatement]:
        asked.append((run_id, after_number))
        number = after_number + 1
        return [signed_revocation(key, bytes(32), release_number=7 - number, why=f"reason {number}")]

    monkeypatch.setattr(SafetyClient, "revocations", listed)
    with GateQuestions("unix:/nowhere", "run-1") as gate:
        assert gate.revoked() == (Revoked(6, "reason 1"),)
        assert gate.revoked() == (Revoked(6, "reason 1"), Revoked(5, "reason 2"))
    assert asked == [("run-1", 0), ("run-1", 1)]


def test_shards_are_asked_for_their_sum_and_who_is_down_is_named(socket_directory: Path) -> None:
    addresses = [f"unix:{socket_directory}/{shard}.sock" for shard in range(3)]
    with ReplayQuestions(",".join(addresses)) as replay:
        assert replay.stats(0.1) is None
        assert replay.down == ["replay-0", "replay-1", "replay-2"]
        with serving(address=addresses[0]), serving(address=addresses[2]):
            append(addresses[0], 2)
            append(addresses[2], 3)
            stats = replay.stats(10.0)
            assert stats is not None
            assert stats.records == 5
            assert [(table.name, table.available) for table in stats.tables] == [("fresh", 5), ("uniform", 5)]
            assert replay.down == ["replay-1"]
        with serving(address=addresses[1]):
            append(addresses[1], 4)
            stats = None
            while stats is None or "replay-1" in replay.down:
                stats = replay.stats(1.0)
            assert replay.down == ["replay-0", "replay-2"]
            assert stats.records == 9, "those that are down count with what they last said"


def test_one_service_is_never_named(socket_directory: Path) -> None:
    with ReplayQuestions(f"unix:{socket_directory}/r.sock") as replay:
        assert replay.stats(0.1) is None
        assert replay.down == ()


def append(address: str, records: int) -> None:
    origin = make_origin()
    payload = PayloadLayout(origin.schema).encode(make_columns())
    with ReplayWriter(address, origin, window_records=10, window_bytes=2**20) as writer:
        writer.append([make_header() for _ in range(records)], [payload] * records, 10.0)
        assert writer.flush(10.0)
