"""What the safety service alone holds, in its own directory: the signing key, the secret of the held-out seeds, the
incumbent's artifact and those of the releases before it, and the highest lease number it may have used. It decides
nothing.

    signing_key.pem    Ed25519 private key, mode 0600
    verify_key.pem     its public half, for everybody
    evaluation_secret  32 random bytes, mode 0600
    incumbents/HEX     artifacts of releases, named by their digests: the newest, and as many before it as have room,
                       for the one before is the incumbent once the newest is revoked
    lease_number       decimal: no lease with a higher number has been granted

Exceptions: CustodyError where something is missing, damaged, readable by others, or belongs to something else.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from pathlib import Path

from policies.artifact import artifact_digest
from policies.durable import create_file, read_private_file, replace_file
from policies.signing import KeyFileError, SigningKey, VerifyKey

INCUMBENTS_BYTES_MAX = 1 << 30
"""Room for the artifacts of releases; that of the newest is kept in any case."""

_SECRET_BYTES = 32
_LEASE_NUMBERS_RESERVED = 1000


class CustodyError(Exception):
    """The safety service's directory does not hold what it must; the message says what to do."""


class Custody:
    """Keys and secret of one safety service; made on its first start, and never again.

    Args:
      directory: the service's directory; the caller holds its ledger, so nobody else is at it.
      first_start: whether the ledger knows of no start yet, so that missing keys may be made.

    Raises:
      CustodyError: see there.
    """

    def __init__(self, directory: Path, *, first_start: bool) -> None:
        self._directory = directory
        self._incumbents = directory / "incumbents"
        self._lock = threading.Lock()
        try:
            self._incumbents.mkdir(mode=0o700, exist_ok=True)
            self.signing_key = _signing_key(directory, first_start)
            self.secret = _secret(directory / "evaluation_secret", first_start)
        except (KeyFileError, OSError) as error:
            raise CustodyError(f"safety directory {directory}: {error}") from error
        if first_start and ((directory / "lease_number").exists() or any(self._incumbents.iterdir())):
            raise CustodyError(
                f"safety directory {directory} has granted leases or releases, but its ledger is gone: restore it; "
                "starting anew would number and judge them again under the same key"
            )
        self._lease_number = self._lease_numbers_reserved = self._read_lease_number()

    def keep_incumbent(self, artifact: bytes) -> None:
        """Stores an artifact, synced to disk, before the verdict that makes it the incumbent. Raises CustodyError."""
        try:
            replace_file(self._incumbents / artifact_digest(artifact).hex(), artifact, 0o600)
        except OSError as error:
            raise CustodyError(f"the candidate cannot be kept in {self._incumbents}: {error.strerror}") from error

    def incumbent(self, digest: bytes) -> bytes:
        """The artifact with this digest. Raises CustodyError where it is missing or damaged."""
        path = self._incumbents / digest.hex()
        try:
            artifact = path.read_bytes()
        except OSError as error:
            raise CustodyError(
                f"{path}, the artifact of the newest release that stands, cannot be read ({error.strerror}): without "
                "it no candidate can be compared; restore it from the policy registry"
            ) from error
        if artifact_digest(artifact) != digest:
            raise CustodyError(
                f"{path}, the artifact of the newest release that stands, is damaged; restore it from the policy "
                "registry"
            )
        return artifact

    def forget_incumbents_except(self, digests: Sequence[bytes]) -> None:
        """Removes the artifacts of all but these, which are newest first, and of those for which there is no room."""
        sizes = {path.name: path.stat().st_size for path in self._incumbents.iterdir()}
        kept: set[str] = set()
        kept_bytes = 0
        for name in dict.fromkeys(digest.hex() for digest in digests):
            kept_bytes += sizes.get(name, 0)
            if kept and kept_bytes > INCUMBENTS_BYTES_MAX:
                break
            kept.add(name)
        for name in sizes.keys() - kept:
            (self._incumbents / name).unlink()

    def next_lease_number(self) -> int:
        """A number above all those before it, also after a restart (which skips some). Raises CustodyError."""
        with self._lock:
            if self._lease_number == self._lease_numbers_reserved:
                reserved = self._lease_number + _LEASE_NUMBERS_RESERVED
                try:
                    replace_file(self._directory / "lease_number", f"{reserved}\n".encode(), 0o600)
                except OSError as error:
                    raise CustodyError(f"lease numbers cannot be reserved on disk: {error.strerror}") from error
                self._lease_numbers_reserved = reserved
            self._lease_number += 1
            return self._lease_number

    def _read_lease_number(self) -> int:
        path = self._directory / "lease_number"
        try:
            return int(path.read_text())
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as error:
            raise CustodyError(f"{path} holds no lease number: leases could be issued twice") from error


def _signing_key(directory: Path, first_start: bool) -> SigningKey:
    path, public_path = directory / "signing_key.pem", directory / "verify_key.pem"
    if not path.exists():
        if not first_start:
            raise CustodyError(f"{path} is missing, but its verdicts are in the ledger: restore it")
        SigningKey.generate().save(path)
    key = SigningKey.load(path)
    if not public_path.exists():
        key.verify_key.save(public_path)
    elif VerifyKey.load(public_path).raw != key.verify_key.raw:
        raise CustodyError(f"{public_path} is not the public half of {path}")
    return key


def _secret(path: Path, first_start: bool) -> bytes:
    if not path.exists():
        if not first_start:
            raise CustodyError(f"{path} is missing, but seeds have been drawn from it: restore it")
        create_file(path, secrets.token_bytes(_SECRET_BYTES), 0o600)
    secret = read_private_file(path, _SECRET_BYTES + 1)
    if len(secret) != _SECRET_BYTES:
        raise CustodyError(f"{path} does not have {_SECRET_BYTES} bytes: it is damaged")
    return secret
