"""Who gets a connection, and who loses it: certificates of all kinds, against real servers over TLS on loopback."""

from __future__ import annotations

import asyncio
import datetime
import logging
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from protos import transport, transport_connections, transport_guard, transport_security
from protos.common.v1 import access_pb2, access_pb2_grpc
from protos.transport_errors import CertificateError
from protos.transport_security import LINES_MAX, Security
from tests.protos.installation import HOSTS, Installation, answering, ask, raw_channel, replace_files, status_of

STATS, APPEND, SAMPLE = (f"/temper.replay.v1.Replay/{name}" for name in ("Stats", "Append", "Sample"))
OK, DENIED = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED
UNKNOWN, NO_HANDSHAKE = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE


def slow_and_endless() -> Iterator[bytes]:
    while True:
        yield b""
        time.sleep(0.02)


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path / "keys")


def test_the_refusal_is_one_line_for_a_person(installation: Installation, caplog: pytest.LogCaptureFixture) -> None:
    with (
        answering(installation.server()) as address,
        transport.channel(address, installation.client("actor-7", "append", "watch")) as channel,
    ):
        with pytest.raises(grpc.RpcError) as refused:
            ask(channel, STATS)
        assert ask(channel, APPEND) == b"done"
    assert refused.value.code() == DENIED
    expected = f"'actor-7' may not call {STATS}: it needs the role read, and has append, watch"
    assert refused.value.details() == f"{expected}; nothing was done"
    assert [expected in line for line in caplog.messages] == [True]


def test_refusals_are_counted_without_end_and_logged_with_one(
    installation: Installation, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = installation.server()
    with answering(server) as address, transport.channel(address, installation.client("actor", "append")) as channel:
        for _ in range(3 * LINES_MAX):
            assert status_of(channel, STATS) == DENIED
        assert server.counts().denied_calls == 3 * LINES_MAX
        assert len(caplog.records) == LINES_MAX
        monkeypatch.setattr(transport_security, "LINES_S", 0.0)
        assert status_of(channel, STATS) == DENIED
    assert caplog.messages[-1].endswith(f"({2 * LINES_MAX} such lines left out before)")
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_the_counts_are_asked_for_by_whoever_may_read(installation: Installation) -> None:
    with answering(installation.server()) as address:
        with transport.channel(address, installation.client("actor", "append")) as channel:
            assert status_of(channel, STATS) == DENIED
            assert status_of(channel, "/temper.common.v1.Access/Callers") == DENIED
        with transport.channel(address, installation.client("reader", "read")) as channel:
            answer = access_pb2_grpc.AccessStub(channel).Callers(access_pb2.CallersRequest(), timeout=5.0)
    assert answer == access_pb2.CallersResponse(denied_calls=2, connections=2)


def test_without_a_certificate_there_is_no_connection(installation: Installation) -> None:
    server = installation.server()
    trusted = (installation.directory / "trusted.pem").read_bytes()
    with answering(server) as address:
        with grpc.secure_channel(address, grpc.ssl_channel_credentials(trusted)) as channel:
            assert status_of(channel, STATS) == NO_HANDSHAKE
        with grpc.insecure_channel(address) as channel:
            assert status_of(channel, STATS) == NO_HANDSHAKE
    counts = server.counts()
    assert counts.connections == counts.unauthenticated_connections >= 2
    assert (counts.denied_calls, counts.unauthenticated_calls) == (0, 0)


def test_who_fails_the_handshake_is_logged_with_what_is_known_of_him(
    installation: Installation, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_connections, "QUIET_S", 0.2)
    trusted = (installation.directory / "trusted.pem").read_bytes()
    with (
        answering(installation.server()) as address,
        transport.channel(address, installation.client("reader", "read")) as honest,
    ):
        assert status_of(honest, STATS) == OK
        port = int(address.rpartition(":")[2])
        (mine,) = transport_connections.established({port})
        with grpc.secure_channel(address, grpc.ssl_channel_credentials(trusted)) as channel:
            assert status_of(channel, STATS) == NO_HANDSHAKE
        # One that stays connected, and says nothing.
        with socket.create_connection(("127.0.0.1", port)) as silent:
            name = f"127.0.0.1:{silent.getsockname()[1]}"
            deadline = time.monotonic() + 20.0
            while name not in caplog.text:
                assert time.monotonic() < deadline, caplog.text
                time.sleep(0.02)
    lines = [line for line in caplog.messages if "TLS connection(s) came to no authenticated call" in line]
    assert all("no handshake with a certificate that is valid here" in line for line in lines)
    assert mine not in caplog.text


def test_a_foreign_authority_is_believed_by_neither_side(installation: Installation, tmp_path: Path) -> None:
    foreign = Installation(tmp_path / "foreign")
    server, stranger = installation.server(), foreign.issue("stranger", "read")
    with answering(server) as address:
        trusted = (installation.directory / "trusted.pem").read_bytes()
        with raw_channel(address, stranger, trusted) as channel:
            assert status_of(channel, STATS) == NO_HANDSHAKE
        with transport.channel(address, Security(stranger)) as channel:
            assert status_of(channel, STATS) == NO_HANDSHAKE
        assert server.counts().unauthenticated_connections >= 2


def test_an_expired_certificate_is_found_by_its_owner_and_refused_by_others(installation: Installation) -> None:
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=3)
    expired = installation.issue("late", "read", days=1.0, now=past)
    with pytest.raises(CertificateError, match=r"of 'late' expired on 20\d\d-\d\d-\d\d .*: issue it anew"):
        Security(expired)
    with answering(installation.server()) as address, raw_channel(address, expired) as channel:
        assert status_of(channel, STATS) == NO_HANDSHAKE


