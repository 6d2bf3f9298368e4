"""A learner, or somebody in its place, that helps itself: to a release without a verdict, by hand, by the verdict of
another, and to snapshots whose time is over. The registry, the promotion desk and the actor are real.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from learner.promotion import CandidateResult, PromotionDesk
from policies.artifact import artifact_digest
from policies.distribution import PolicyBoard
from policies.registry import PolicyRegistry
from policies.signing import SigningKey
from policies.testing import SECOND_NS
from policies.trust import TrustPolicy
from protos.common.v1 import common_pb2
from protos.policy.v1 import policy_pb2
from safety.client import SafetyClient
from tests.robustness.gate.reader import ANOTHER, HELD, HELD_NUMBER, OTHER, WAIT_S, Reader, Readers, readers
from tests.robustness.gate.ways import Group, got_through

LEARNER = Group("learner", readers)


class FalseGate(SafetyClient):
    """A safety service that says what it is told to; the learner cannot know it for a false one. No connection."""

    def __init__(self, answer: common_pb2.SignedStatement) -> None:
        self._answer = answer

    def evaluate(
        self,
        artifact: bytes,
        run_id: str,
        version: int,
        timeout_s: float,
        on_progress: Callable[[int, int], None] | None = None,
        *,
        lineage_digest: bytes = b"",
    ) -> common_pb2.SignedStatement:
        return self._answer

    def close(self) -> None:
        return


def promoted(reader: Reader, data: bytes, answer: common_pb2.SignedStatement) -> str:
    """What the promotion desk makes of a safety service's answer; nothing must be released or offered."""
    before, board = reader.registry.releases(), PolicyBoard()
    desk = PromotionDesk(FalseGate(answer), reader.registry, board, reader.trust.run_id, timeout_s=WAIT_S)
    try:
        desk.offer(7, data)
        desk.wait(WAIT_S)
        (result,) = desk.results()
    finally:
        desk.close()
    released = result != CandidateResult(**{**vars(result), "approved": False, "release_number": 0})
    if released or board.release_number or reader.registry.releases() != before:
        got_through(result)
    return f"desk: {result.reason}"


def placed(reader: Reader, number: int, statement: common_pb2.SignedStatement, data: bytes) -> Path:
    """A release put into the registry's directories by hand."""
    (reader.registry_directory / "artifacts" / f"{artifact_digest(data).hex()}.safetensors").write_bytes(data)
    path = reader.registry_directory / "releases" / f"{number:08d}.verdict"
    path.write_bytes(statement.SerializeToString(deterministic=True))
    return path


def not_read(reader: Reader, path: Path) -> str:
    """Why the registry does not give out what was put there by hand, which is taken away again."""
    try:
        listed = reader.refused_by_registry(reader.registry.newest)
        problems = reader.registry.verify()
        if not problems:
            got_through("a registry that verifies")
        return f"registry: {listed}; verify: {problems[0]}"
    finally:
        path.unlink()


@LEARNER.way(r"desk: .*signed by key ''|desk: .*is of type ''")
def promotion_without_a_verdict(scene: Readers) -> str:
    """A learner promotes its candidate on no verdict at all."""
    with scene.reader() as reader:
        by_desk = promoted(reader, OTHER, common_pb2.SignedStatement())
        return f"{by_desk}; {reader.refuse_release(OTHER, common_pb2.SignedStatement())}"


@LEARNER.way(r"desk: the statement is signed by key|desk: .*trusted")
def a_false_safety_service(scene: Readers) -> str:
    """A safety service of the attacker's approves whatever it is offered."""
    with scene.reader() as reader:
        return promoted(reader, OTHER, reader.verdict(OTHER, key=SigningKey.generate()))


@LEARNER.way(r"desk: verdict .* is for artifact")
def promotion_on_another_candidates_verdict(scene: Readers) -> str:
    """A learner promotes a candidate on the genuine verdict of another one."""
    with scene.reader() as reader:
        return promoted(reader, ANOTHER, reader.verdict(OTHER))


@LEARNER.way(r"desk: .*rejects|desk: unsafe")
def promotion_on_a_rejection(scene: Readers) -> str:
    """A learner promotes a candidate on its genuine rejection."""
    with scene.reader() as reader:
        verdict = reader.verdict(OTHER, approved=False, release_number=0, reason="unsafe")
        refused = reader.refused_by_registry(lambda: reader.registry.promote(OTHER, verdict))
        return f"{promoted(reader, OTHER, verdict)}; registry: {refused}"


@LEARNER.way(r"ReplayedStatement: .*actor: replayed$")
def a_number_that_is_taken(scene: Readers) -> str:
    """A second artifact with the number of a release that there is already."""
    with scene.reader() as reader:
        return reader.refuse_release(OTHER, reader.verdict(OTHER, release_number=HELD_NUMBER))


@LEARNER.way(r"RegistryError: .* is not to be trusted: .*verify: ")
def a_release_written_by_hand(scene: Readers) -> str:
    """A file in the registry's releases, with a verdict that a learner has signed itself."""
    with scene.reader() as reader:
        return not_read(reader, placed(reader, 6, reader.verdict(OTHER, key=SigningKey.generate()), OTHER))


