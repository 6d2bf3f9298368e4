"""`ListPromotions`: every promotion of the run, page by page, for whoever asks; from the docket to the client."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from protos import transport
from protos.safety.v1 import safety_pb2, safety_pb2_grpc
from replay.settings import SettingError
from safety import docket
from safety.audit import audit_ledger
from safety.client import SafetyClient, SafetyUnavailable
from safety.docket import Docket
from safety.ledger import read_ledger
from safety.promotions import PromotionRefused
from safety.testing import record_made_up
from tests.safety.safety_process import CONFIG, RUN, running

WAIT_S = 20.0


def release_canaries(desk: Docket, count: int) -> None:
    """So many canaries, each promoted before the next comes."""
    for _ in range(count):
        number = desk.counts.approved + 1
        data = f"artifact {number}".encode()
        record_made_up(desk, RUN, 1, data, canary_share=0.5)
        desk.promote(number, episodes=10 * number, violating_episodes=number, why="harmless")


def numbers(listed: Any) -> list[tuple[int, int]]:
    """Number of each promotion, and of its release."""
    said = [safety_pb2.PromotionStatement.FromString(signed.payload) for signed in listed]
    return [(statement.promotion_number, statement.release_number) for statement in said]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Docket]:
    with contextlib.closing(Docket(tmp_path, RUN)) as desk:
        release_canaries(desk, 3)
        yield desk


@pytest.mark.parametrize(
    ("after", "limit", "expected"),
    [(0, 0, [1, 2, 3]), (0, 2, [1, 2]), (1, 1, [2]), (2, 2**32 - 1, [3]), (3, 0, []), (2**64 - 1, 5, [])],
)
def test_a_part_of_them(desk: Docket, after: int, limit: int, expected: list[int]) -> None:
    listed, newest = desk.promotions(RUN, after, limit)
    assert [number for number, _ in numbers(listed)] == expected
    assert newest == 3


def test_of_another_run_nothing_is_said(desk: Docket) -> None:
    with pytest.raises(PromotionRefused, match="releases of run 'run-1' only"):
        desk.promotions("run-2", 0, 0)


def test_they_are_audited_with_the_ledger(desk: Docket, tmp_path: Path) -> None:
    audit = audit_ledger(read_ledger(tmp_path), desk.verify_key, RUN)
    assert (audit.approved, audit.entries) == (3, 10)


def test_the_client_asks_until_it_has_them_all(socket_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docket, "PAGE_PROMOTIONS", 2)
    (socket_directory / "safety").mkdir()
    with contextlib.closing(Docket(socket_directory / "safety", RUN)) as desk:
        release_canaries(desk, 5)
    with running(socket_directory) as client:
        everything = client.promotions(RUN)
        assert numbers(everything) == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]
        assert client.promotions(RUN, 3) == everything[3:]
        assert client.promotions(RUN, 5) == []
        with pytest.raises(PromotionRefused, match="of run 'run-1' only"):
            client.promotions("run-2")
        with transport.channel(f"unix:{socket_directory / 'safety.sock'}") as channel:
            stub = safety_pb2_grpc.SafetyStub(channel)
            request = safety_pb2.ListPromotionsRequest(run_id=RUN, after_number=1, limit=1)
            answer = stub.ListPromotions(request, timeout=WAIT_S)
            assert (list(answer.promotions), answer.newest_number) == (everything[1:2], 5)
            with pytest.raises(grpc.RpcError) as refusal:
                stub.ListPromotions(safety_pb2.ListPromotionsRequest(), timeout=WAIT_S)
            assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    with (
        SafetyClient(f"unix:{socket_directory / 'nobody.sock'}") as nobody,
        pytest.raises(SafetyUnavailable, match=r"nobody\.sock"),
    ):
        nobody.promotions(RUN)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"canary_share": 0.25}, "needs the address of replay: without it no canary could be promoted"),
        ({"canary_episodes_max": 3}, "even a candidate with a loss of 0 in every episode would be rejected"),
    ],
)
def test_a_service_that_could_promote_nobody_does_not_start(
    socket_directory: Path, change: dict[str, Any], message: str
) -> None:
    config = dataclasses.replace(CONFIG, **change)
    with pytest.raises(SettingError, match=message), running(socket_directory, config):
        pass
