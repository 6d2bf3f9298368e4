"""The table of roles is whole, and every method of every service asks for its role, over real TLS."""

from __future__ import annotations

import collections
from pathlib import Path

import grpc
import pytest

from protos import transport
from protos.transport_roles import (
    ANY_ROLE,
    KINDS,
    ROLE_OF_METHOD,
    ROLES,
    RoleError,
    may_call,
    role_uri,
    roles_in,
    roles_of,
)
from protos.transport_security import Security
from tests.protos.installation import Installation, answering, methods, status_of

OK, DENIED = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED


def test_every_method_of_every_service_has_one_role() -> None:
    assert ROLE_OF_METHOD.keys() == methods().keys()
    assert set(ROLE_OF_METHOD.values()) == {*ROLES, ANY_ROLE}


def test_every_role_passes_where_it_should_and_nowhere_else(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "keys")
    server = installation.server()
    found: dict[str, set[str]] = collections.defaultdict(set)
    with answering(server) as address:
        for role in ROLES:
            with transport.channel(address, installation.client(f"only-{role}", role)) as channel:
                statuses = {method: status_of(channel, method) for method in ROLE_OF_METHOD}
            assert set(statuses.values()) == {OK, DENIED}
            for method, status in statuses.items():
                found[method] |= {role} if status == OK else set()
    for method, role in ROLE_OF_METHOD.items():
        assert found[method] == (set(ROLES) if role == ANY_ROLE else {role}), method
    each = len(ROLES)
    passed = sum(each if role == ANY_ROLE else 1 for role in ROLE_OF_METHOD.values())
    assert server.counts() == (each * len(ROLE_OF_METHOD) - passed, 0, each, 0)


def test_several_roles_are_held_together_and_none_calls_nothing(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "keys")
    with answering(installation.server()) as address:
        with transport.channel(address, installation.client("learner", *KINDS["learner"])) as channel:
            allowed = {method for method in ROLE_OF_METHOD if status_of(channel, method) == OK}
        replay = installation.issue("replay", hosts=["127.0.0.1"])
        with transport.channel(address, Security(replay)) as channel:
            assert {status_of(channel, method) for method in ROLE_OF_METHOD} == {DENIED}
    assert allowed == {
        method for method, role in ROLE_OF_METHOD.items() if role in (*KINDS["learner"], ANY_ROLE)
    }  # fmt: skip


def test_a_method_without_a_role_is_nobodys() -> None:
    assert not may_call(frozenset(ROLES), "/temper.replay.v1.Replay/Forgotten")


def test_a_word_that_is_no_role_is_answered_with_those_there_are() -> None:
    assert roles_of(["actor", "revoke"]) == {"append", "watch", "revoke"}
    with pytest.raises(RoleError, match=r"'root' is no role \(append, sample.*actor"):
        roles_of(["root"])


def test_only_known_roles_count_in_a_certificate() -> None:
    uris = [role_uri("append"), role_uri("root"), "https://role/read", "temper://role/"]
    assert roles_in(uris) == {"append"}
