"""Canaries as a hash of names, as statements, in the registry and on the board: everywhere only once promoted."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from policies.artifact import artifact_digest
from policies.canary import in_share, least_share, unit
from policies.distribution import PolicyBoard, Seen
from policies.promotion import Promotion
from policies.registry import PolicyRegistry, RegistryError
from policies.release_keeper import ReleaseKeeper
from policies.signing import PROMOTION_TYPE, SigningKey, sign
from policies.testing import RUN_ID, make_artifact, signed_promotion, signed_revocation, signed_verdict
from policies.trust import ForgedStatement, RevokedArtifact, TrustPolicy, WrongRun
from protos.common.v1 import common_pb2
from protos.policy.v1 import policy_pb2
from protos.safety.v1 import safety_pb2

KEY = SigningKey.generate()
TRUST = TrustPolicy(KEY.verify_key, RUN_ID)
FIRST, SECOND, THIRD, FOURTH = (make_artifact(seed=seed).to_bytes() for seed in (1, 2, 3, 4))
SHARE = 0.25
INSIDE, OUTSIDE = "actor-0001", "actor-0000"
RELEASE = policy_pb2.PolicyOffer.KIND_RELEASE
PROMOTION = policy_pb2.PolicyOffer.KIND_PROMOTION
REVOCATION = policy_pb2.PolicyOffer.KIND_REVOCATION

Statement = common_pb2.SignedStatement


def verdict(data: bytes, number: int, share: float = 0.0, **fields: Any) -> Statement:
    digest = artifact_digest(data)
    return signed_verdict(KEY, digest, release_number=number, version=10 * number, canary_share=share, **fields)


def promotion(data: bytes, release: int, number: int = 1, **fields: Any) -> Statement:
    return signed_promotion(KEY, artifact_digest(data), promotion_number=number, release_number=release, **fields)


def revocation(data: bytes, release: int, number: int = 1) -> Statement:
    return signed_revocation(KEY, artifact_digest(data), revocation_number=number, release_number=release)


def altered() -> Statement:
    statement = promotion(FIRST, 3)
    statement.payload = statement.payload.replace(artifact_digest(FIRST), artifact_digest(THIRD))
    return statement


FORGERIES: dict[str, tuple[type[Exception], Callable[[], Statement]]] = {
    "another key": (
        ForgedStatement,
        lambda: signed_promotion(SigningKey.generate(), artifact_digest(THIRD), release_number=3),
    ),
    "altered": (ForgedStatement, altered),
    "unsigned": (ForgedStatement, Statement),
    "a verdict": (ForgedStatement, lambda: verdict(THIRD, 3, SHARE)),
    "a revocation": (ForgedStatement, lambda: revocation(THIRD, 3)),
    "no statement": (ForgedStatement, lambda: sign(KEY, PROMOTION_TYPE, b"\xff\xff")),
    "no artifact": (ForgedStatement, lambda: signed_promotion(KEY, b"", release_number=3)),
    "no number": (ForgedStatement, lambda: promotion(THIRD, 3, number=0)),
    "no release": (ForgedStatement, lambda: promotion(THIRD, 0)),
    "another run's": (WrongRun, lambda: promotion(THIRD, 3, run_id="another")),
}


def test_the_place_of_a_name_is_the_same_for_ever() -> None:
    """Known values: actors of different versions, on different hosts, must agree on who is in the share."""
    assert unit("actor-0000") == pytest.approx(0.567751001424567, abs=1e-15)
    assert unit("actor-0001") == pytest.approx(0.01811619069791319, abs=1e-15)
    assert unit("inference") == pytest.approx(0.828215143011988, abs=1e-15)


def test_a_share_includes_about_that_many_names() -> None:
    names = [f"actor-{number:04d}" for number in range(4000)]
    for share in (0.05, 0.5):
        count = sum(in_share(name, share) for name in names)
        error = math.sqrt(len(names) * share * (1 - share))
        assert abs(count - len(names) * share) < 5 * error
    assert not any(in_share(name, 0.0) for name in names)
    assert all(in_share(name, 1.0) for name in names)
    # What is not a number is nobody's share.
    assert not in_share(INSIDE, math.nan)


def test_the_least_share_includes_one_and_no_smaller_one_does() -> None:
    names = ["actor-0000", "actor-0002", "actor-0003"]
    least = least_share(names)
    assert [in_share(name, least) for name in names] == [False, True, False]
    assert not any(in_share(name, math.nextafter(least, 0.0)) for name in names)


@pytest.fixture
def registry(tmp_path: Path) -> PolicyRegistry:
    """Releases 1 and 2, and 3, which is a canary."""
    registry = PolicyRegistry(tmp_path, TRUST)
    registry.promote(FIRST, verdict(FIRST, 1))
    registry.promote(SECOND, verdict(SECOND, 2))
    registry.promote(THIRD, verdict(THIRD, 3, SHARE))
    return registry


def numbers(registry: PolicyRegistry) -> tuple[int, int]:
    """Of the newest release that may act everywhere, and of the canary; 0: none."""
    newest, canary = registry.newest(), registry.canary()
    return 0 if newest is None else newest.number, 0 if canary is None else canary.number


@pytest.mark.parametrize("name", FORGERIES)
def test_what_is_not_signed_for_this_run_promotes_nothing(registry: PolicyRegistry, name: str) -> None:
    kind, make = FORGERIES[name]
    with pytest.raises(kind):
        TRUST.check_promotion(make())
    with pytest.raises(kind):
        registry.promote_canary(make())
    board = PolicyBoard()
    keeper = ReleaseKeeper(registry, board)
    keeper.start()
    (problem,) = keeper.promote([make()])
    assert problem.startswith("a promotion is refused: ")
    assert (numbers(registry), registry.promotions(), board.release_number) == ((2, 3), [], 2)


def test_a_canary_is_not_the_newest_release_until_it_is_promoted(registry: PolicyRegistry, tmp_path: Path) -> None:
    assert numbers(registry) == (2, 3)
    assert [release.promoted for release in registry.releases()] == [True, True, False]
    registry.promote_canary(promotion(THIRD, 3, episodes=60, violating_episodes=2))
    again = PolicyRegistry(tmp_path, TRUST)
    assert numbers(again) == (3, 0)
    *_, release = again.releases()
    assert (release.canary_share, release.promoted) == (SHARE, True)
    assert release.promotion is not None
    assert (release.promotion.number, release.promotion.episodes, release.promotion.violating_episodes) == (1, 60, 2)
    assert again.verify() == []


def test_a_promotion_is_of_one_release_and_of_one_artifact(registry: PolicyRegistry) -> None:
    registry.promote_canary(promotion(THIRD, 2))
    registry.promote_canary(promotion(FOURTH, 3, number=2))
    assert numbers(registry) == (2, 3)


def test_a_promotion_that_comes_before_the_release_counts_when_that_comes(registry: PolicyRegistry) -> None:
    registry.promote_canary(promotion(THIRD, 3))
    registry.promote_canary(promotion(FOURTH, 4, number=2))
    assert registry.promote(FOURTH, verdict(FOURTH, 4, SHARE)).number == 4
    assert numbers(registry) == (4, 0)


def test_a_revoked_canary_is_none_any_more_promoted_or_not(registry: PolicyRegistry) -> None:
    registry.revoke(revocation(THIRD, 3))
    assert numbers(registry) == (2, 0)
    registry.promote_canary(promotion(THIRD, 3))
    assert numbers(registry) == (2, 0)


def test_a_newer_release_for_everywhere_ends_a_canary(registry: PolicyRegistry) -> None:
    registry.promote(FOURTH, verdict(FOURTH, 4))
    assert numbers(registry) == (4, 0)


def test_the_same_again_changes_nothing_and_another_of_its_number_is_an_error(
    registry: PolicyRegistry, tmp_path: Path
) -> None:
    registry.promote_canary(promotion(THIRD, 3))
    content = (tmp_path / "promotions" / "00000001.promotion").read_bytes()
    registry.promote_canary(promotion(THIRD, 3, why="told otherwise"))
    assert (tmp_path / "promotions" / "00000001.promotion").read_bytes() == content
    with pytest.raises(RegistryError, match=r"promotion .* has been set back"):
        registry.promote_canary(promotion(FOURTH, 4))


def test_a_promotion_is_verified_at_every_read(registry: PolicyRegistry, tmp_path: Path) -> None:
    registry.promote_canary(promotion(THIRD, 3))
    path = tmp_path / "promotions" / "00000001.promotion"
    whole = path.read_bytes()
    for content in (whole[:-1], b"", promotion(THIRD, 3, number=2).SerializeToString()):
        path.write_bytes(content)
        for read in (registry.newest, registry.canary, registry.releases, registry.promotions):
            with pytest.raises(RegistryError, match="00000001"):
                read()
        assert len(registry.verify()) == 1
    path.write_bytes(whole)
    assert numbers(registry) == (3, 0)


def kinds(offers: list[policy_pb2.PolicyOffer]) -> list[tuple[int, int]]:
    """The kind of each offer, and the number of the release that it is about."""
    statements = {
        RELEASE: safety_pb2.VerdictStatement,
        PROMOTION: safety_pb2.PromotionStatement,
        REVOCATION: safety_pb2.RevocationStatement,
    }
    said: list[tuple[int, int]] = []
    for offer in offers:
        statement = statements[offer.kind]()
        statement.ParseFromString(offer.authority.payload)
        said.append((offer.kind, statement.release_number))
    return said


@pytest.fixture
def board(registry: PolicyRegistry) -> PolicyBoard:
    board = PolicyBoard()
    newest = ReleaseKeeper(registry, board).start()
    assert newest is not None
    assert newest.number == 2
    return board


def published(signed: Statement) -> Promotion:
    return Promotion.verified(signed, TRUST)


def test_the_board_offers_the_release_and_the_canary_and_then_what_becomes_of_it(board: PolicyBoard) -> None:
    offers, seen = board.offers_since(Seen())
    assert kinds(offers) == [(RELEASE, 2), (RELEASE, 3)]
    assert (board.release_number, board.canary_number) == (2, 3)
    assert board.publish_promotion(published(promotion(THIRD, 3)))
    offers, seen = board.offers_since(seen)
    assert kinds(offers) == [(PROMOTION, 3), (RELEASE, 3)]
    assert (board.release_number, board.canary_number) == (3, 0)
    assert not board.publish_promotion(published(promotion(THIRD, 3)))
    assert board.offers_since(seen) == ([], seen)
    # One that comes later is told the same, and no more than that.
    assert kinds(board.offers_since(Seen())[0]) == [(PROMOTION, 3), (RELEASE, 3)]


def test_a_slow_watcher_misses_no_promotion_that_matters(board: PolicyBoard) -> None:
    _, seen = board.offers_since(Seen())
    board.publish_promotion(published(promotion(THIRD, 3)))
    board.publish_release(40, FOURTH, verdict(FOURTH, 4, SHARE))
    assert kinds(board.offers_since(seen)[0]) == [(PROMOTION, 3), (RELEASE, 3), (RELEASE, 4)]
    board.publish_promotion(published(promotion(FOURTH, 4, number=2)))
    assert kinds(board.offers_since(seen)[0]) == [(PROMOTION, 4), (RELEASE, 4)]


def test_the_release_that_is_left_comes_with_its_promotion(registry: PolicyRegistry, board: PolicyBoard) -> None:
    keeper = ReleaseKeeper(registry, board)
    assert keeper.promote([promotion(THIRD, 3)]) == []
    assert keeper.offered is not None
    assert keeper.offered.number == 3
    registry.promote(FOURTH, verdict(FOURTH, 4))
    board.publish_release(40, FOURTH, verdict(FOURTH, 4))
    _, seen = board.offers_since(Seen())
    keeper.revoke(revocation(FOURTH, 4))
    assert kinds(board.offers_since(seen)[0]) == [(REVOCATION, 4), (PROMOTION, 3), (RELEASE, 3)]


def test_a_promotion_for_another_artifact_or_number_moves_nothing(board: PolicyBoard) -> None:
    for number, signed in enumerate((promotion(FOURTH, 3), promotion(THIRD, 4)), 1):
        assert board.publish_promotion(published(signed)), number
    assert (board.release_number, board.canary_number) == (2, 3)


def test_a_promotion_is_remembered_for_a_release_that_is_still_on_its_way(board: PolicyBoard) -> None:
    board.publish_promotion(published(promotion(FOURTH, 4)))
    board.publish_release(40, FOURTH, verdict(FOURTH, 4, SHARE))
    assert (board.release_number, board.canary_number) == (4, 0)


def test_a_revoked_canary_is_offered_no_more_whatever_promotes_it(registry: PolicyRegistry, board: PolicyBoard) -> None:
    _, seen = board.offers_since(Seen())
    keeper = ReleaseKeeper(registry, board)
    keeper.revoke(revocation(THIRD, 3))
    assert keeper.promote([promotion(THIRD, 3)]) == []
    assert not board.publish_promotion(published(promotion(THIRD, 3)))
    assert kinds(board.offers_since(seen)[0]) == [(REVOCATION, 3)]
    assert board.artifact(artifact_digest(THIRD)) is None
    with pytest.raises(RevokedArtifact):
        board.publish_release(30, THIRD, verdict(THIRD, 3, SHARE))
    assert (board.release_number, board.canary_number) == (2, 0)


def test_an_older_canary_takes_the_place_of_nothing(board: PolicyBoard) -> None:
    board.publish_release(40, FOURTH, verdict(FOURTH, 4, SHARE))
    _, seen = board.offers_since(Seen())
    board.publish_release(30, THIRD, verdict(THIRD, 3, SHARE))
    board.publish_release(10, FIRST, verdict(FIRST, 1, SHARE))
    board.publish_release(40, FOURTH, verdict(FOURTH, 4, SHARE))
    assert board.offers_since(seen) == ([], seen)
    assert (board.release_number, board.canary_number) == (2, 4)


def test_a_restarted_keeper_offers_the_same(registry: PolicyRegistry) -> None:
    registry.promote_canary(promotion(THIRD, 3))
    registry.promote(FOURTH, verdict(FOURTH, 4, SHARE))
    board = PolicyBoard()
    keeper = ReleaseKeeper(registry, board)
    keeper.start()
    assert kinds(board.offers_since(Seen())[0]) == [(PROMOTION, 3), (RELEASE, 3), (RELEASE, 4)]
    assert keeper.canary_number == 4


def test_what_cannot_be_stored_is_no_promotion_yet(registry: PolicyRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    board = PolicyBoard()
    keeper = ReleaseKeeper(registry, board)
    keeper.start()
    with monkeypatch.context() as patched:
        patched.setattr("policies.registry.replace_file", fail)
        (problem,) = keeper.promote([promotion(THIRD, 3)])
        assert "the promotion of release 3 is not in effect yet: promotion " in problem
        assert "No space left" in problem
        assert (board.release_number, board.canary_number) == (2, 3)
    assert keeper.promote([promotion(THIRD, 3)]) == []
    assert (board.release_number, board.canary_number) == (3, 0)
