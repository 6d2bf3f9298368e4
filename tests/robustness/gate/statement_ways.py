"""Statements that are not what they are shown for: forged, altered, expired, replayed, swapped, of another kind or run.

Each is shown to a real registry and, through a real distribution server that offers whatever it is told to, to a real
actor's policy client.
"""

from __future__ import annotations

import numpy as np

from policies.artifact import artifact_digest
from policies.signing import LEASE_TYPE, VERDICT_TYPE, SigningKey, sign
from policies.testing import SECOND_NS, make_artifact, make_spec
from policies.trust import CLOCK_SKEW_NS_MAX
from protos.common.v1 import common_pb2
from protos.policy.v1 import policy_pb2
from protos.safety.v1 import safety_pb2
from tests.robustness.gate.reader import ANOTHER, HELD, HELD_NUMBER, OTHER, Readers, readers
from tests.robustness.gate.ways import Group

STATEMENTS = Group("statements", readers)

FORGED = r"registry: ForgedStatement: .*actor: forged$"


def _flipped(data: bytes, at: int = -1) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


@STATEMENTS.way(FORGED)
def verdict_of_a_stranger(scene: Readers) -> str:
    """A verdict signed by a key of the attacker's own."""
    with scene.reader() as reader:
        return reader.refuse_release(OTHER, reader.verdict(OTHER, key=SigningKey.generate()))


@STATEMENTS.way(FORGED)
def stranger_in_the_name_of_the_trusted_key(scene: Readers) -> str:
    """The same, with the key id of the trusted key written over it."""
    with scene.reader() as reader:
        verdict = reader.verdict(OTHER, key=SigningKey.generate())
        verdict.key_id = reader.key.verify_key.key_id
        return reader.refuse_release(OTHER, verdict)


@STATEMENTS.way(FORGED)
def unknown_key_id(scene: Readers) -> str:
    """A genuine verdict that names a key nobody knows."""
    with scene.reader() as reader:
        verdict = reader.verdict(OTHER)
        verdict.key_id = "0" * 16
        return reader.refuse_release(OTHER, verdict)


@STATEMENTS.way(FORGED)
def one_byte_of_the_payload_altered(scene: Readers) -> str:
    """A genuine verdict with one bit of its last byte turned over."""
    with scene.reader() as reader:
        verdict = reader.verdict(OTHER)
        verdict.payload = _flipped(verdict.payload)
        return reader.refuse_release(OTHER, verdict)


@STATEMENTS.way(FORGED)
def one_byte_of_the_signature_altered(scene: Readers) -> str:
    """A genuine verdict with one bit of its signature turned over."""
    with scene.reader() as reader:
        verdict = reader.verdict(OTHER)
        verdict.signature = _flipped(verdict.signature, 10)
        return reader.refuse_release(OTHER, verdict)


@STATEMENTS.way(FORGED)
def no_statement_at_all(scene: Readers) -> str:
    """A release without any verdict."""
    with scene.reader() as reader:
        return reader.refuse_release(OTHER, common_pb2.SignedStatement())


@STATEMENTS.way(FORGED)
def signature_taken_away(scene: Readers) -> str:
    """A genuine verdict without its signature."""
    with scene.reader() as reader:
        verdict = reader.verdict(OTHER)
        verdict.signature = b""
        return reader.refuse_release(OTHER, verdict)


