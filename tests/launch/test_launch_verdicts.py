"""Verdicts as they are shown."""

from __future__ import annotations

from launch.verdicts import describe_verdict, read_verdict
from policies.signing import SigningKey
from policies.testing import signed_verdict
from protos.common.v1 import common_pb2


def test_an_approval() -> None:
    signed = signed_verdict(
        SigningKey.generate(),
        b"\x01" * 32,
        version=7,
        return_mean=480.0,
        return_ci95_low=470.0,
        return_ci95_high=490.0,
        violating_episodes=2,
    )
    verdict = read_verdict(signed)
    assert verdict is not None
    assert verdict.digest == "01" * 32
    assert verdict.return_ci95 == (470.0, 490.0)
    assert describe_verdict(verdict) == (
        "candidate 7 approved as release 1: return 480.00 [470.00, 490.00], 2 of 100 episodes with a violation"
    )


def test_a_rejection() -> None:
    signed = signed_verdict(
        SigningKey.generate(), bytes(32), version=8, approved=False, reason="parameters are not finite"
    )
    verdict = read_verdict(signed)
    assert verdict is not None
    assert describe_verdict(verdict) == "candidate 8 rejected: parameters are not finite"


def test_what_is_no_verdict() -> None:
    assert read_verdict(common_pb2.SignedStatement(payload=b"\xff\xff\xff")) is None
