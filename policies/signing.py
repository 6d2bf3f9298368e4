"""Ed25519 keys and signatures over statements. What a statement means, and whether to believe it, is in trust.py; how a
key follows from another one, in key_chain.py.

The bytes signed are those that `temper.common.v1.SignedStatement` documents (a pre-authentication encoding): type and
payload with their lengths, so that no two different statements share an encoding.

Exceptions: SignatureError for a statement that this key did not sign; KeyFileError for a key file that cannot be used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from policies.durable import create_file, read_private_file, replace_file
from protos.common.v1 import common_pb2

VERDICT_TYPE = "temper.verdict.v1"
LEASE_TYPE = "temper.lease.v1"
REVOCATION_TYPE = "temper.revocation.v1"
PROMOTION_TYPE = "temper.promotion.v1"
KEY_TYPE = "temper.key.v1"

_KEY_FILE_BYTES_MAX = 16_384


class SignatureError(Exception):
    """A statement is not one that the holder of this key signed as this type."""


class KeyFileError(Exception):
    """A key file is missing, exists already, is readable by others, or holds no Ed25519 key."""


class VerifyKey:
    """The public half: what everybody may have. Immutable.

    Args:
      raw: the raw Ed25519 public key (32 bytes). Raises KeyFileError when it is none.
    """

    def __init__(self, raw: bytes) -> None:
        try:
            self._key = Ed25519PublicKey.from_public_bytes(raw)
        except ValueError as error:
            raise KeyFileError(f"a public key of {len(raw)} bytes is no Ed25519 key: it has 32") from error
        self.raw = bytes(raw)
        self.key_id = hashlib.sha256(self.raw).hexdigest()[:16]

    @classmethod
    def load(cls, path: Path) -> VerifyKey:
        """Reads a PEM file. Raises KeyFileError."""
        try:
            with path.open("rb") as file:
                data = file.read(_KEY_FILE_BYTES_MAX)
        except OSError as error:
            raise _not_read(path, error) from error
        try:
            key = serialization.load_pem_public_key(data)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise KeyFileError(f"{path} holds no public key in PEM: {error}") from error
        if not isinstance(key, Ed25519PublicKey):
            raise KeyFileError(f"{path} holds a {type(key).__name__}, an Ed25519 public key is needed")
        return cls(key.public_bytes_raw())

    def save(self, path: Path) -> None:
        """Writes a PEM file that everybody may read, durably, replacing what is there. Raises KeyFileError."""
        pem = self._key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        try:
            replace_file(path, pem, 0o644)
        except OSError as error:
            raise _not_created(path, error) from error

    def __eq__(self, other: object) -> bool:
        """Whether it is the same key."""
        return isinstance(other, VerifyKey) and self.raw == other.raw

    def __hash__(self) -> int:
        """Of the key's bytes."""
        return hash(self.raw)

    def check(self, message: bytes, signature: bytes) -> None:
        """Raises SignatureError unless `signature` (64 bytes) over `message` was made by this key's holder."""
        try:
            self._key.verify(signature, message)
        except InvalidSignature as error:
            raise SignatureError(f"the signature is not one of key {self.key_id}") from error


class SigningKey:
    """The private half: the safety service alone has it. Made by `generate` or `load`."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.verify_key = VerifyKey(key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> SigningKey:
        """A new key from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Reads a PEM file. Raises KeyFileError, also when others than the owner can read it."""
        try:
            data = read_private_file(path, _KEY_FILE_BYTES_MAX)
        except OSError as error:
            raise _not_read(path, error) from error
        try:
            key = serialization.load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise KeyFileError(f"{path} holds no unencrypted private key in PEM: {error}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyFileError(f"{path} holds a {type(key).__name__}, an Ed25519 private key is needed")
        return cls(key)

    def save(self, path: Path) -> None:
        """Writes a new PEM file with mode 0600, durably. Raises KeyFileError rather than replace a file."""
        pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        try:
            create_file(path, pem, 0o600)
        except OSError as error:
            raise _not_created(path, error) from error

    def sign_bytes(self, message: bytes) -> bytes:
        """The Ed25519 signature (64 bytes) over `message`."""
        return self._key.sign(message)


def sign(
    key: SigningKey,
    payload_type: str,
    payload: bytes,
    certificates: Sequence[common_pb2.SignedStatement] = (),
) -> common_pb2.SignedStatement:
    """Signs a serialized statement as being of `payload_type`.

    Args:
      key: that signs.
      payload_type: kind of the statement.
      payload: the statement.
      certificates: how `key` follows from the one that is trusted; see policies.key_chain. They are not signed over.
    """
    return common_pb2.SignedStatement(
        payload_type=payload_type,
        payload=payload,
        key_id=key.verify_key.key_id,
        signature=key.sign_bytes(authenticated_bytes(payload_type, payload)),
        certificates=certificates,
    )


def verify(key: VerifyKey, statement: common_pb2.SignedStatement, payload_type: str) -> bytes:
    """The payload of a statement that `key`'s holder signed as being of `payload_type`; raises SignatureError.

    Certificates are not looked at: that `key` is the right one is for the caller to know.
    """
    if statement.payload_type != payload_type:
        raise SignatureError(f"the statement is of type {statement.payload_type!r}, {payload_type!r} is needed")
    if statement.key_id != key.key_id:
        raise SignatureError(f"the statement is signed by key {statement.key_id!r}, trusted is {key.key_id!r}")
    key.check(authenticated_bytes(payload_type, statement.payload), statement.signature)
    return statement.payload


def authenticated_bytes(payload_type: str, payload: bytes) -> bytes:
    """Exactly what is signed: "temper.v1" LF len(type) LF type LF len(payload) LF payload, lengths in decimal."""
    kind = payload_type.encode()
    return b"\n".join((b"temper.v1", b"%d" % len(kind), kind, b"%d" % len(payload), payload))


def _not_read(path: Path, error: OSError) -> KeyFileError:
    return KeyFileError(f"key file {path} cannot be read: {error.strerror}")


def _not_created(path: Path, error: OSError) -> KeyFileError:
    return KeyFileError(f"key file {path} cannot be created: {error.strerror}")