@STATEMENTS.way(FORGED)
def truncated_statement(scene: Readers) -> str:
    """A genuine verdict whose second half is cut off."""
    with scene.reader() as reader:
        verdict = reader.verdict(OTHER)
        verdict.payload = verdict.payload[: len(verdict.payload) // 2]
        return reader.refuse_release(OTHER, verdict)


@STATEMENTS.way(FORGED)
def fields_appended_to_the_payload(scene: Readers) -> str:
    """A genuine rejection with an approval appended, which wins where a field comes twice."""
    with scene.reader() as reader:
        verdict = reader.verdict(OTHER, approved=False, release_number=0, reason="too many violations")
        verdict.payload += safety_pb2.VerdictStatement(approved=True, release_number=6).SerializeToString()
        return reader.refuse_release(OTHER, verdict)


@STATEMENTS.way(FORGED)
def rejection_altered_to_an_approval(scene: Readers) -> str:
    """An approval under the genuine signature of a rejection."""
    with scene.reader() as reader:
        verdict = reader.verdict(OTHER)
        verdict.signature = reader.verdict(OTHER, approved=False, release_number=0).signature
        return reader.refuse_release(OTHER, verdict)


@STATEMENTS.way(r"NotApproved: .*actor: not_approved$")
def rejection_shown_as_an_approval(scene: Readers) -> str:
    """The genuine verdict of a candidate that was rejected."""
    with scene.reader() as reader:
        return reader.refuse_release(OTHER, reader.verdict(OTHER, approved=False, release_number=0, reason="unsafe"))


@STATEMENTS.way(r"NotApproved: .*actor: not_approved$")
def rejection_with_a_release_number(scene: Readers) -> str:
    """A rejection that carries the number of a release all the same."""
    with scene.reader() as reader:
        return reader.refuse_release(OTHER, reader.verdict(OTHER, approved=False))


@STATEMENTS.way(r"NotApproved: .*actor: not_approved$")
def approval_without_a_number(scene: Readers) -> str:
    """An approval that makes no release, and so cannot be put in an order."""
    with scene.reader() as reader:
        return reader.refuse_release(OTHER, reader.verdict(OTHER, release_number=0))


@STATEMENTS.way(r"ExpiredStatement: the verdict expired .*actor: expired$")
def expired_verdict(scene: Readers) -> str:
    """A genuine verdict, a nanosecond after its time."""
    with scene.reader() as reader:
        return reader.refuse_release(OTHER, reader.verdict(OTHER, expiry_time_ns=reader.clock.now_ns))


@STATEMENTS.way(r"ExpiredStatement: the verdict is issued .* in the future.*actor: expired$")
def verdict_from_the_future(scene: Readers) -> str:
    """A verdict issued further in the future than two clocks may differ, as where a reader's clock was set back."""
    with scene.reader() as reader:
        issued = reader.clock.now_ns + CLOCK_SKEW_NS_MAX + 1
        return reader.refuse_release(
            OTHER, reader.verdict(OTHER, issue_time_ns=issued, expiry_time_ns=issued + SECOND_NS)
        )


@STATEMENTS.way(r"WrongRun: .*actor: wrong_run$")
def verdict_of_another_run(scene: Readers) -> str:
    """A genuine verdict, signed by the same key for another training run."""
    with scene.reader() as reader:
        return reader.refuse_release(OTHER, reader.verdict(OTHER, run_id="another-run"))


@STATEMENTS.way(r"WrongArtifact: .*actor: wrong_artifact$")
def swapped_artifact(scene: Readers) -> str:
    """A genuine verdict shown with another artifact than the one it approves."""
    with scene.reader() as reader:
        return reader.refuse_release(ANOTHER, reader.verdict(OTHER))


@STATEMENTS.way(r"WrongArtifact: .*actor: altered_artifact$")
def artifact_with_one_flipped_bit(scene: Readers) -> str:
    """The approved artifact but for one bit of its last parameter, under the digest of the approved one."""
    with scene.reader() as reader:
        return reader.refuse_release(_flipped(OTHER), reader.verdict(OTHER), artifact_digest(OTHER))


@STATEMENTS.way(r"ReplayedStatement: .*actor: replayed$")
def older_release_again(scene: Readers) -> str:
    """A genuine verdict of an earlier release, still valid, after a newer one has been taken."""
    with scene.reader() as reader:
        return reader.refuse_release(OTHER, reader.verdict(OTHER, release_number=HELD_NUMBER - 1))


@STATEMENTS.way(r"ReplayedStatement: .*actor: replayed$")
def same_number_for_another_artifact(scene: Readers) -> str:
    """A second verdict with the number of the release in use, as from a ledger that was set back."""
    with scene.reader() as reader:
        return reader.refuse_release(OTHER, reader.verdict(OTHER, release_number=HELD_NUMBER))


@STATEMENTS.way(FORGED)
def lease_as_a_verdict(scene: Readers) -> str:
    """A genuine lease in the place of the verdict."""
    with scene.reader() as reader:
        return reader.refuse_release(OTHER, reader.lease(1))


@STATEMENTS.way(FORGED)
def lease_relabelled_as_a_verdict(scene: Readers) -> str:
    """The bytes of a verdict, which were signed as those of a lease."""
    with scene.reader() as reader:
        verdict = sign(reader.key, LEASE_TYPE, reader.verdict(OTHER).payload)
        verdict.payload_type = VERDICT_TYPE
        return reader.refuse_release(OTHER, verdict)


@STATEMENTS.way(FORGED)
def revocation_as_a_verdict(scene: Readers) -> str:
    """A genuine revocation in the place of the verdict."""
    with scene.reader() as reader:
        return reader.refuse_release(OTHER, reader.revocation(OTHER))


@STATEMENTS.way(r"RevokedArtifact: .*actor: revoked$")
def revoked_release_again(scene: Readers) -> str:
    """The genuine, unexpired verdict of a release that has been revoked."""
    with scene.reader() as reader:
        reader.take_release(OTHER, verdict := reader.verdict(OTHER))
        reader.revoke(OTHER)
        return reader.refuse_release(OTHER, verdict)


@STATEMENTS.way(r"RevokedArtifact: .*actor: revoked$")
def revoked_artifact_under_a_new_number(scene: Readers) -> str:
    """An artifact that was revoked, with a newer verdict that approves it."""
    with scene.reader() as reader:
        reader.take_release(OTHER, reader.verdict(OTHER))
        reader.revoke(OTHER)
        return reader.refuse_release(OTHER, reader.verdict(OTHER, release_number=7))


@STATEMENTS.way(r"actor: revoked$")
def revoked_weights_as_a_snapshot(scene: Readers) -> str:
    """The weights of a revoked release, offered as a snapshot under a good lease."""
    with scene.reader() as reader:
        reader.take_release(OTHER, reader.verdict(OTHER))
        reader.revoke(OTHER)
        return reader.refuse_snapshot(OTHER, reader.lease(1))


@STATEMENTS.way(r"ForgedStatement: .*actor: forged$")
def forged_revocation(scene: Readers) -> str:
    """A stranger takes the release in use back, so that an older one would act."""
    with scene.reader() as reader:
        revocation = reader.revocation(HELD, key=SigningKey.generate())
        refused = reader.refused_by_registry(lambda: reader.registry.revoke(revocation))
        kind = policy_pb2.PolicyOffer.KIND_REVOCATION
        return f"registry: {refused}; actor: {reader.refuse_offer(kind, b'', revocation)}"


@STATEMENTS.way(r"NotFiniteError: .*actor: not_finite$")
def approved_but_nan(scene: Readers) -> str:
    """An artifact with a NaN parameter, under a genuine approval."""
    with scene.reader() as reader:
        artifact = make_artifact(seed=9)
        artifact.parameters["value/kernel"][0] = np.nan
        return reader.refuse_release(artifact.to_bytes(), reader.verdict(artifact.to_bytes()))


@STATEMENTS.way(r"ArtifactError: .*actor: malformed_artifact$")
def approved_pickle(scene: Readers) -> str:
    """A pickle that would run a command, under a genuine approval."""
    with scene.reader() as reader:
        pickled = b"cos\nsystem\n(S'touch pickled'\ntR."
        return reader.refuse_release(pickled, reader.verdict(pickled))


@STATEMENTS.way(r"actor: wrong_spec$")
def approved_for_another_environment(scene: Readers) -> str:
    """A genuine release whose policy has more actions than the actor's environment knows."""
    with scene.reader() as reader:
        data = make_artifact(make_spec(choices=3)).to_bytes()
        kind = policy_pb2.PolicyOffer.KIND_RELEASE
        return f"actor: {reader.refuse_offer(kind, data, reader.verdict(data))}"


@STATEMENTS.way(r"actor: forged$")
def snapshot_without_a_lease(scene: Readers) -> str:
    """Fresh weights without anybody's signature."""
    with scene.reader() as reader:
        return reader.refuse_snapshot(OTHER, common_pb2.SignedStatement())


@STATEMENTS.way(r"actor: forged$")
def verdict_as_a_lease(scene: Readers) -> str:
    """A snapshot under the genuine verdict of a release, which lives for days and not for seconds."""
    with scene.reader() as reader:
        return reader.refuse_snapshot(OTHER, reader.held_verdict)


@STATEMENTS.way(r"actor: forged$")
def lease_of_a_stranger(scene: Readers) -> str:
    """A snapshot under a lease that the attacker has signed."""
    with scene.reader() as reader:
        return reader.refuse_snapshot(OTHER, reader.lease(1, key=SigningKey.generate()))


@STATEMENTS.way(r"actor: wrong_run$")
def lease_of_another_run(scene: Readers) -> str:
    """A snapshot under a genuine lease of another run."""
    with scene.reader() as reader:
        return reader.refuse_snapshot(OTHER, reader.lease(1, run_id="another-run"))


@STATEMENTS.way(r"actor: expired$")
def expired_lease(scene: Readers) -> str:
    """A snapshot under a lease whose time is over."""
    with scene.reader() as reader:
        return reader.refuse_snapshot(OTHER, reader.lease(1, seconds=0))


@STATEMENTS.way(r"actor: expired$")
def lease_from_the_future(scene: Readers) -> str:
    """A lease kept for later: issued further in the future than two clocks may differ."""
    with scene.reader() as reader:
        return reader.refuse_snapshot(
            OTHER, reader.lease(1, issue_time_ns=reader.clock.now_ns + CLOCK_SKEW_NS_MAX + SECOND_NS)
        )


@STATEMENTS.way(r"actor: replayed$")
def older_lease_after_a_newer_one(scene: Readers) -> str:
    """A lease that lives longer than the newest one, which was made shorter for a reason."""
    with scene.reader() as reader:
        older = reader.lease(1, seconds=600)
        reader.take_snapshot(OTHER, reader.lease(2, seconds=60))
        return reader.refuse_snapshot(ANOTHER, older)


@STATEMENTS.way(r"actor: forged; it acts with release 5 after the end of its lease$")
def lease_prolonged_by_hand(scene: Readers) -> str:
    """A genuine lease whose expiry has been set to next year; then the true end of it comes."""
    with scene.reader() as reader:
        reader.take_snapshot(OTHER, genuine := reader.lease(1, seconds=60))
        lease = safety_pb2.LeaseStatement.FromString(genuine.payload)
        lease.expiry_time_ns += 365 * 86_400 * SECOND_NS
        genuine.payload = lease.SerializeToString(deterministic=True)
        refused = reader.refuse_snapshot(ANOTHER, genuine)
        reader.clock.now_ns += 61 * SECOND_NS
        acting = reader.client.current()
        number = 0 if acting is None else acting.release_number
        return f"{refused}; it acts with release {number} after the end of its lease"
