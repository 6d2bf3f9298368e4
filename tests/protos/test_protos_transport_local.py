"""Without certificates: permissions of sockets, roles of local callers, and networks that must be declared trusted."""

from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import grpc.aio
import pytest

from protos import transport, transport_security
from protos.transport import AddressError, bind, channel
from protos.transport_guard import guarded_server, own_address
from protos.transport_security import Security
from tests.protos.installation import Installation, answering, ask, process_is, status_of

STATS, APPEND = "/temper.replay.v1.Replay/Stats", "/temper.replay.v1.Replay/Append"
OK, DENIED = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED
FAR = "192.0.2.1:50051"


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_socket_and_a_directory_made_for_it_are_the_owners_alone(socket_directory: Path) -> None:
    with answering(Security(), f"unix:{socket_directory / 'new' / 's'}") as address, channel(address) as connection:
        assert _mode(socket_directory / "new") == 0o700
        assert _mode(socket_directory / "new" / "s") == 0o600
        assert status_of(connection, STATS) == OK


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770])
def test_a_socket_where_others_may_write_is_refused(mode: int, socket_directory: Path) -> None:
    place = socket_directory / "shared"
    place.mkdir()
    place.chmod(mode)
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(AddressError, match=f"mode {mode:04o}: others could put a socket"),
    ):
        bind(grpc.server(pool), f"unix:{place / 's'}", Security())
    assert list(place.iterdir()) == []


def test_local_callers_have_the_roles_of_the_server(socket_directory: Path) -> None:
    limited = Security(local_roles=frozenset({"read"}))
    for given in (f"unix:{socket_directory / 's'}", "127.0.0.1:0"):
        with answering(limited, given) as address, channel(address, Security()) as connection:
            assert status_of(connection, STATS) == OK
            with pytest.raises(grpc.RpcError) as refused:
                ask(connection, APPEND)
    assert refused.value.code() == DENIED
    assert "a caller on this host may not call" in str(refused.value.details())
    assert limited.counts() == (2, 0, 0, 0)


def test_a_certificate_does_not_make_a_socket_secret_but_tcp(tmp_path: Path, socket_directory: Path) -> None:
    """A process with certificates talks plainly over its sockets, and there local roles count."""
    security = Installation(tmp_path / "keys").server()
    with answering(security, f"unix:{socket_directory / 's'}") as address, channel(address, security) as connection:
        assert status_of(connection, APPEND) == OK
    assert security.counts().connections == 0


def test_a_network_without_certificates_must_be_declared_trusted() -> None:
    for use in (transport.channel, transport.check_safe):
        with pytest.raises(AddressError, match=r"192\.0\.2\.1:50051 is on a network.*temper keys.*insecure_network"):
            use(FAR, Security())
    with ThreadPoolExecutor(1) as pool, pytest.raises(AddressError, match=r"0\.0\.0\.0:0 is on a network"):
        bind(grpc.server(pool), "0.0.0.0:0", Security())
    assert transport.check_safe(FAR, Security(insecure_network=True)) == FAR
    with channel(FAR, Security(insecure_network=True)):
        pass
    for near in ("127.0.0.1:1", "127.8.8.8:1", "localhost:1", "[::1]:1", "unix:/s"):
        assert transport.check_safe(near, Security()) == near
    for far in ("localhost.example:1", "[::]:1", "10.0.0.1:1", "replay:1"):
        with pytest.raises(AddressError):
            transport.check_safe(far, Security())


def test_a_trusted_network_is_served_plainly() -> None:
    with (
        answering(Security(insecure_network=True), "0.0.0.0:0") as address,
        channel(f"127.0.0.1:{address.rpartition(':')[2]}", Security()) as connection,
    ):
        assert status_of(connection, APPEND) == OK


def test_between_local_processes_nothing_stands_in_the_way() -> None:
    """With no certificates and all roles there is no interceptor at all, so that streams cost what they did."""
    assert Security().open_to_all
    assert not Security(local_roles=frozenset({"read"})).open_to_all


def test_the_environment_says_what_nobody_else_did(tmp_path: Path) -> None:
    place = Installation(tmp_path / "keys").issue("operator", "read")
    code = (
        "from protos.transport_security import current; s = current(); "
        "print(s.certificates, s.insecure_network, s.credentials().identity.name)"
    )
    environment = {"TEMPER_CERTIFICATES": str(place), "TEMPER_INSECURE_NETWORK": "1", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(place), "True", "operator"]


def test_a_process_calls_its_own_tls_server_over_a_socket_besides(tmp_path: Path) -> None:
    security = Installation(tmp_path / "keys").server()

    async def check() -> str:
        server = guarded_server(security=security)
        bound = bind(server, "127.0.0.1:0", security)
        with own_address(server, bound, security) as own:
            await server.start()
            path = Path(own.removeprefix("unix:"))
            assert (_mode(path), _mode(path.parent)) == (0o600, 0o700)
            with channel(own, security) as connection:
                status = await asyncio.to_thread(status_of, connection, "/temper.common.v1.Access/Callers")
            await server.stop(None)
        assert not path.parent.exists()
        with own_address(server, "unix:/s", security) as same:
            assert same == "unix:/s"
        return str(status)

    assert asyncio.run(check()) == str(OK)


def test_the_process_has_one_security_until_it_gets_another() -> None:
    limited = Security(local_roles=frozenset({"read"}))
    before = transport_security.current()
    with process_is(limited):
        assert transport_security.current() is limited
    assert transport_security.current() is before
