"""`ListRevocations`: every revocation of the run, page by page, for whoever asks; from the docket to the client."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from policies.trust import TrustPolicy
from protos import transport
from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2, safety_pb2_grpc
from safety import docket
from safety.client import SafetyClient, SafetyUnavailable
from safety.docket import Docket
from safety.revocations import PAGE_REVOCATIONS, REVOCATIONS_MAX, WHY_CHARACTERS_MAX, RevocationRefused
from safety.testing import record_made_up
from tests.safety.safety_process import RUN, running

WAIT_S = 20.0


def release(desk: Docket, count: int) -> None:
    """So many releases, of artifacts that differ."""
    for _ in range(count):
        data = f"artifact {desk.evaluations}".encode()
        record_made_up(desk, RUN, 1, data)


def numbers(listed: Any) -> list[tuple[int, int]]:
    """Number of each revocation, and of its release."""
    said = [safety_pb2.RevocationStatement.FromString(signed.payload) for signed in listed]
    return [(statement.revocation_number, statement.release_number) for statement in said]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Docket]:
    """Five releases; revoked are 5, 2 and 4, in this order."""
    with contextlib.closing(Docket(tmp_path, RUN)) as desk:
        release(desk, 5)
        for number in (5, 2, 4):
            desk.revoke(RUN, number, "poisoned")
        yield desk


def test_they_come_in_the_order_of_their_numbers_and_verify(desk: Docket, tmp_path: Path) -> None:
    listed, newest = desk.revocations(RUN, 0, 0)
    assert (numbers(listed), newest) == ([(1, 5), (2, 2), (3, 4)], 3)
    trust = TrustPolicy(desk.verify_key, RUN)
    assert {trust.check_revocation(signed).why for signed in listed} == {"poisoned"}
    desk.close()
    with contextlib.closing(Docket(tmp_path, RUN)) as again:
        assert again.revocations(RUN, 0, 0) == (listed, newest)


@pytest.mark.parametrize(
    ("after", "limit", "expected"),
    [
        (0, 2, [1, 2]),
        (1, 1, [2]),
        (2, 0, [3]),
        (2, 2**32 - 1, [3]),
        (3, 0, []),
        (4, 5, []),
        (2**64 - 1, 2**32 - 1, []),
    ],
)
def test_a_part_of_them(desk: Docket, after: int, limit: int, expected: list[int]) -> None:
    listed, newest = desk.revocations(RUN, after, limit)
    assert [number for number, _ in numbers(listed)] == expected
    assert newest == 3


@pytest.mark.parametrize("limit", [0, 3, 2**32 - 1])
def test_never_more_than_a_page(desk: Docket, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(docket, "PAGE_REVOCATIONS", 2)
    assert numbers(desk.revocations(RUN, 0, limit)[0]) == [(1, 5), (2, 2)]


def test_a_page_of_the_longest_fits_into_a_message() -> None:
    # Characters of four bytes; what else is in a statement is well below a kilobyte.
    assert PAGE_REVOCATIONS * (4 * WHY_CHARACTERS_MAX + 1024) < transport.MESSAGE_BYTES_MAX / 8


def test_of_another_run_nothing_is_said(desk: Docket) -> None:
    with pytest.raises(RevocationRefused, match="releases of run 'run-1' only"):
        desk.revocations("run-2", 0, 0)


def test_the_client_asks_until_it_has_them_all(socket_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docket, "PAGE_REVOCATIONS", 2)
    (socket_directory / "safety").mkdir()
    with contextlib.closing(Docket(socket_directory / "safety", RUN)) as desk:
        release(desk, 6)
        for number in (5, 2, 4, 1, 3):
            desk.revoke(RUN, number, "poisoned")
    with running(socket_directory) as client:
        everything = client.revocations(RUN)
        assert numbers(everything) == [(1, 5), (2, 2), (3, 4), (4, 1), (5, 3)]
        assert client.revocations(RUN, 3) == everything[3:]
        assert client.revocations(RUN, 5) == []
        assert client.revocations(RUN, 4_000_000_000) == []
        signed = client.revoke(RUN, 6, "one more")
        assert client.revocations(RUN, 5) == [signed]
        with pytest.raises(RevocationRefused, match="of run 'run-1' only"):
            client.revocations("run-2")
        with transport.channel(f"unix:{socket_directory / 'safety.sock'}") as channel:
            stub = safety_pb2_grpc.SafetyStub(channel)
            request = safety_pb2.ListRevocationsRequest(run_id=RUN, after_number=1, limit=1)
            answer = stub.ListRevocations(request, timeout=WAIT_S)
            assert (list(answer.revocations), answer.newest_number) == (everything[1:2], 6)
            with pytest.raises(grpc.RpcError) as refusal:
                stub.ListRevocations(safety_pb2.ListRevocationsRequest(), timeout=WAIT_S)
            assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_run_without_any(socket_directory: Path) -> None:
    with running(socket_directory) as client:
        assert client.revocations(RUN) == []
    with (
        SafetyClient(f"unix:{socket_directory / 'nobody.sock'}") as nobody,
        pytest.raises(SafetyUnavailable, match=r"nobody\.sock"),
    ):
        nobody.revocations(RUN)


class Lister(safety_pb2_grpc.SafetyServicer):
    """Says that there is always more, whatever it lists, and counts the calls."""

    def __init__(self, page: int) -> None:
        self.page = page
        self.calls = 0

    def ListRevocations(
        self, request: safety_pb2.ListRevocationsRequest, context: grpc.ServicerContext
    ) -> safety_pb2.ListRevocationsResponse:
        self.calls += 1
        listed = [common_pb2.SignedStatement()] * self.page
        return safety_pb2.ListRevocationsResponse(revocations=listed, newest_number=2**64 - 1)


@pytest.mark.parametrize(("page", "calls"), [(0, 1), (5_000, 3)])
def test_a_list_without_end_is_ended(socket_directory: Path, page: int, calls: int) -> None:
    servicer = Lister(page)  # type: ignore[abstract]
    address = f"unix:{socket_directory / 'lister.sock'}"
    with futures.ThreadPoolExecutor(1) as pool, SafetyClient(address) as client:
        server = grpc.server(pool, options=transport.server_options())
        safety_pb2_grpc.add_SafetyServicer_to_server(servicer, server)
        transport.bind(server, address)
        server.start()
        try:
            if page:
                with pytest.raises(SafetyUnavailable, match=f"more than the {REVOCATIONS_MAX} revocations"):
                    client.revocations(RUN)
            else:
                assert client.revocations(RUN) == []
        finally:
            server.stop(0).wait()
    assert servicer.calls == calls
