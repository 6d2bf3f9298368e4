"""Verdicts and revocations as they are shown."""

from __future__ import annotations

import pytest

from launch.verdicts import WHY_CHARACTERS_MAX, describe_revoked, describe_verdict, read_verdict
from policies.signing import SigningKey
from policies.testing import signed_verdict
from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2


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


def test_a_deferral_says_how_many_there_were() -> None:
    signed = signed_verdict(
        SigningKey.generate(),
        bytes(32),
        version=8,
        approved=False,
        reason="capability",
        outcome=safety_pb2.OUTCOME_DEFERRED,
        deferred_in_a_row=2,
    )
    verdict = read_verdict(signed)
    assert verdict is not None
    assert describe_verdict(verdict) == "candidate 8 deferred (2 in a row): capability"


def test_what_is_no_verdict() -> None:
    assert read_verdict(common_pb2.SignedStatement(payload=b"\xff\xff\xff")) is None


@pytest.mark.parametrize(
    ("revoked", "shown"),
    [
        ([], ""),
        ([(2, "bad sensor")], "release 2 (bad sensor)"),
        ([(2, "bad sensor"), (1, "worse")], "release 1 (worse), release 2 (bad sensor)"),
        ([(n, "w") for n in range(1, 6)], "release 5 (w), release 4 (w), release 3 (w) and 2 more"),
        ([(1, "moves the cursor\x1b[2J")], r"release 1 (moves the cursor\x1b[2J)"),
        ([(1, "x" * WHY_CHARACTERS_MAX)], f"release 1 ({'x' * WHY_CHARACTERS_MAX})"),
        ([(1, "x" * (WHY_CHARACTERS_MAX + 1))], f"release 1 ({'x' * (WHY_CHARACTERS_MAX - 3)}...)"),
    ],
)
def test_revoked_releases_go_in_one_line(revoked: list[tuple[int, str]], shown: str) -> None:
    assert describe_revoked(revoked) == shown