def test_a_certificate_that_expires_is_of_no_more_use_on_an_old_connection(installation: Installation) -> None:
    server = installation.server()
    client = Security(installation.issue("short", "read", days=2.0 / 86_400))
    with answering(server) as address, transport.channel(address, client) as channel:
        assert status_of(channel, STATS) == OK
        time.sleep(2.1)
        assert status_of(channel, STATS) == UNKNOWN
    assert server.counts().unauthenticated_calls == 1


def test_a_server_at_another_name_is_not_believed(installation: Installation) -> None:
    elsewhere = Security(installation.issue("elsewhere", hosts=["replay.example"]))
    with answering(elsewhere) as address, transport.channel(address, installation.client("reader", "read")) as channel:
        assert status_of(channel, STATS) == NO_HANDSHAKE


def test_a_caller_cannot_pose_as_a_server(installation: Installation) -> None:
    """Neither here, where it is told, nor with another's program: its certificate is not for serving."""
    actor = installation.issue("actor", "append")
    with pytest.raises(CertificateError, match="for calling only"), answering(Security(actor)):
        pass

    async def check() -> grpc.StatusCode:
        server = grpc.aio.server()
        pair = [((actor / "key.pem").read_bytes(), (actor / "certificate.pem").read_bytes())]
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pair))
        await server.start()
        try:
            with transport.channel(f"127.0.0.1:{port}", installation.client("reader", "read")) as channel:
                return await asyncio.to_thread(status_of, channel, STATS)
        finally:
            await server.stop(None)

    assert asyncio.run(check()) == NO_HANDSHAKE


