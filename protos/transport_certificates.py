"""The files by which a process shows who it is, and knows others: read, checked, and told apart.

A process has a directory of its own, as `temper keys issue` makes it:

    key.pem          its private key, mode 0600
    certificate.pem  its certificate: its name, its roles, the hosts that it may serve at, its last day
    trusted.pem      the certificates of the authorities whose word it takes, one or, while one is replaced, several
    admitted.txt     optional, of a server: fingerprints of the certificates that are let in; without it, all that a
                     trusted authority has signed

Keys are ECDSA over P-256: the TLS of gRPC does not take Ed25519. Reading checks all that can be known to be wrong
before a peer finds out. Makes no certificates; see launch.certificates. Loaded only where TLS is used.

Exceptions: CertificateError (protos.transport_errors) for files that cannot be used; its message is one line and
names the file.
"""

from __future__ import annotations

import dataclasses
import os
import re
import stat
import time
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from protos.transport_errors import CertificateError
from protos.transport_roles import roles_in

KEY, CERTIFICATE, TRUSTED, ADMITTED = "key.pem", "certificate.pem", "trusted.pem", "admitted.txt"

_FILE_BYTES_MAX = 1 << 20
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class Identity:
    """What a certificate says, in words.

    Attributes:
      name: of its owner.
      roles: what its owner may ask of others.
      hosts: names and addresses at which its owner may serve; () for one that only calls.
      from_s, until_s: when it is valid (s since the epoch).
      fingerprint: SHA-256 of the certificate, in hexadecimal.
    """

    name: str
    roles: frozenset[str]
    hosts: tuple[str, ...]
    from_s: float
    until_s: float
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class Credentials:
    """The files of one process, checked. PEM as gRPC takes it.

    Attributes:
      admitted: fingerprints of the certificates that are let in; None: all that `authorities` have signed.
    """

    key: bytes
    certificate: bytes
    trusted: bytes
    identity: Identity
    authorities: Sequence[x509.Certificate]
    admitted: frozenset[str] | None

    def admit(self, certificate: bytes) -> Identity:
        """Whose certificate (PEM) this is. Raises CertificateError with the reason why its owner is not let in."""
        try:
            peer = x509.load_pem_x509_certificate(certificate)
        except ValueError as error:
            raise CertificateError("its certificate cannot be read") from error
        identity = identity_of(peer)
        if why := why_out_of_date(identity):
            raise CertificateError(f"its certificate {why}")
        if not is_signed_by(peer, self.authorities):
            raise CertificateError("its certificate was signed by an authority that is not, or no longer, trusted here")
        if self.admitted is not None and identity.fingerprint not in self.admitted:
            raise CertificateError(f"its certificate {identity.fingerprint[:16]}... is not in {ADMITTED} here")
        return identity


def read_credentials(directory: Path) -> Credentials:
    """Reads and checks the files of a process. Raises CertificateError."""
    key_pem = read_private(directory / KEY)
    certificate_pem, trusted_pem = read_file(directory / CERTIFICATE), read_file(directory / TRUSTED)
    certificate = read_certificates(directory / CERTIFICATE)[0]
    authorities = read_certificates(directory / TRUSTED)
    identity = identity_of(certificate)
    if load_key(directory / KEY).public_key() != certificate.public_key():
        raise CertificateError(f"{directory / KEY} is not the key of {directory / CERTIFICATE}: issue both anew")
    if why := why_out_of_date(identity):
        raise CertificateError(f"{directory / CERTIFICATE} of {identity.name!r} {why}: issue it anew")
    if not is_signed_by(certificate, authorities):
        raise CertificateError(
            f"{directory / CERTIFICATE} was signed by no authority in {directory / TRUSTED}: it is of elsewhere"
        )
    path = directory / ADMITTED
    admitted = read_admitted(path) if path.exists() else None
    return Credentials(key_pem, certificate_pem, trusted_pem, identity, authorities, admitted)


def read_admitted(path: Path) -> frozenset[str]:
    """The fingerprints in a list: one a line, then anything; "#" begins a remark. Raises CertificateError."""
    lines = (line.partition("#")[0].split() for line in read_file(path).decode(errors="replace").splitlines())
    fingerprints = [words[0] for words in lines if words]
    for fingerprint in fingerprints:
        if not _FINGERPRINT.fullmatch(fingerprint):
            raise CertificateError(f"{path}: {fingerprint[:80]!r} is not a SHA-256 in 64 hexadecimal digits")
    return frozenset(fingerprints)


def read_certificates(path: Path) -> list[x509.Certificate]:
    """The certificates in a PEM file, one at least. Raises CertificateError."""
    try:
        return x509.load_pem_x509_certificates(read_file(path))
    except ValueError as error:
        raise CertificateError(f"{path} holds no certificate in PEM: {error}") from error


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The private key in a PEM file that is its owner's alone. Raises CertificateError."""
    try:
        key = serialization.load_pem_private_key(read_private(path), password=None)
    except (ValueError, TypeError) as error:
        raise CertificateError(f"{path} holds no unencrypted private key in PEM: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError(f"{path} holds a {type(key).__name__}, an ECDSA key over P-256 is needed")
    return key


def read_file(path: Path) -> bytes:
    """The bytes of a file. Raises CertificateError."""
    return _read(path)[0]


def read_private(path: Path) -> bytes:
    """The bytes of a file that nobody but its owner can access. Raises CertificateError."""
    data, mode = _read(path)
    if mode & 0o077:
        raise CertificateError(f"{path} has mode {mode:04o} and must be for its owner alone (chmod 600)")
    return data


def _read(path: Path) -> tuple[bytes, int]:
    """The bytes of a file, and its mode: of the open file, not of the path, so that what is judged is what is read."""
    try:
        with path.open("rb") as file:
            data, mode = file.read(_FILE_BYTES_MAX + 1), stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    except OSError as error:
        raise CertificateError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > _FILE_BYTES_MAX:
        raise CertificateError(f"{path} is larger than {_FILE_BYTES_MAX} bytes: it is not one of ours")
    return data, mode


def identity_of(certificate: x509.Certificate) -> Identity:
    """What a certificate says."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        alternatives = x509.SubjectAlternativeName([])
    return Identity(
        name=str(names[0].value) if names else "",
        roles=roles_in(alternatives.get_values_for_type(x509.UniformResourceIdentifier)),
        hosts=(
            *alternatives.get_values_for_type(x509.DNSName),
            *(str(address) for address in alternatives.get_values_for_type(x509.IPAddress)),
        ),
        from_s=certificate.not_valid_before_utc.timestamp(),
        until_s=certificate.not_valid_after_utc.timestamp(),
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
    )


def why_out_of_date(identity: Identity, now_s: float | None = None) -> str:
    """ "expired on ..." or "is not valid before ...", by this machine's clock; "" for one that is valid."""
    now_s = time.time() if now_s is None else now_s
    if now_s >= identity.until_s:
        return f"expired on {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(identity.until_s))}"
    if now_s < identity.from_s:
        return f"is not valid before {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(identity.from_s))}"
    return ""


def is_signed_by(certificate: x509.Certificate, authorities: Sequence[x509.Certificate]) -> bool:
    """Whether one of the authorities has signed a certificate."""
    for authority in authorities:
        try:
            certificate.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return True
    return False
