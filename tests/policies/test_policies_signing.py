"""Keys and signatures: the encoding is as documented, and nothing else verifies."""

import hashlib
import stat
from pathlib import Path

import hypothesis
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import strategies as st

from policies.signing import KeyFileError, SignatureError, SigningKey, VerifyKey, authenticated_bytes, sign, verify
from protos.common.v1 import common_pb2

KEY = SigningKey.generate()


def test_the_encoding_is_the_documented_one() -> None:
    assert authenticated_bytes("temper.lease.v1", b"a\nb") == b"temper.v1\n15\ntemper.lease.v1\n3\na\nb"
    assert authenticated_bytes("é", b"") == b"temper.v1\n2\n\xc3\xa9\n0\n"


@hypothesis.given(st.text(max_size=5), st.binary(max_size=5), st.text(max_size=5), st.binary(max_size=5))
def test_no_two_statements_share_an_encoding(kind: str, payload: bytes, kind_2: str, payload_2: bytes) -> None:
    same = (kind, payload) == (kind_2, payload_2)
    assert (authenticated_bytes(kind, payload) == authenticated_bytes(kind_2, payload_2)) == same


def test_a_signature_is_plain_ed25519_over_the_encoding() -> None:
    statement = sign(KEY, "temper.verdict.v1", b"payload")
    public = Ed25519PublicKey.from_public_bytes(KEY.verify_key.raw)
    public.verify(statement.signature, authenticated_bytes("temper.verdict.v1", b"payload"))
    assert statement.key_id == hashlib.sha256(KEY.verify_key.raw).hexdigest()[:16]
    assert verify(KEY.verify_key, statement, "temper.verdict.v1") == b"payload"


def _altered(**change: object) -> common_pb2.SignedStatement:
    statement = sign(KEY, "temper.lease.v1", b"payload")
    for name, value in change.items():
        setattr(statement, name, value)
    return statement


@pytest.mark.parametrize(
    "statement",
    [
        _altered(payload=b"Payload"),
        _altered(payload_type="temper.verdict.v1"),
        _altered(signature=b""),
        _altered(signature=b"\0" * 64),
        _altered(key_id="0" * 16),
        sign(SigningKey.generate(), "temper.lease.v1", b"payload"),
        sign(KEY, "temper.verdict.v1", b"payload"),
        common_pb2.SignedStatement(),
    ],
)
def test_anything_else_is_refused(statement: common_pb2.SignedStatement) -> None:
    with pytest.raises(SignatureError):
        verify(KEY.verify_key, statement, "temper.lease.v1")


def test_a_forger_who_claims_our_key_id_is_refused() -> None:
    statement = sign(SigningKey.generate(), "temper.lease.v1", b"payload")
    statement.key_id = KEY.verify_key.key_id
    with pytest.raises(SignatureError, match="not one of key"):
        verify(KEY.verify_key, statement, "temper.lease.v1")


def test_keys_survive_files(tmp_path: Path) -> None:
    KEY.save(tmp_path / "signing_key.pem")
    KEY.verify_key.save(tmp_path / "verify_key.pem")
    KEY.verify_key.save(tmp_path / "verify_key.pem")
    assert stat.S_IMODE((tmp_path / "signing_key.pem").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["signing_key.pem", "verify_key.pem"]
    loaded = VerifyKey.load(tmp_path / "verify_key.pem")
    assert (loaded.raw, loaded.key_id) == (KEY.verify_key.raw, KEY.verify_key.key_id)
    statement = sign(SigningKey.load(tmp_path / "signing_key.pem"), "temper.lease.v1", b"x")
    assert verify(loaded, statement, "temper.lease.v1") == b"x"


def test_a_signing_key_is_never_replaced(tmp_path: Path) -> None:
    KEY.save(tmp_path / "key.pem")
    with pytest.raises(KeyFileError, match="cannot be created"):
        SigningKey.generate().save(tmp_path / "key.pem")


def test_a_signing_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    KEY.save(path)
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="0640"):
        SigningKey.load(path)


def _elliptic() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def test_files_without_such_a_key_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    other = _elliptic()
    private = other.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = other.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for content in (b"", b"garbage", private, public):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(KeyFileError):
            SigningKey.load(path)
        with pytest.raises(KeyFileError):
            VerifyKey.load(path)
    with pytest.raises(KeyFileError, match="cannot be read"):
        VerifyKey.load(tmp_path / "missing.pem")
    with pytest.raises(KeyFileError, match="has 32"):
        VerifyKey(b"short")
