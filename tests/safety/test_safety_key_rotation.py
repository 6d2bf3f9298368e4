"""New keys in the place of old ones: what they sign, what becomes of the old ones; a process killed at every step."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from policies.artifact import artifact_digest
from policies.signing import LEASE_TYPE, REVOCATION_TYPE, VERDICT_TYPE, SigningKey, VerifyKey, sign
from policies.trust import ForgedStatement, TrustPolicy
from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2
from safety.audit import audit_ledger
from safety.docket import Docket
from safety.history import REVOCATION, DecisionHistory
from safety.key_rotation import RotationRefused, rotate
from safety.keys.custody import CustodyError
from safety.keys.history import KEY, VERDICT_KEYS_MAX
from safety.ledger import Ledger, LedgerError, LedgerInUse, read_ledger
from safety.revocations import revocation_fields
from safety.testing import balancing_artifact, cartpole_artifact, record_made_up
from tests.safety import rotation_process
from tests.safety.safety_process import RUN, own_process

PRIVATE = ("verdict_key.pem", "lease_key.pem")


class Place:
    """A safety directory, its keys, and what may be done there."""

    def __init__(self, root: Path) -> None:
        self.safety, self.keys = root / "safety", root / "keys"

    @property
    def trust(self) -> TrustPolicy:
        return TrustPolicy(VerifyKey.load(self.safety / "verify_key.pem"), RUN)

    def trust_in(self, number: int) -> TrustPolicy:
        return TrustPolicy(VerifyKey.load(self.safety / f"verify_key.{number}.pem"), RUN)

    def docket(self) -> contextlib.closing[Docket]:
        return contextlib.closing(Docket(self.safety, RUN, keys=self.keys))

    def release(self, artifact: bytes) -> common_pb2.SignedStatement:
        with self.docket() as docket:
            return record_made_up(docket, RUN, 1, artifact)

    def revoke(self, number: int) -> common_pb2.SignedStatement:
        with self.docket() as docket:
            return docket.revoke(RUN, number, "poisoned")

    def lease(self, number: int = 1) -> common_pb2.SignedStatement:
        with self.docket() as docket:
            lease = safety_pb2.LeaseStatement(run_id=RUN, lease_number=number, expiry_time_ns=2**62)
            return docket.custody.sign(LEASE_TYPE, lease.SerializeToString())

    def rotate(self, purpose: str = "verdict") -> None:
        rotate(self.safety, RUN, purpose, "as every year", keys=self.keys)

    def private(self) -> list[bytes]:
        """Every private key that lies there, by its raw public half."""
        return [SigningKey.load(path).verify_key.raw for path in sorted(self.keys.glob("*.pem"))]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """With one release."""
    place = Place(tmp_path)
    place.safety.mkdir()
    place.release(b"first")
    return place


def accepts(trust: TrustPolicy, signed: common_pb2.SignedStatement, artifact: bytes) -> bool:
    try:
        trust.check_release(signed, artifact_digest(artifact))
    except ForgedStatement:
        return False
    return True


def test_new_statements_carry_how_their_key_follows_from_the_first(place: Place) -> None:
    before = place.release(b"second")
    old = place.private()
    place.rotate()
    place.rotate()
    assert not set(place.private()) & set(old)
    assert len(place.private()) == len(PRIVATE)
    after, revocation, lease = place.release(b"third"), place.revoke(1), place.lease()
    assert [len(signed.certificates) for signed in (before, after, revocation, lease)] == [0, 2, 2, 3]
    assert accepts(place.trust, before, b"second")
    assert place.trust.check_release(after, artifact_digest(b"third")).release_number == 3
    assert place.trust.check_revocation(revocation).release_number == 1
    assert place.trust.check_lease(lease).lease_number == 1


def test_a_lease_key_alone_is_replaced_alone(place: Place) -> None:
    lease_key, verdict_key = place.private()
    place.rotate("lease")
    new_lease_key, same_verdict_key = place.private()
    assert (new_lease_key != lease_key, same_verdict_key) == (True, verdict_key)
    assert len(place.lease().certificates) == 1
    assert place.trust.check_lease(place.lease()).lease_number == 1
    assert not (place.safety / "verify_key.2.pem").exists()


def test_who_is_given_the_new_key_believes_nothing_of_the_old_one(place: Place) -> None:
    """A stolen old key signs for ever for whoever trusts it: that is what the new anchor is for."""
    stolen = SigningKey.load(place.keys / "verdict_key.pem")
    stolen_lease = place.lease()
    before = place.release(b"second")
    place.rotate()
    after, lease = place.release(b"third"), place.lease()
    payload = safety_pb2.VerdictStatement.FromString(before.payload)
    payload.artifact_digest, payload.release_number = artifact_digest(b"evil"), 9
    by_thief = sign(stolen, VERDICT_TYPE, payload.SerializeToString(deterministic=True))
    in_disguise = sign(stolen, VERDICT_TYPE, by_thief.payload, after.certificates)
    assert place.trust_in(1).verify_key == place.trust.verify_key
    assert accepts(place.trust, by_thief, b"evil")
    newer = place.trust_in(2)
    assert accepts(newer, after, b"third")
    assert newer.check_lease(lease)
    assert not accepts(newer, by_thief, b"evil")
    assert not accepts(newer, in_disguise, b"evil")
    assert not accepts(newer, before, b"second")
    with pytest.raises(ForgedStatement):
        newer.check_lease(stolen_lease)
    place.rotate()
    assert accepts(newer, place.release(b"fourth"), b"fourth")
    assert newer.check_lease(place.lease())


def test_the_ledger_takes_nothing_of_an_outgoing_key(place: Place) -> None:
    outgoing = SigningKey.load(place.keys / "verdict_key.pem")
    anchor = outgoing.verify_key
    place.rotate()

    def by_outgoing(previous: bytes) -> dict[str, object]:
        statement = safety_pb2.RevocationStatement(
            run_id=RUN,
            revocation_number=1,
            release_number=1,
            artifact_digest=artifact_digest(b"first"),
            why="I can still sign",
            previous_entry_digest=previous,
        )
        signed = sign(outgoing, REVOCATION_TYPE, statement.SerializeToString(deterministic=True))
        return dict(revocation_fields(signed, statement))

    DecisionHistory(read_ledger(place.safety), anchor, RUN)
    ledger = Ledger(place.safety)
    ledger.append(REVOCATION, by_outgoing)
    ledger.close()
    with pytest.raises(LedgerError, match=r"entry 4 holds no revocation signed by .* do not lead to the verdict key"):
        DecisionHistory(read_ledger(place.safety), anchor, RUN)
    with pytest.raises(LedgerError, match="entry 4"):
        place.release(b"second")


def test_an_audit_names_the_keys(place: Place) -> None:
    place.rotate()
    place.rotate("lease")
    place.release(b"second")
    audit = audit_ledger(read_ledger(place.safety), place.trust.verify_key, RUN)
    said = [(each.purpose, each.entry) for each in audit.keys]
    assert said == [("verdict", 0), ("lease", 0), ("verdict", 3), ("lease", 3), ("lease", 4)]
    assert audit.approved == 2
    assert [place.trust_in(number).verify_key for number in (1, 2)] == [audit.keys[0].key, audit.keys[2].key]


@pytest.mark.parametrize(
    "change",
    [
        {"verdict_key": "0" * 16},
        {"lease_key": "0" * 16},
        {"purpose": "lease"},
        {"purpose": "any"},
        {"statements": []},
        {"statements": ["AAAA", "AAAA"]},
        {"why": 7},
        {"note": "added"},
    ],
)
def test_a_rotation_that_is_not_what_it_says_is_refused(place: Place, change: dict[str, object]) -> None:
    place.rotate()
    entries = read_ledger(place.safety)
    fields = dict(entries[-1].fields) | change
    altered = [*entries[:-1], entries[-1].__class__(3, entries[2].digest, KEY, 1, fields, bytes(32))]
    with pytest.raises(LedgerError, match=r"entry 3 does not name keys for which key [0-9a-f]{16} vouches"):
        DecisionHistory(altered, place.trust.verify_key, RUN)


def test_a_strangers_rotation_and_one_played_back_are_refused(place: Place) -> None:
    place.rotate()
    entries = read_ledger(place.safety)
    again = entries[-1].__class__(4, entries[-1].digest, KEY, 1, entries[-1].fields, bytes(32))
    with pytest.raises(LedgerError, match="entry 4 does not name keys"):
        DecisionHistory([*entries, again], place.trust.verify_key, RUN)
    lease_only = entries[-1].fields["statements"][1]
    genuine = common_pb2.SignedStatement.FromString(base64.b64decode(lease_only))
    fields = {
        "purpose": "lease",
        "verdict_key": genuine.key_id,
        "lease_key": entries[-1].fields["lease_key"],
        "statements": [lease_only],
        "why": "again",
    }
    again = entries[-1].__class__(4, entries[-1].digest, KEY, 1, fields, bytes(32))
    with pytest.raises(LedgerError, match="1 of its keys are no new ones"):
        DecisionHistory([*entries, again], place.trust.verify_key, RUN)


def test_a_public_key_that_somebody_replaced_is_refused(place: Place) -> None:
    place.rotate()
    for name in ("verify_key.pem", "verify_key.2.pem"):
        kept = VerifyKey.load(place.safety / name)
        SigningKey.generate().verify_key.save(place.safety / name)
        with pytest.raises(CustodyError, match=f"{name} is not the public half"):
            place.release(b"second")
        kept.save(place.safety / name)
    (place.safety / "verify_key.2.pem").unlink()
    place.release(b"second")
    assert place.trust_in(2).verify_key == kept


@pytest.mark.parametrize(
    ("purpose", "why", "message"),
    [("verdict", " ", "why has 0 characters"), ("lease", "x" * 1001, "why has 1001"), ("any", "x", "purpose is 'any'")],
)
def test_what_makes_no_sense_changes_nothing(place: Place, purpose: str, why: str, message: str) -> None:
    before = place.private()
    with pytest.raises(RotationRefused, match=message):
        rotate(place.safety, RUN, purpose, why, keys=place.keys)
    assert place.private() == before
    assert len(read_ledger(place.safety)) == 3


def test_there_are_only_so_many_verdict_keys(place: Place) -> None:
    for _ in range(VERDICT_KEYS_MAX - 1):
        place.rotate()
    with pytest.raises(RotationRefused, match="has had 16 verdict keys"):
        place.rotate()
    place.rotate("lease")
    assert accepts(place.trust, place.release(b"second"), b"second")
    assert len(place.lease().certificates) == 16
    assert place.trust.check_lease(place.lease())


def test_a_full_disk_changes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    before = place.private()

    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("policies.durable.os.fsync", fail)
    with pytest.raises((CustodyError, LedgerError), match="No space left"):
        place.rotate()
    monkeypatch.undo()
    place.release(b"second")
    assert place.private() == before
    place.rotate()


@pytest.mark.robustness
@pytest.mark.parametrize("purpose", ["verdict", "lease"])
def test_killed_at_any_step_it_has_happened_or_it_has_not(place: Place, tmp_path: Path, purpose: str) -> None:
    copies = tmp_path / "copies"
    for step in range(45):
        shutil.copytree(place.safety, copies / str(step) / "safety")
        shutil.copytree(place.keys, copies / str(step) / "keys")
    done = subprocess.run(
        [sys.executable, str(Path(rotation_process.__file__)), str(copies), purpose],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    whole = {int(line.split()[1]) for line in done.stdout.splitlines()}
    old, came_of_it = set(place.private()), {}
    for copy in copies.iterdir():
        killed = Place(copy)
        after = killed.release(b"second")
        rotated = [entry.kind for entry in read_ledger(killed.safety)].count(KEY)
        came_of_it[int(copy.name)] = rotated
        # Two private keys, those that the ledger names; of the others none is left.
        assert len(killed.private()) == len(PRIVATE)
        kept = set(killed.private()) & old
        assert len(kept) == (2 if not rotated else 1 if purpose == "lease" else 0)
        assert sorted(path.name for path in killed.keys.iterdir()) == sorted([*PRIVATE, "evaluation_secret", "run"])
        assert accepts(killed.trust, after, b"second")
        assert killed.trust.check_lease(killed.lease())
        assert audit_ledger(read_ledger(killed.safety), killed.trust.verify_key, RUN).approved == 2
        assert (killed.safety / "verify_key.2.pem").exists() == (rotated == 1 and purpose == "verdict")
    # It was killed before it was done, after it, and not at all.
    assert 0 < len(whole) < len(came_of_it)
    assert {came_of_it[step] for step in whole} == {1}
    assert {came_of_it[step] for step in came_of_it.keys() - whole} == {0, 1}


def test_a_service_goes_on_with_the_new_keys(socket_directory: Path) -> None:
    """Real processes: one that is running cannot be rotated under; the next signs with the new keys."""
    directory = socket_directory / "safety"
    first, second = balancing_artifact().to_bytes(), cartpole_artifact((0.1, 0.2, 3.0, 1.0)).to_bytes()
    with own_process(socket_directory) as (_, client):
        before, lease = client.evaluate(first, RUN, 1, 60.0), client.renew_lease(RUN)
        with pytest.raises(LedgerInUse, match="stop it first"):
            rotate(directory, RUN, "verdict", "as every year")
    rotate(directory, RUN, "verdict", "as every year")
    trust, newer = (TrustPolicy(VerifyKey.load(directory / f"verify_key.{number}.pem"), RUN) for number in (1, 2))
    with own_process(socket_directory) as (_, client):
        assert client.trust().public_key == trust.verify_key.raw
        after, newer_lease = client.evaluate(second, RUN, 1, 60.0), client.renew_lease(RUN)
    number = trust.check_lease(lease).lease_number
    assert trust.check_lease(newer_lease, number).lease_number > number
    assert newer.check_lease(newer_lease)
    assert accepts(trust, before, first)
    assert accepts(trust, after, second)
    assert accepts(newer, after, second)
    assert not accepts(newer, before, first)


def test_threads_sign_while_others_verify(place: Place) -> None:
    """A trust is shared by all threads of an actor."""
    place.rotate()
    trust, leases, failures = place.trust, [place.lease(number) for number in range(1, 4)], []

    def check() -> None:
        try:
            for lease in leases * 20:
                trust.check_lease(lease)
        except ForgedStatement as error:
            failures.append(error)

    threads = [threading.Thread(target=check) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