def test_authorities_are_replaced_without_a_gap(installation: Installation, tmp_path: Path) -> None:
    """Old and new are trusted for a time; then the old one is taken out, and counts no more, open connection or not."""
    server_place, old = installation.issue("server", hosts=HOSTS), installation.client("old", "read")
    replacement = Installation(tmp_path / "new", trust=[installation.directory / "authority" / "certificate.pem"])
    new = replacement.client("new", "read")
    server = Security(server_place)
    with answering(server) as address, transport.channel(address, old) as channel:
        assert status_of(channel, STATS) == OK
        with transport.channel(address, new) as unknown:
            assert status_of(unknown, STATS) == NO_HANDSHAKE
        replace_files(server_place, {"trusted.pem": replacement.directory / "trusted.pem"})
        for client in (new, old):
            with transport.channel(address, client) as another:
                assert status_of(another, STATS) == OK
        renewed = replacement.issue("server", hosts=HOSTS)
        only_new = replacement.directory / "authority" / "certificate.pem"
        files = {name: renewed / name for name in ("key.pem", "certificate.pem")}
        replace_files(server_place, {**files, "trusted.pem": only_new})
        assert status_of(channel, STATS) == UNKNOWN
        with transport.channel(address, old) as another:
            assert status_of(another, STATS) == NO_HANDSHAKE
        with transport.channel(address, new) as another:
            assert status_of(another, STATS) == OK


def test_who_is_removed_from_the_list_is_cut_off(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In a stream that is open, at the next call, and on a new connection; the others go on."""
    monkeypatch.setattr(transport_guard, "RECHECK_S", 0.05)
    place = installation.issue("server", hosts=HOSTS)
    stolen, honest = installation.client("stolen", "append"), installation.client("honest", "append")
    installation.admit_only(place, "stolen", "honest")
    server = Security(place)
    with (
        answering(server) as address,
        transport.channel(address, stolen) as channel,
        transport.channel(address, honest) as other,
    ):
        call: Any = channel.stream_stream(APPEND)
        stream = call(slow_and_endless(), timeout=20.0)
        assert next(stream) == b"done"
        assert status_of(other, APPEND) == OK
        installation.admit_only(place, "honest")
        with pytest.raises(grpc.RpcError) as cut:
            for _ in stream:
                pass
        assert cut.value.code() == UNKNOWN
        assert "is not in admitted.txt here; the call was cut off" in str(cut.value.details())
        assert status_of(channel, APPEND) == UNKNOWN
        with transport.channel(address, stolen) as another:
            assert status_of(another, APPEND) == UNKNOWN
        assert status_of(other, APPEND) == OK
    assert server.counts().unauthenticated_calls == 3


def test_damaged_files_leave_a_running_server_as_it_was(
    installation: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    place = installation.issue("server", hosts=HOSTS)
    client = installation.client("reader", "read")
    with answering(Security(place)) as address:
        (place / "trusted.pem").write_text("nonsense")
        with transport.channel(address, client) as channel:
            assert status_of(channel, STATS) == OK
    assert "trusted.pem holds no certificate in PEM" in caplog.text


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda place: (place / "key.pem").unlink(), "key.pem cannot be read: No such file"),
        (lambda place: (place / "key.pem").chmod(0o640), "key.pem has mode 0640 and must be for its owner alone"),
        (lambda place: (place / "key.pem").write_text("x"), "key.pem holds no unencrypted private key"),
        (lambda place: (place / "certificate.pem").write_text("x"), "certificate.pem holds no certificate"),
        (lambda place: (place / "trusted.pem").write_bytes(bytes(2**20 + 1)), "larger than 1048576 bytes"),
        (lambda place: (place / "admitted.txt").write_text("me\n"), "'me' is not a SHA-256"),
        (
            lambda place: shutil.copy(place.parent / "other" / "key.pem", place / "key.pem"),
            "key.pem is not the key of",
        ),
        (
            lambda place: shutil.copy(place.parent.parent / "foreign.pem", place / "trusted.pem"),
            "was signed by no authority in",
        ),
    ],
)
def test_files_that_cannot_be_used_are_named(
    installation: Installation, tmp_path: Path, damage: object, message: str
) -> None:
    Installation(tmp_path / "foreign")
    shutil.copy(tmp_path / "foreign" / "trusted.pem", installation.directory / "foreign.pem")
    installation.issue("other", "read")
    place = installation.issue("me", "read")
    assert Security(place).credentials().identity.name == "me"
    damage(place)  # type: ignore[operator]
    with pytest.raises(CertificateError, match=message):
        Security(place)
