"""Chains of keys: what follows from the one that is trusted, and each way in which a chain does not hold."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest

from policies import key_chain
from policies.key_chain import CERTIFICATES_BYTES_MAX, CERTIFICATES_MAX, ForeignKey, KeyChain
from policies.signing import (
    KEY_TYPE,
    LEASE_TYPE,
    PROMOTION_TYPE,
    REVOCATION_TYPE,
    VERDICT_TYPE,
    SignatureError,
    SigningKey,
    VerifyKey,
    sign,
    verify,
)
from policies.testing import RUN_ID, signed_key, signed_lease, signed_revocation, signed_verdict
from policies.trust import ForgedStatement, TrustPolicy, WrongRun
from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2

FIRST, SECOND, THIRD, LEASE, STRANGER = (SigningKey.generate() for _ in range(5))
DIGEST = b"\x01" * 32
CHAIN = KeyChain(FIRST.verify_key, RUN_ID)

TO_SECOND = signed_key(FIRST, SECOND.verify_key, "verdict")
TO_THIRD = signed_key(SECOND, THIRD.verify_key, "verdict")
TO_LEASE = signed_key(THIRD, LEASE.verify_key, "lease")

Certificates = Sequence[common_pb2.SignedStatement]


@pytest.mark.parametrize("payload_type", [VERDICT_TYPE, REVOCATION_TYPE, PROMOTION_TYPE])
def test_each_verdict_key_signs_with_the_certificates_that_lead_to_it(payload_type: str) -> None:
    for key, certificates in ((FIRST, []), (SECOND, [TO_SECOND]), (THIRD, [TO_SECOND, TO_THIRD])):
        assert CHAIN.verify(sign(key, payload_type, b"said", certificates), payload_type) == b"said"


def test_a_lease_key_signs_leases() -> None:
    lease = sign(LEASE, LEASE_TYPE, b"said", [TO_SECOND, TO_THIRD, TO_LEASE])
    assert CHAIN.verify(lease, LEASE_TYPE) == b"said"


def test_a_chain_may_be_as_long_as_the_bound_and_no_longer() -> None:
    keys = [FIRST, *(SigningKey.generate() for _ in range(CERTIFICATES_MAX + 1))]
    chain = [signed_key(signer, key.verify_key, "verdict") for signer, key in itertools.pairwise(keys)]
    longest = sign(keys[CERTIFICATES_MAX], VERDICT_TYPE, b"said", chain[:CERTIFICATES_MAX])
    assert CHAIN.verify(longest, VERDICT_TYPE) == b"said"
    with pytest.raises(SignatureError, match="has 17 certificates, at most 16"):
        CHAIN.verify(sign(keys[-1], VERDICT_TYPE, b"said", chain), VERDICT_TYPE)


def nested() -> Certificates:
    certificate = signed_key(FIRST, SECOND.verify_key, "verdict")
    certificate.certificates.append(TO_SECOND)
    return [certificate]


def altered(change: Callable[[safety_pb2.KeyStatement], object]) -> common_pb2.SignedStatement:
    """The word for the second key after a change, with the signature of before."""
    certificate = signed_key(FIRST, SECOND.verify_key, "verdict")
    statement = safety_pb2.KeyStatement.FromString(certificate.payload)
    change(statement)
    certificate.payload = statement.SerializeToString(deterministic=True)
    return certificate


@pytest.mark.parametrize(
    ("key", "payload_type", "certificates"),
    [
        pytest.param(SECOND, VERDICT_TYPE, lambda: [], id="no certificate"),
        pytest.param(FIRST, VERDICT_TYPE, lambda: [TO_SECOND], id="another key's certificate"),
        pytest.param(THIRD, VERDICT_TYPE, lambda: [TO_THIRD], id="a link is missing"),
        pytest.param(THIRD, VERDICT_TYPE, lambda: [TO_THIRD, TO_SECOND], id="links in another order"),
        pytest.param(SECOND, VERDICT_TYPE, lambda: [TO_SECOND, TO_SECOND], id="a link twice"),
        pytest.param(STRANGER, VERDICT_TYPE, lambda: [TO_SECOND], id="a stranger with a genuine chain"),
        pytest.param(
            SECOND, VERDICT_TYPE, lambda: [signed_key(STRANGER, SECOND.verify_key, "verdict")], id="a stranger's word"
        ),
        pytest.param(STRANGER, VERDICT_TYPE, lambda: [signed_key(STRANGER, STRANGER.verify_key, "verdict")], id="own"),
        pytest.param(LEASE, VERDICT_TYPE, lambda: [TO_SECOND, TO_THIRD, TO_LEASE], id="a verdict by the lease key"),
        pytest.param(LEASE, REVOCATION_TYPE, lambda: [TO_SECOND, TO_THIRD, TO_LEASE], id="a revocation by it"),
        pytest.param(LEASE, PROMOTION_TYPE, lambda: [TO_SECOND, TO_THIRD, TO_LEASE], id="a promotion by it"),
        pytest.param(FIRST, LEASE_TYPE, lambda: [], id="a lease by the first verdict key"),
        pytest.param(SECOND, LEASE_TYPE, lambda: [TO_SECOND], id="a lease by a later verdict key"),
        pytest.param(
            STRANGER,
            VERDICT_TYPE,
            lambda: [signed_key(FIRST, LEASE.verify_key), signed_key(LEASE, STRANGER.verify_key, "verdict")],
            id="vouched for by a lease key",
        ),
        pytest.param(
            STRANGER,
            LEASE_TYPE,
            lambda: [signed_key(FIRST, LEASE.verify_key), signed_key(LEASE, STRANGER.verify_key, "lease")],
            id="vouched for by a lease key, for leases",
        ),
        pytest.param(SECOND, VERDICT_TYPE, lambda: [signed_key(FIRST, SECOND.verify_key, "any")], id="unknown purpose"),
        pytest.param(SECOND, VERDICT_TYPE, lambda: [signed_key(FIRST, SECOND.verify_key, "")], id="no purpose"),
        pytest.param(
            SECOND, VERDICT_TYPE, lambda: [signed_key(FIRST, SECOND.verify_key, public_key=b"short")], id="no key"
        ),
        pytest.param(SECOND, VERDICT_TYPE, lambda: [sign(FIRST, KEY_TYPE, b"\xff\xff")], id="no statement"),
        pytest.param(SECOND, VERDICT_TYPE, lambda: [signed_revocation(FIRST, DIGEST)], id="not about a key"),
        pytest.param(SECOND, VERDICT_TYPE, nested, id="a certificate with certificates"),
        pytest.param(
            LEASE, LEASE_TYPE, lambda: [altered(lambda said: setattr(said, "purpose", "lease"))], id="altered purpose"
        ),
        pytest.param(
            STRANGER,
            VERDICT_TYPE,
            lambda: [altered(lambda said: setattr(said, "public_key", STRANGER.verify_key.raw))],
            id="altered key",
        ),
        pytest.param(
            SECOND,
            VERDICT_TYPE,
            lambda: [signed_key(FIRST, SECOND.verify_key, "verdict", run_id="x" * CERTIFICATES_BYTES_MAX)],
            id="too large",
        ),
    ],
)
def test_a_chain_that_does_not_hold(
    key: SigningKey, payload_type: str, certificates: Callable[[], Certificates]
) -> None:
    signed = sign(key, payload_type, b"said", certificates())
    with pytest.raises(SignatureError):
        CHAIN.verify(signed, payload_type)
    # It is the chain that does not hold: the key itself has signed.
    assert verify(key.verify_key, signed, payload_type) == b"said"


def test_another_runs_keys_are_told_apart_from_forgeries() -> None:
    certificate = signed_key(FIRST, SECOND.verify_key, "verdict", run_id="other-run")
    with pytest.raises(ForeignKey, match="is for run 'other-run', this is run 'test-run'"):
        CHAIN.verify(sign(SECOND, VERDICT_TYPE, b"said", [certificate]), VERDICT_TYPE)


def test_a_newer_anchor_believes_itself_and_what_follows_and_nothing_before() -> None:
    """What comes before it in a chain is not looked at; a stolen earlier key has no way in."""
    newer = KeyChain(SECOND.verify_key, RUN_ID)
    garbage = sign(STRANGER, KEY_TYPE, b"\xff\xff")
    lease = sign(LEASE, LEASE_TYPE, b"said", [TO_SECOND, TO_THIRD, TO_LEASE])
    assert newer.verify(lease, LEASE_TYPE) == b"said"
    for key, certificates in (
        (SECOND, [TO_SECOND]),
        (SECOND, []),
        (THIRD, [TO_SECOND, TO_THIRD]),
        (THIRD, [garbage, TO_SECOND, TO_THIRD]),
        (THIRD, [TO_THIRD]),
    ):
        assert newer.verify(sign(key, VERDICT_TYPE, b"said", certificates), VERDICT_TYPE) == b"said"
    by_thief = signed_key(FIRST, STRANGER.verify_key, "verdict")
    for key, certificates in (
        (FIRST, []),
        (FIRST, [TO_SECOND]),
        (STRANGER, [by_thief]),
        (STRANGER, [TO_SECOND, by_thief]),
        (STRANGER, [by_thief, TO_SECOND]),
    ):
        with pytest.raises(SignatureError):
            newer.verify(sign(key, VERDICT_TYPE, b"said", certificates), VERDICT_TYPE)
    by_old = signed_key(FIRST, LEASE.verify_key, "lease")
    with pytest.raises(SignatureError):
        newer.verify(sign(LEASE, LEASE_TYPE, b"said", [by_old]), LEASE_TYPE)


def test_a_verified_chain_is_remembered_a_refused_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    followed: list[VerifyKey] = []
    certified_key = key_chain.certified_key

    def counted(
        signer: VerifyKey, certificate: common_pb2.SignedStatement, run_id: str
    ) -> tuple[safety_pb2.KeyStatement, VerifyKey]:
        followed.append(signer)
        return certified_key(signer, certificate, run_id)

    monkeypatch.setattr(key_chain, "certified_key", counted)
    chain = KeyChain(FIRST.verify_key, RUN_ID)
    certificates = [TO_SECOND, TO_THIRD, TO_LEASE]
    for number in range(10):
        assert chain.verify(sign(LEASE, LEASE_TYPE, b"%d" % number, certificates), LEASE_TYPE) == b"%d" % number
    assert len(followed) == 3
    # That the chain is known says nothing of who has signed this.
    with pytest.raises(SignatureError):
        chain.verify(sign(STRANGER, LEASE_TYPE, b"said", certificates), LEASE_TYPE)
    for _ in range(2):
        before = len(followed)
        with pytest.raises(SignatureError):
            chain.verify(sign(SECOND, VERDICT_TYPE, b"said", [TO_THIRD]), VERDICT_TYPE)
        assert len(followed) == before + 1


def test_many_chains_do_not_pile_up() -> None:
    chain = KeyChain(FIRST.verify_key, RUN_ID)
    for number in range(50):
        certificate = signed_key(FIRST, SECOND.verify_key, "verdict", issue_time_ns=number)
        chain.verify(sign(SECOND, VERDICT_TYPE, b"said", [certificate]), VERDICT_TYPE)
    assert chain._signer.cache_info().currsize <= 8


def signed_promotion(key: SigningKey, **fields: object) -> common_pb2.SignedStatement:
    promotion = {
        "run_id": RUN_ID,
        "promotion_number": 1,
        "release_number": 2,
        "artifact_digest": DIGEST,
        "why": "no violations in 500 episodes",
    } | fields
    statement = safety_pb2.PromotionStatement(**promotion)  # type: ignore[arg-type]
    return sign(key, PROMOTION_TYPE, statement.SerializeToString(deterministic=True))


def test_a_promotion_is_believed_whenever_it_was_issued() -> None:
    trust = TrustPolicy(FIRST.verify_key, RUN_ID)
    assert trust.check_promotion(signed_promotion(FIRST, issue_time_ns=1)).release_number == 2


@pytest.mark.parametrize(
    ("signed", "error"),
    [
        (signed_promotion(STRANGER), ForgedStatement),
        (signed_promotion(FIRST, run_id="other-run"), WrongRun),
        (signed_promotion(FIRST, artifact_digest=b"short"), ForgedStatement),
        (signed_promotion(FIRST, promotion_number=0), ForgedStatement),
        (signed_promotion(FIRST, release_number=0), ForgedStatement),
        (signed_revocation(FIRST, DIGEST), ForgedStatement),
    ],
)
def test_a_promotion_that_is_none(signed: common_pb2.SignedStatement, error: type[Exception]) -> None:
    with pytest.raises(error):
        TrustPolicy(FIRST.verify_key, RUN_ID).check_promotion(signed)


def test_what_the_trust_makes_of_chains() -> None:
    trust = TrustPolicy(FIRST.verify_key, RUN_ID)
    assert trust.check_lease(signed_lease(FIRST)).lease_number == 1
    by_verdict_key = signed_lease(FIRST)
    by_verdict_key = sign(FIRST, LEASE_TYPE, by_verdict_key.payload)
    with pytest.raises(ForgedStatement, match="needs a lease key"):
        trust.check_lease(by_verdict_key)
    verdict = signed_verdict(SECOND, DIGEST)
    with pytest.raises(ForgedStatement):
        trust.check_release(verdict, DIGEST)
    verdict.certificates.append(TO_SECOND)
    assert trust.check_release(verdict, DIGEST).release_number == 1
    foreign = signed_verdict(SECOND, DIGEST)
    foreign.certificates.append(signed_key(FIRST, SECOND.verify_key, "verdict", run_id="other-run"))
    with pytest.raises(WrongRun):
        trust.check_release(foreign, DIGEST)
