"""Makes the certificates by which the processes of an installation know each other: an authority of one's own.

    DIRECTORY/authority/key.pem          the authority's private key: whoever has it can make certificates. Mode 0600,
                                         in a directory of mode 0700; no process of a run needs it
    DIRECTORY/authority/certificate.pem  the authority itself
    DIRECTORY/trusted.pem                the authorities that are trusted: this one, and others while one is replaced
    DIRECTORY/admitted.txt               fingerprints of all that was issued; a server that has a copy beside its own
                                         certificate lets in these alone, so that to remove a line is to shut one out
    DIRECTORY/issued/NAME/               what a process needs, to be moved to its host (protos.transport_certificates)

Exceptions: CertificateError (protos.transport_errors) for files that exist, are missing, expired, or foreign.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import ipaddress
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from policies.durable import create_file, replace_file
from protos.transport_certificates import (
    ADMITTED,
    CERTIFICATE,
    KEY,
    TRUSTED,
    Identity,
    identity_of,
    load_key,
    read_certificates,
    read_file,
    why_out_of_date,
)
from protos.transport_errors import CertificateError
from protos.transport_roles import role_uri

AUTHORITY, ISSUED = "authority", "issued"
DAYS_MAX = 36_500
CLOCKS_DIFFER = datetime.timedelta(minutes=5)
"""A certificate is valid so long before it was made, for hosts whose clock is slow."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LABEL = re.compile(r"[A-Za-z0-9-]{1,63}")
"""Between the dots of a host's name."""


def make_authority(
    directory: Path, days: float, trust: Sequence[Path] = (), now: datetime.datetime | None = None
) -> Identity:
    """A new authority in `directory`, which is made if it is missing.

    Args:
      directory: must hold no authority.
      days: for which the authority is valid.
      trust: files with certificates of other authorities that its processes shall trust, too.
      now: for tests.

    Raises:
      CertificateError: there is one already, or the files cannot be written.
    """
    place = directory / AUTHORITY
    if place.exists():
        raise CertificateError(
            f"{place} exists: an authority is never replaced, make another in a directory of its own"
        )
    others = [certificate for path in trust for certificate in read_certificates(path)]
    now = now or datetime.datetime.now(datetime.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    # With a name of its own, so that two authorities in one list are told apart.
    name = _common_name(f"temper authority {secrets.token_hex(8)}")
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        _dated(x509.CertificateBuilder(), now, _days(days))
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    with _writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / ISSUED).mkdir(mode=0o700, exist_ok=True)
        place.mkdir(mode=0o700)
        create_file(place / KEY, _key_pem(key), 0o600)
        replace_file(directory / TRUSTED, b"".join(_pem(each) for each in (certificate, *others)))
        replace_file(directory / ADMITTED, b"# fingerprint (SHA-256) and name; remove a line to shut its owner out\n")
        # Last, because it is what makes it an authority.
        create_file(place / CERTIFICATE, _pem(certificate))
    return identity_of(certificate)


def issue(
    directory: Path,
    name: str,
    roles: frozenset[str],
    hosts: Sequence[str] = (),
    days: float = 365.0,
    *,
    replace: bool = False,
    now: datetime.datetime | None = None,
) -> tuple[Identity, Path]:
    """A new certificate, and the directory with it, its key, and the list of trusted authorities.

    Args:
      directory: of the authority.
      name: of the process, or the person.
      roles: what it may ask of others.
      hosts: names and addresses at which it may serve; none: it cannot.
      days: for which it is valid.
      replace: whether there may be one of that name, which is then replaced and not admitted any more.
      now: for tests.

    Raises:
      CertificateError: nothing was issued, and why.
    """
    if not _NAME.fullmatch(name):
        raise CertificateError(
            f"name {name[:80]!r} must be 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-': nothing was issued"
        )
    if not roles and not hosts:
        raise CertificateError(f"{name!r} would have no role and could not serve: name its hosts (--host), or a role")
    alternatives: list[x509.GeneralName] = [_host(host) for host in hosts]
    alternatives += [x509.UniformResourceIdentifier(role_uri(role)) for role in sorted(roles)]
    now = now or datetime.datetime.now(datetime.UTC)
    with _alone(directory):
        authority, authority_key = _authority(directory, now)
        place = directory / ISSUED / name
        if place.exists() and not replace:
            raise CertificateError(f"{place} exists: choose another name, or issue it anew with --replace")
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if hosts else [])]
        certificate = (
            # Not beyond the authority's own end: nobody would believe it then.
            _dated(x509.CertificateBuilder(), now, _days(days), authority.not_valid_after_utc)
            .subject_name(_common_name(name))
            .issuer_name(authority.subject)
            .public_key(key.public_key())
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(authority_key, hashes.SHA256())
        )
        identity = identity_of(certificate)
        with _writing(place):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(place / KEY, _key_pem(key), 0o600)
            replace_file(place / TRUSTED, read_file(directory / TRUSTED))
            _admit(directory, identity)
            replace_file(place / CERTIFICATE, _pem(certificate))
    return identity, place


def _authority(directory: Path, now: datetime.datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    place = directory / AUTHORITY
    if not place.is_dir():
        raise CertificateError(f"{directory} is no authority's directory: make one with temper keys init {directory}")
    certificate, key = read_certificates(place / CERTIFICATE)[0], load_key(place / KEY)
    if certificate.public_key() != key.public_key():
        raise CertificateError(f"{place / KEY} is not the key of {place / CERTIFICATE}: nothing was issued")
    if why := why_out_of_date(identity_of(certificate), now.timestamp()):
        raise CertificateError(f"the authority in {directory} {why}: make another in a directory of its own")
    return certificate, key


def _admit(directory: Path, identity: Identity) -> None:
    """Adds a certificate to the list, in place of an earlier one of its name."""
    path = directory / ADMITTED
    lines = read_file(path).decode().splitlines() if path.exists() else []
    kept = [line for line in lines if line.startswith("#") or line.split()[1:2] != [identity.name]]
    replace_file(path, "\n".join([*kept, f"{identity.fingerprint} {identity.name}", ""]).encode())


def _days(days: float) -> datetime.timedelta:
    if not 0 < days <= DAYS_MAX:
        raise CertificateError(f"--days {days:g} must be above 0 and at most {DAYS_MAX}: nothing was made")
    return datetime.timedelta(days=days)


def _dated(
    builder: x509.CertificateBuilder,
    now: datetime.datetime,
    length: datetime.timedelta,
    end: datetime.datetime | None = None,
) -> x509.CertificateBuilder:
    until = now + length if end is None else min(now + length, end)
    builder = builder.not_valid_before(now - CLOCKS_DIFFER).not_valid_after(until)
    return builder.serial_number(x509.random_serial_number())


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise CertificateError(f"--host {host[:80]!r} is neither a host's name nor an address: nothing was issued")
    return x509.DNSName(host)


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption())


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """So that two who issue at once do not lose each other's line in the list."""
    if not directory.is_dir():
        raise CertificateError(f"{directory} is no authority's directory: make one with temper keys init {directory}")
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _writing(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CertificateError(f"{error.filename or place} cannot be written: {error.strerror}") from error
