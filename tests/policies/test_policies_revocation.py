"""Revocations as statements, in the registry and on the board: believed only signed, kept for good, told to all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from policies.artifact import artifact_digest
from policies.distribution import PolicyBoard, Seen
from policies.registry import PolicyRegistry, RegistryError
from policies.release_keeper import ReleaseKeeper
from policies.revocation import Revocation
from policies.signing import REVOCATION_TYPE, SigningKey, sign
from policies.testing import RUN_ID, make_artifact, signed_lease, signed_revocation, signed_verdict
from policies.trust import ForgedStatement, RevokedArtifact, TrustPolicy, WrongRun
from protos.common.v1 import common_pb2
from protos.policy.v1 import policy_pb2

KEY = SigningKey.generate()
TRUST = TrustPolicy(KEY.verify_key, RUN_ID)
FIRST, SECOND, THIRD = (make_artifact(seed=seed).to_bytes() for seed in (1, 2, 3))
RELEASE, REVOCATION = policy_pb2.PolicyOffer.KIND_RELEASE, policy_pb2.PolicyOffer.KIND_REVOCATION

Statement = common_pb2.SignedStatement


def verdict(data: bytes, number: int, **fields: Any) -> Statement:
    return signed_verdict(KEY, artifact_digest(data), release_number=number, version=10 * number, **fields)


def revocation(data: bytes, number: int = 1, **fields: Any) -> Statement:
    return signed_revocation(KEY, artifact_digest(data), revocation_number=number, **fields)


def altered() -> Statement:
    statement = revocation(FIRST)
    statement.payload = statement.payload.replace(artifact_digest(FIRST), artifact_digest(SECOND))
    return statement


FORGERIES: dict[str, tuple[type[Exception], Callable[[], Statement]]] = {
    "another key": (ForgedStatement, lambda: signed_revocation(SigningKey.generate(), artifact_digest(FIRST))),
    "altered": (ForgedStatement, altered),
    "unsigned": (ForgedStatement, Statement),
    "a verdict": (ForgedStatement, lambda: verdict(FIRST, 1)),
    "a lease": (ForgedStatement, lambda: signed_lease(KEY)),
    "no statement": (ForgedStatement, lambda: sign(KEY, REVOCATION_TYPE, b"\xff\xff")),
    "no artifact": (ForgedStatement, lambda: signed_revocation(KEY, b"")),
    "no number": (ForgedStatement, lambda: revocation(FIRST, number=0)),
    "another run's": (WrongRun, lambda: revocation(FIRST, run_id="another")),
}


@pytest.fixture
def registry(tmp_path: Path) -> PolicyRegistry:
    """Releases 1 to 3."""
    registry = PolicyRegistry(tmp_path, TRUST)
    for number, data in enumerate((FIRST, SECOND, THIRD), start=1):
        registry.promote(data, verdict(data, number))
    return registry


def newest(registry: PolicyRegistry) -> int:
    release = registry.newest()
    return 0 if release is None else release.number


@pytest.mark.parametrize("name", FORGERIES)
def test_what_is_not_signed_for_this_run_revokes_nothing(registry: PolicyRegistry, name: str) -> None:
    kind, make = FORGERIES[name]
    with pytest.raises(kind):
        TRUST.check_revocation(make())
    with pytest.raises(kind):
        registry.revoke(make())
    board = PolicyBoard()
    keeper = ReleaseKeeper(registry, board)
    keeper.start()
    with pytest.raises(kind):
        keeper.revoke(make())
    assert (newest(registry), registry.revocations(), board.revocations) == (3, [], ())


def test_a_revocation_is_for_good_whenever_it_was_issued() -> None:
    for issue_time_ns in (1, 2**62):
        assert Revocation.verified(revocation(FIRST, issue_time_ns=issue_time_ns), TRUST).digest == artifact_digest(
            FIRST
        )


def test_the_newest_release_is_the_newest_that_stands(registry: PolicyRegistry, tmp_path: Path) -> None:
    registry.revoke(revocation(THIRD, 1, release_number=3))
    assert newest(registry) == 2
    registry.revoke(revocation(FIRST, 2))
    assert newest(registry) == 2
    registry.revoke(revocation(SECOND, 3, release_number=2))
    assert newest(registry) == 0
    again = PolicyRegistry(tmp_path, TRUST)
    assert newest(again) == 0
    assert [(each.number, each.release_number) for each in again.revocations()] == [(1, 3), (2, 1), (3, 2)]
    whys = [release.revocation.why if release.revocation else "" for release in again.releases()]
    assert whys == ["it learnt from poisoned records"] * 3
    assert again.verify() == []


def test_a_revoked_artifact_never_becomes_a_release_again(registry: PolicyRegistry) -> None:
    registry.revoke(revocation(THIRD, release_number=3))
    for again in (verdict(THIRD, 3), verdict(THIRD, 4)):
        with pytest.raises(RevokedArtifact, match=r"release 3, artifact .* was revoked: it learnt from"):
            registry.promote(THIRD, again)
    assert newest(registry) == 2
    # Numbers ascend past the revoked one: it is not free again.
    other = make_artifact(seed=9).to_bytes()
    with pytest.raises(Exception, match="release 3 is in use"):
        registry.promote(other, verdict(other, 3))
    assert registry.promote(other, verdict(other, 4)).number == 4
    assert newest(registry) == 4


def test_a_revocation_that_comes_before_the_release_keeps_it_out(registry: PolicyRegistry) -> None:
    other = make_artifact(seed=9).to_bytes()
    registry.revoke(revocation(other, release_number=4))
    with pytest.raises(RevokedArtifact):
        registry.promote(other, verdict(other, 4))


def test_the_same_again_changes_nothing_and_another_of_its_number_is_an_error(
    registry: PolicyRegistry, tmp_path: Path
) -> None:
    signed = revocation(THIRD, release_number=3)
    registry.revoke(signed)
    content = (tmp_path / "revocations" / "00000001.revocation").read_bytes()
    registry.revoke(revocation(THIRD, release_number=3, why="told otherwise"))
    assert (tmp_path / "revocations" / "00000001.revocation").read_bytes() == content
    with pytest.raises(RegistryError, match="has been set back"):
        registry.revoke(revocation(FIRST))
    assert newest(registry) == 2


def test_a_revocation_is_verified_at_every_read(registry: PolicyRegistry, tmp_path: Path) -> None:
    registry.revoke(revocation(THIRD, release_number=3))
    path = tmp_path / "revocations" / "00000001.revocation"
    whole = path.read_bytes()
    for content in (whole[:-1], b"", revocation(FIRST, 2).SerializeToString()):
        path.write_bytes(content)
        for read in (registry.newest, registry.releases, registry.revocations):
            with pytest.raises(RegistryError, match="00000001"):
                read()
        assert len(registry.verify()) == 1
    path.write_bytes(whole)
    assert newest(registry) == 2


def test_another_of_the_same_number_takes_its_artifact_off_the_board_too(registry: PolicyRegistry) -> None:
    """As after a ledger was set back. It cannot be stored, so that somebody looks; the actors drop it all the same."""
    board = PolicyBoard()
    keeper = ReleaseKeeper(registry, board)
    keeper.start()
    keeper.revoke(revocation(FIRST))
    _, seen = board.offers_since(Seen())
    with pytest.raises(RegistryError, match="has been set back"):
        keeper.revoke(revocation(THIRD, release_number=3))
    assert [offer.digest for offer in board.offers_since(seen)[0]] == [artifact_digest(THIRD)]
    assert board.release_number == 0


def test_a_full_disk_is_said(registry: PolicyRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("policies.registry.replace_file", fail)
    board = PolicyBoard()
    keeper = ReleaseKeeper(registry, board)
    keeper.start()
    with pytest.raises(RegistryError, match="No space left"):
        keeper.revoke(revocation(THIRD, release_number=3))
    # Whoever watches has been told nevertheless.
    assert [each.release_number for each in board.revocations] == [3]
    assert board.release_number == 0


def test_the_board_tells_everybody_and_offers_what_is_left(registry: PolicyRegistry) -> None:
    board = PolicyBoard()
    keeper = ReleaseKeeper(registry, board)
    keeper.start()
    offers, seen = board.offers_since(Seen())
    assert [(offer.kind, offer.version) for offer in offers] == [(RELEASE, 30)]
    _, left = keeper.revoke(revocation(THIRD, 1, release_number=3))
    assert left is not None
    assert left.number == 2
    _, left = keeper.revoke(revocation(SECOND, 2, release_number=2))
    # A slow watcher misses release 2, which is not offered any more, but no revocation.
    offers, seen = board.offers_since(seen)
    assert [(offer.kind, offer.digest, offer.version) for offer in offers] == [
        (REVOCATION, artifact_digest(THIRD), 0),
        (REVOCATION, artifact_digest(SECOND), 0),
        (RELEASE, artifact_digest(FIRST), 10),
    ]
    assert board.offers_since(seen) == ([], seen)
    # One that comes later is told everything.
    assert board.offers_since(Seen())[0] == offers
    _, left = keeper.revoke(revocation(FIRST, 3))
    assert left is None
    offers, seen = board.offers_since(seen)
    assert [offer.kind for offer in offers] == [REVOCATION]
    keeper.revoke(revocation(FIRST, 3))
    assert board.offers_since(seen) == ([], seen)


def test_what_is_revoked_is_never_offered_again(registry: PolicyRegistry) -> None:
    board = PolicyBoard()
    board.publish_lease(signed_lease(KEY))
    digest = board.publish_snapshot(5, THIRD)
    ReleaseKeeper(registry, board).revoke(revocation(THIRD, release_number=3))
    assert board.artifact(digest) is None
    board.publish_snapshot(5, THIRD)
    with pytest.raises(RevokedArtifact):
        board.publish_release(30, THIRD, verdict(THIRD, 3))
    assert artifact_digest(THIRD) not in {
        offer.digest for offer in board.offers_since(Seen())[0] if offer.kind != REVOCATION
    }
    assert board.release_number == 2


def test_an_older_release_does_not_take_the_place_of_a_newer_one() -> None:
    board = PolicyBoard()
    board.publish_release(20, SECOND, verdict(SECOND, 2))
    _, seen = board.offers_since(Seen())
    board.publish_release(10, FIRST, verdict(FIRST, 1))
    board.publish_release(20, SECOND, verdict(SECOND, 2))
    assert board.offers_since(seen) == ([], seen)
    assert board.release_number == 2


def test_a_restart_keeps_it_revoked(registry: PolicyRegistry) -> None:
    registry.revoke(revocation(THIRD, release_number=3))
    board = PolicyBoard()
    release = ReleaseKeeper(registry, board).start()
    assert release is not None
    assert release.number == 2
    assert [offer.kind for offer in board.offers_since(Seen())[0]] == [REVOCATION, RELEASE]


def test_a_fallback_that_is_damaged_is_not_offered(registry: PolicyRegistry, tmp_path: Path) -> None:
    board = PolicyBoard()
    keeper = ReleaseKeeper(registry, board)
    keeper.start()
    (tmp_path / "artifacts" / f"{artifact_digest(SECOND).hex()}.safetensors").write_bytes(b"")
    _, left = keeper.revoke(revocation(THIRD, release_number=3))
    assert left is None
    assert board.release_number == 0
