"""`temper safety export`: an envelope that others can verify, whether or not the verdict was signed for it."""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from launch import cli
from launch.commands import safety_export
from launch.run_paths import RunPaths
from launch.verdict_choice import ChosenVerdict, choose_verdict
from policies.signing import KEY_TYPE, SigningKey, sign
from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2
from safety.in_toto import SIGNATURE_FIELD, sign_in_toto
from tests.launch import made_up_evidence


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> made_up_evidence.MadeUpGate:
    """A gate that has approved one candidate."""
    gate, suite = made_up_evidence.MadeUpGate(tmp_path_factory.mktemp("run") / "run"), made_up_evidence.make_suite()
    gate.enter(made_up_evidence.judge(suite, gate.seed_key, 100, [], made_up_evidence.GOOD, b""))
    gate.close()
    return gate


def signed_by(
    monkeypatch: pytest.MonkeyPatch, key: SigningKey, certificates: list[common_pb2.SignedStatement] | None = None
) -> None:
    """From now on every verdict has an in-toto signature by that key, certified as given."""

    def choose(run_dir: Path, wanted: str) -> ChosenVerdict:
        chosen = choose_verdict(run_dir, wanted)
        fields = {**chosen.fields, SIGNATURE_FIELD: sign_in_toto(key, chosen.statement)}
        signed = common_pb2.SignedStatement()
        signed.CopyFrom(chosen.signed)
        signed.key_id = key.verify_key.key_id
        signed.certificates.extend(certificates or [])
        return dataclasses.replace(chosen, fields=fields, signed=signed)

    monkeypatch.setattr(safety_export, "choose_verdict", choose)


def exported(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    assert cli.main(["safety", "export", "release:1", "--run-dir", str(paths.root)]) == 0
    shown = capsys.readouterr()
    envelope: dict[str, Any] = json.loads(shown.out)
    return envelope, shown.err


def verified(envelope: dict[str, Any], key: Ed25519PublicKey) -> dict[str, Any]:
    """The payload, verified by DSSE's protocol from scratch."""
    body, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"]
    (signature,) = envelope["signatures"]
    key.verify(base64.b64decode(signature["sig"]), b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(body), body))
    found: dict[str, Any] = json.loads(body)
    return found


def test_a_signed_envelope_verifies_with_the_public_key_of_the_run(
    gate: made_up_evidence.MadeUpGate, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    signed_by(monkeypatch, gate.key)
    envelope, complaints = exported(gate.paths, capsys)
    assert complaints == ""
    key = load_pem_public_key(gate.paths.verify_key.read_bytes())
    assert isinstance(key, Ed25519PublicKey)
    statement = verified(envelope, key)
    verdict = choose_verdict(gate.paths.root, "release:1").statement
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert envelope["signatures"][0]["keyid"] == gate.key.verify_key.key_id
    assert statement["subject"][0]["digest"] == {"sha256": verdict.artifact_digest.hex()}
    assert statement["predicate"]["outcome"] == "approved"
    assert len(statement["predicate"]["criteria"]) == len(verdict.criteria)
    envelope["payload"] = base64.b64encode(base64.b64decode(envelope["payload"]) + b" ").decode()
    with pytest.raises(InvalidSignature):
        verified(envelope, key)


def test_a_key_that_was_rotated_in_is_taken_from_its_certificate(
    gate: made_up_evidence.MadeUpGate, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = SigningKey.generate()
    said = safety_pb2.KeyStatement(run_id=made_up_evidence.RUN, purpose="verdict", public_key=newer.verify_key.raw)
    signed_by(monkeypatch, newer, [sign(gate.key, KEY_TYPE, said.SerializeToString(deterministic=True))])
    envelope, _ = exported(gate.paths, capsys)
    assert envelope["signatures"][0]["keyid"] == newer.verify_key.key_id
    verified(envelope, Ed25519PublicKey.from_public_bytes(newer.verify_key.raw))


def test_a_signature_by_another_key_is_no_envelope(
    gate: made_up_evidence.MadeUpGate, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    signed_by(monkeypatch, SigningKey.generate())
    assert cli.main(["safety", "export", "release:1", "--run-dir", str(gate.paths.root)]) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and "in-toto signature beside verdict" in shown.err
