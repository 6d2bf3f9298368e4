"""What the safety service alone holds. In its own directory: the incumbent's artifact and those of the releases before
it, the highest lease number it may have used, and its public keys. Apart from that, in the key directory
(safety.keys.directory): the private keys, and the secret of the held-out seeds. It decides nothing.

    verify_key.pem     public half of the first verdict key, for everybody
    verify_key.N.pem   once there were several: that of the Nth, for whoever is to believe no earlier one
    keys_at            where the key directory was last
    incumbents/HEX     artifacts of releases, named by their digests: the newest, and as many before it as have room,
                       for the one before is the incumbent once the newest is revoked
    lease_number       decimal: no lease with a higher number has been granted

What a process that was killed was writing in its directory, .NAME.PID (policies.durable), is removed at the next start.

Which keys sign, the ledger says (safety.keys.history). A rotation is done once it is in the ledger, and undone if it
never came there: whichever it was, the next start sees to the files.

Exceptions: CustodyError where something is missing, damaged, readable by others, or belongs to something else;
LedgerError where the ledger's keys do not follow from each other.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from policies.artifact import artifact_digest
from policies.durable import replace_file
from policies.key_chain import VERDICT_PURPOSE, purpose_of
from policies.signing import KeyFileError, SigningKey, VerifyKey, sign
from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2
from safety.in_toto import sign_in_toto
from safety.keys.directory import PURPOSES, KeyDirectory, default_place, place_of
from safety.keys.history import OPENED, KeyHistory, anchor_of, opening_fields
from safety.ledger import LedgerEntry

INCUMBENTS_BYTES_MAX = 1 << 30
"""Room for the artifacts of releases; that of the newest is kept in any case."""

_LEASE_NUMBERS_RESERVED = 1000
_UNFINISHED = re.compile(r"\..+\.[0-9]+")


class CustodyError(Exception):
    """The safety service's directory does not hold what it must; the message says what to do."""


