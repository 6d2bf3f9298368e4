"""`temper keys init`, `issue`, `show` and `callers`: the certificates of an installation, and who was refused by them.

--json prints one object a certificate: name, roles, hosts, until (local time), until_s, fingerprint, path, problem (why
it cannot be used, or ""); `callers` prints one object of its counters.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from launch.arguments_keys import KeysCallers, KeysInit, KeysIssue, KeysShow
from launch.certificates import AUTHORITY, ISSUED, issue, make_authority
from launch.errors import LaunchError
from launch.json_output import json_line, printable
from protos import transport
from protos.common.v1 import access_pb2, access_pb2_grpc
from protos.transport_certificates import (
    CERTIFICATE,
    TRUSTED,
    Identity,
    identity_of,
    is_signed_by,
    read_certificates,
    read_credentials,
    why_out_of_date,
)
from protos.transport_errors import CertificateError
from protos.transport_roles import roles_of

_CALL_S_MAX = 5.0


def run(arguments: KeysInit | KeysIssue | KeysShow | KeysCallers) -> int:
    """Does what was asked; returns 1 where something that was shown cannot be used."""
    if isinstance(arguments, KeysInit):
        return _init(arguments)
    if isinstance(arguments, KeysIssue):
        return _issue(arguments)
    if isinstance(arguments, KeysCallers):
        return _callers(arguments)
    return _show(arguments)


def _init(arguments: KeysInit) -> int:
    identity = make_authority(arguments.directory, arguments.days, arguments.trust)
    place = arguments.directory / AUTHORITY
    print(f"{place} is an authority until {_day(identity.until_s)}: keep it away from the hosts of a run")
    return 0


def _issue(arguments: KeysIssue) -> int:
    roles = roles_of(word.strip() for word in arguments.role.split(","))
    identity, place = issue(
        arguments.directory, arguments.name, roles, arguments.host, arguments.days, replace=arguments.replace
    )
    print(f"{place} is for {_words(identity)}: move it to its host, and name it there with --certificates")
    return 0


def _show(arguments: KeysShow) -> int:
    shown = list(_certificates(arguments.directory))
    if not shown:
        raise CertificateError(f"{arguments.directory} holds no certificates: neither an authority's nor a process's")
    for path, identity, problem in shown:
        if arguments.json:
            print(json_line(_json(path, identity, problem)))
        else:
            words = _words(identity) if identity is not None else "?"
            print(f"{printable(str(path))}: {words}{f'; CANNOT BE USED: {problem}' if problem else ''}")
    return 1 if any(problem for _, _, problem in shown) else 0


def _callers(arguments: KeysCallers) -> int:
    with transport.channel(arguments.address) as channel:
        try:
            stub = access_pb2_grpc.AccessStub(channel)
            answer = stub.Callers(access_pb2.CallersRequest(), timeout=_CALL_S_MAX)
        except grpc.RpcError as error:
            raise LaunchError(f"{arguments.address}: {error.code().name}: {error.details()}") from None
    counts = {field.name: getattr(answer, field.name) for field in answer.DESCRIPTOR.fields}
    if arguments.json:
        print(json_line(counts))
        return 0
    print(f"denied           {counts['denied_calls']:,} calls of callers without the role")
    print(f"unauthenticated  {counts['unauthenticated_calls']:,} calls, their certificate being good no more")
    print(
        f"connections      {counts['connections']:,} by TLS, {counts['unauthenticated_connections']:,} of them without "
        "an authenticated call"
    )
    return 0


def _certificates(directory: Path) -> Iterator[tuple[Path, Identity | None, str]]:
    """Path, content, and what is wrong with it, of the certificates of an authority, or of a process."""
    if (directory / CERTIFICATE).exists():
        yield _process(directory, directory / TRUSTED)
    if (directory / AUTHORITY).exists():
        path = directory / AUTHORITY / CERTIFICATE
        try:
            identity = identity_of(read_certificates(path)[0])
            yield path, identity, why_out_of_date(identity)
        except CertificateError as error:
            yield path, None, str(error)
        for place in sorted((directory / ISSUED).glob("*/")):
            yield _process(place, directory / TRUSTED)


def _process(place: Path, trusted: Path) -> tuple[Path, Identity | None, str]:
    path, identity = place / CERTIFICATE, None
    try:
        certificate = read_certificates(path)[0]
        identity = identity_of(certificate)
        read_credentials(place)
        if not is_signed_by(certificate, read_certificates(trusted)):
            return path, identity, f"it was signed by no authority in {trusted}"
    except CertificateError as error:
        return path, identity, str(error)
    return path, identity, ""


def _json(path: Path, identity: Identity | None, problem: str) -> dict[str, Any]:
    said = {"path": str(path), "problem": problem}
    if identity is None:
        return said
    return said | {
        "name": identity.name,
        "roles": sorted(identity.roles),
        "hosts": list(identity.hosts),
        "until": _day(identity.until_s),
        "until_s": identity.until_s,
        "fingerprint": identity.fingerprint,
    }


def _words(identity: Identity) -> str:
    roles = f", may {', '.join(sorted(identity.roles))}" if identity.roles else ""
    hosts = f", serves at {', '.join(identity.hosts)}" if identity.hosts else ""
    return f"{printable(identity.name)}{printable(roles + hosts)}, until {_day(identity.until_s)}"


def _day(at_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at_s))