@LEARNER.way(r"RegistryError: .*verify: ")
def a_release_that_is_garbage(scene: Readers) -> str:
    """A file in the registry's releases that is no statement."""
    with scene.reader() as reader:
        path = placed(reader, 6, common_pb2.SignedStatement(), OTHER)
        path.write_bytes(b"approved: true")
        return not_read(reader, path)


@LEARNER.way(r"RegistryError: .* holds the verdict of release 5; verify: ")
def a_release_under_a_higher_number(scene: Readers) -> str:
    """The file of an old release copied to a higher number, so that it would be the newest."""
    with scene.reader() as reader:
        return not_read(reader, placed(reader, 8, reader.held_verdict, HELD))


@LEARNER.way(r"RegistryError: .*for run 'another-run'.*verify: ")
def a_release_of_another_run_copied_in(scene: Readers) -> str:
    """A genuine release of another run, copied from its registry."""
    with scene.reader() as reader:
        other = PolicyRegistry(scene.directory / "another", TrustPolicy(reader.key.verify_key, "another-run"))
        other.promote(OTHER, verdict := reader.verdict(OTHER, run_id="another-run"))
        return not_read(reader, placed(reader, 6, verdict, OTHER))


@LEARNER.way(r"RegistryError: artifact .* has changed on disk")
def a_stored_artifact_edited(scene: Readers) -> str:
    """The weights of a genuine release, altered where the registry keeps them."""
    with scene.reader() as reader:
        path = reader.registry_directory / "artifacts" / f"{artifact_digest(HELD).hex()}.safetensors"
        path.write_bytes(HELD[:-1] + bytes([HELD[-1] ^ 1]))
        try:
            if not reader.registry.verify():
                got_through("a registry that verifies")
            return reader.refused_by_registry(lambda: reader.registry.artifact(artifact_digest(HELD)))
        finally:
            path.write_bytes(HELD)


@LEARNER.way(r"RegistryError: .* is not to be trusted")
def a_revocation_written_by_hand(scene: Readers) -> str:
    """A file among the registry's revocations, so that an older release would be the newest again."""
    with scene.reader() as reader:
        path = reader.registry_directory / "revocations" / "00000001.revocation"
        path.parent.mkdir(exist_ok=True)
        statement = reader.revocation(HELD, key=SigningKey.generate())
        path.write_bytes(statement.SerializeToString(deterministic=True))
        return not_read(reader, path)


@LEARNER.way(r"RevokedArtifact: ")
def a_revoked_release_promoted_again(scene: Readers) -> str:
    """A learner that was resumed promotes what was revoked meanwhile, on the genuine verdict it kept."""
    with scene.reader() as reader:
        reader.take_release(OTHER, verdict := reader.verdict(OTHER))
        reader.registry.revoke(reader.revocation(OTHER))
        refused = reader.refused_by_registry(lambda: reader.registry.promote(OTHER, verdict))
        newest = reader.registry.newest()
        if newest is None or newest.digest != artifact_digest(HELD):
            got_through(newest)
        return refused


@LEARNER.way(r"actor: forged$")
def a_release_offered_past_the_registry(scene: Readers) -> str:
    """A distribution server that offers weights as a release, without a verdict, to the actor directly."""
    with scene.reader() as reader:
        unsigned = common_pb2.SignedStatement()
        return f"actor: {reader.refuse_offer(policy_pb2.PolicyOffer.KIND_RELEASE, OTHER, unsigned)}"


@LEARNER.way(r"actor: forged$")
def unsigned_snapshots(scene: Readers) -> str:
    """A distribution server that goes on offering snapshots while the safety service grants no lease."""
    with scene.reader() as reader:
        return reader.refuse_snapshot(OTHER, common_pb2.SignedStatement())


@LEARNER.way(r"it acts with release 5; actor: expired$")
def stale_snapshots(scene: Readers) -> str:
    """A snapshot whose lease has run out, and another one under the same lease."""
    with scene.reader() as reader:
        reader.take_snapshot(OTHER, lease := reader.lease(1, seconds=10))
        reader.clock.now_ns += 10 * SECOND_NS
        acting = reader.client.current()
        number = 0 if acting is None else acting.release_number
        return f"it acts with release {number}; {reader.refuse_snapshot(ANOTHER, lease)}"


@LEARNER.way(r"actor: altered_artifact$")
def other_weights_under_the_releases_digest(scene: Readers) -> str:
    """A distribution server that sends other weights than those whose digest it offers."""
    with scene.reader() as reader:
        kind = policy_pb2.PolicyOffer.KIND_RELEASE
        return f"actor: {reader.refuse_offer(kind, ANOTHER, reader.verdict(OTHER), artifact_digest(OTHER))}"


@LEARNER.way(r"actor: unknown_kind_counted$")
def an_offer_of_a_kind_nobody_knows(scene: Readers) -> str:
    """An offer of a kind that an actor does not know, with weights in it."""
    with scene.reader() as reader:
        before = reader.client.current()
        reader.offer(77, OTHER, reader.verdict(OTHER))
        if reader.client.current() is not before:
            got_through(reader.client.current())
        return "actor: unknown_kind_counted" if reader.client.refused["unknown_offer"] >= 2 else "actor: not counted"