class Custody:
    """Keys and secret of one safety service; made on its first start, and never again.

    Args:
      directory: the service's directory; the caller holds its ledger, so nobody else is at it.
      run_id: the training run.
      entries: the ledger's. While there are none, keys may be made; `opening` is then to be entered.
      keys: the key directory; None: the one that is meant for the run.

    Raises:
      CustodyError, LedgerError: see there.
    """

    def __init__(self, directory: Path, run_id: str, entries: Sequence[LedgerEntry], keys: Path | None = None) -> None:
        self._directory, self._run_id = directory, run_id
        self._incumbents = directory / "incumbents"
        self._lock = threading.Lock()
        opened = next((entry for entry in entries if entry.kind == OPENED), None)
        if opened is not None and opened.fields.get("run_id") != run_id:
            raise CustodyError(
                f"safety directory {directory} belongs to run {opened.fields.get('run_id')!r}, this is run {run_id!r}"
            )
        if opened is None and self._has_decided():
            raise CustodyError(
                f"safety directory {directory} is for a ledger that is gone: restore it; starting anew would number "
                "and judge releases again under the same key"
            )
        try:
            _remove_unfinished(directory)
            self._incumbents.mkdir(mode=0o700, exist_ok=True)
            # Where no ledger has begun, no key directory belongs to it: what a note there says is nobody's word.
            place = keys or (default_place(run_id) if opened is None else place_of(directory, run_id))
            self.keys = KeyDirectory(place, run_id, directory, None if opened is None else opened.digest)
            anchor = self.keys.key(VERDICT_PURPOSE).verify_key if opened is None else anchor_of(opened)
        except (KeyFileError, OSError) as error:
            raise CustodyError(f"safety directory {directory}: {error}") from error
        self.key_history = KeyHistory(anchor, run_id)
        self._signing: Mapping[str, SigningKey] = {}
        self._lease_number = self._lease_numbers_reserved = self._read_lease_number()
        self._ledger = b""
        for entry in entries:
            self._note(entry)
        if opened is not None:
            self._settle()

    @property
    def secret(self) -> bytes:
        """That the held-out seeds are drawn from (32 bytes)."""
        return self.keys.secret

    @property
    def verify_key(self) -> VerifyKey:
        """The first verdict key's public half: whoever trusts it can verify all that is signed here."""
        return self.key_history.verdict_keys[0]

    def opening(self, now_ns: int) -> Mapping[str, Any]:
        """What the first entry of a new ledger says of keys; `follow` is to be called once it is there."""
        first, lease = (self.keys.key(purpose) for purpose in PURPOSES)
        return opening_fields(first, lease.verify_key, self._run_id, now_ns)

    def follow(self, entry: LedgerEntry) -> None:
        """Takes an entry into account that is new in the ledger, and names keys: they sign from here on.

        Raises:
          CustodyError, LedgerError: they are not here, or not vouched for.
        """
        self._note(entry)
        self._settle()

    def sign(self, payload_type: str, payload: bytes) -> common_pb2.SignedStatement:
        """Signs a serialized statement with the key that is for its type, and says how that key follows from the first.

        Raises:
          CustodyError: the ledger has not been opened.
        """
        purpose = purpose_of(payload_type)
        if purpose not in self._signing:
            raise CustodyError(f"safety directory {self._directory} has no {purpose} key yet: its ledger is not open")
        return sign(self._signing[purpose], payload_type, payload, self.key_history.certificates[purpose])

    def attest(self, verdict: safety_pb2.VerdictStatement) -> str:
        """The signature of a verdict as an in-toto statement, by the verdict key; see `safety.in_toto`."""
        return sign_in_toto(self._signing[VERDICT_PURPOSE], verdict)

    def _has_decided(self) -> bool:
        """Whether there is anything that only an open ledger leads to."""
        traces = [self._directory / name for name in ("verify_key.pem", "lease_number")]
        return any(path.exists() for path in traces) or (self._incumbents.is_dir() and any(self._incumbents.iterdir()))

    def _note(self, entry: LedgerEntry) -> None:
        self.key_history.add(entry)
        if entry.kind == OPENED:
            self._ledger = entry.digest

    def _settle(self) -> None:
        """Brings the files to what the ledger says."""
        try:
            self._signing = {
                purpose: self.keys.settle(purpose, self.key_history.current(purpose)) for purpose in PURPOSES
            }
            self.keys.bind(self._ledger)
            public = self.key_history.verdict_keys
            _publish(self._directory / "verify_key.pem", public[0])
            if len(public) > 1:
                for number, key in enumerate(public, 1):
                    _publish(self._directory / f"verify_key.{number}.pem", key)
        except (KeyFileError, OSError) as error:
            raise CustodyError(f"safety directory {self._directory}: {error}") from error

    def keep_incumbent(self, artifact: bytes) -> None:
        """Stores an artifact, synced to disk, before the verdict that makes it the incumbent. Raises CustodyError."""
        try:
            replace_file(self._incumbents / artifact_digest(artifact).hex(), artifact, 0o600)
        except OSError as error:
            raise CustodyError(f"the candidate cannot be kept in {self._incumbents}: {error.strerror}") from error

    def incumbent(self, digest: bytes) -> bytes:
        """The artifact with this digest. Raises CustodyError where it is missing or damaged."""
        path = self._incumbents / digest.hex()
        try:
            artifact = path.read_bytes()
        except OSError as error:
            raise CustodyError(
                f"{path}, the artifact of the newest release that stands, cannot be read ({error.strerror}): without "
                "it no candidate can be compared; restore it from the policy registry"
            ) from error
        if artifact_digest(artifact) != digest:
            raise CustodyError(
                f"{path}, the artifact of the newest release that stands, is damaged; restore it from the policy "
                "registry"
            )
        return artifact

    def forget_incumbents_except(self, digests: Sequence[bytes]) -> None:
        """Removes the artifacts of all but these, which are newest first, and of those for which there is no room.

        Raises:
          CustodyError: something cannot be removed.
        """
        try:
            self._forget_incumbents_except(digests)
        except OSError as error:
            raise CustodyError(f"old artifacts in {self._incumbents} cannot be removed: {error.strerror}") from error

    def _forget_incumbents_except(self, digests: Sequence[bytes]) -> None:
        sizes = {path.name: path.stat().st_size for path in self._incumbents.iterdir()}
        kept: set[str] = set()
        kept_bytes = 0
        for name in dict.fromkeys(digest.hex() for digest in digests):
            kept_bytes += sizes.get(name, 0)
            if kept and kept_bytes > INCUMBENTS_BYTES_MAX:
                break
            kept.add(name)
        for name in sizes.keys() - kept:
            (self._incumbents / name).unlink()

    def next_lease_number(self) -> int:
        """A number above all those before it, also after a restart (which skips some). Raises CustodyError."""
        with self._lock:
            if self._lease_number == self._lease_numbers_reserved:
                reserved = self._lease_number + _LEASE_NUMBERS_RESERVED
                try:
                    replace_file(self._directory / "lease_number", f"{reserved}\n".encode(), 0o600)
                except OSError as error:
                    raise CustodyError(f"lease numbers cannot be reserved on disk: {error.strerror}") from error
                self._lease_numbers_reserved = reserved
            self._lease_number += 1
            return self._lease_number

    def _read_lease_number(self) -> int:
        path = self._directory / "lease_number"
        try:
            return int(path.read_text())
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as error:
            raise CustodyError(f"{path} holds no lease number: leases could be issued twice") from error


def _remove_unfinished(directory: Path) -> None:
    for path in directory.iterdir():
        if _UNFINISHED.fullmatch(path.name) and path.is_file():
            path.unlink()


def _publish(path: Path, key: VerifyKey) -> None:
    if not path.exists():
        key.save(path)
    elif VerifyKey.load(path).raw != key.raw:
        raise CustodyError(f"{path} is not the public half of {key.key_id}, the key that the ledger names")
