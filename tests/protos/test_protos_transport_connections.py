"""Which connections are reported as having come to nothing, when, and with whose addresses."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from protos import transport_connections
from protos.transport_connections import LOOKS_MAX, PEERS_MAX, QUIET_S, REPORT_S, Connections, established


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def connections(clock: Clock) -> Connections:
    return Connections(clock)


@contextlib.contextmanager
def connected(family: socket.AddressFamily, host: str) -> Iterator[tuple[int, str]]:
    """A port of ours and the address of who is connected to it."""
    with socket.socket(family) as server:
        try:
            server.bind((host, 0))
        except OSError as error:
            pytest.skip(f"this machine has no {host}: {error}")
        server.listen()
        port = server.getsockname()[1]
        with socket.create_connection((host, port)) as client, server.accept()[0]:
            there = client.getsockname()
            yield port, f"[{there[0]}]:{there[1]}" if family == socket.AF_INET6 else f"{there[0]}:{there[1]}"


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_who_is_connected_stands_in_the_kernels_table(family: socket.AddressFamily, host: str) -> None:
    with connected(family, host) as (port, address):
        assert established({port}) == [address]
        # The other end of it is a connection, too, to a port that is not ours.
        assert established({port + 1}) == []


def test_a_caller_over_ipv4_at_a_socket_for_both_is_one_over_ipv4() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client, server.accept()[0]:
            assert established({port}) == [f"127.0.0.1:{client.getsockname()[1]}"]


@pytest.mark.parametrize(
    ("family", "host", "peer"),
    [(socket.AF_INET, "127.0.0.1", "ipv4:{}"), (socket.AF_INET6, "::1", "ipv6:{}")],
)
def test_who_has_called_is_not_named(
    connections: Connections,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    family: socket.AddressFamily,
    host: str,
    peer: str,
) -> None:
    with connected(family, host) as (port, address):
        connections.listens_at(port)
        connections.begin()
        connections.begin()
        clock.now_s += QUIET_S
        connections.identify(peer.format(address.replace("[", "%5B").replace("]", "%5D")))
        connections.report()
        assert address not in caplog.text
        assert caplog.messages[0].endswith("from whom is not known")
        connections.begin()
        # The next start of the same process has another port: nothing is known of this one.
        connections._peers.clear()
        clock.now_s += QUIET_S
        connections.report()
        assert caplog.messages[1].endswith(f"maybe from {address}")


def test_an_honest_caller_has_his_time(
    connections: Connections, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    connections.begin()
    clock.now_s += QUIET_S - 0.1
    connections.report()
    connections.identify("ipv4:10.0.0.7:99")
    clock.now_s += 100.0
    connections.report()
    assert caplog.records == []
    assert connections.counts() == (1, 0)


def test_there_is_a_line_a_second_at_most_and_nobody_is_left_out(
    connections: Connections, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(40):
        connections.begin()
        clock.now_s += REPORT_S / 4
        connections.report()
    clock.now_s += QUIET_S + REPORT_S
    connections.report()
    connections.report()
    reported = [int(line.split()[0]) for line in caplog.messages]
    assert sum(reported) == 40
    assert len(reported) <= 10
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    assert "40 since the start" in caplog.messages[-1]
    clock.now_s += 100.0
    connections.report()
    assert len(caplog.messages) == len(reported)


def test_one_that_called_late_after_all_hides_no_other(
    connections: Connections, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    connections.begin()
    clock.now_s += QUIET_S
    connections.report()
    connections.identify("ipv4:10.0.0.7:99")
    clock.now_s += REPORT_S
    connections.report()
    connections.begin()
    clock.now_s += QUIET_S
    connections.report()
    assert [line.partition(":")[0] for line in caplog.messages] == [
        "1 TLS connection(s) came to no authenticated call, 1 since the start"
    ] * 2


def test_a_flood_costs_neither_memory_nor_looks(
    connections: Connections, clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def look(ports: frozenset[int]) -> list[str]:
        looks.append(ports)
        return [f"10.0.{len(looks)}.{index}:9" for index in range(200)]

    monkeypatch.setattr(transport_connections, "established", look)
    connections.listens_at(9)
    for _ in range(3 * PEERS_MAX):
        connections.begin()
    for index in range(2 * PEERS_MAX):
        connections.identify(f"ipv4:10.1.{index >> 8}.{index & 255}:9")
    assert looks == [{9}] * LOOKS_MAX
    assert len(connections._seen) < 200
    assert max(len(connections._peers), len(connections._young)) == PEERS_MAX
    clock.now_s += QUIET_S
    connections.report()
    (line,) = caplog.messages
    assert line.startswith(f"{PEERS_MAX} TLS connection(s)")
    assert line.count(":9") == 4
    assert line.endswith(" more")


def test_where_there_is_no_table_there_are_no_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_connections, "_TABLES", (Path("/nowhere"),))
    assert established({80}) == []
