"""The directory of what nobody but the safety service may read: the private keys and the secret of held-out seeds.

It is not the service's own directory, which lies in the run directory, where the learner writes: what can be read there
can sign nothing. Without being told, it is named after the run, in $TEMPER_KEYS or else in $XDG_STATE_HOME/temper/keys
(~/.local/state/temper/keys).

    run                     whose it is: canonical JSON of the run id, and of the digest of the ledger's first entry as
                            soon as there is one. Written before any key
    verdict_key.pem         Ed25519 private key: verdicts, promotions, revocations, statements of further keys
    lease_key.pem           Ed25519 private key: leases
    evaluation_secret       32 random bytes
    verdict_key.next.pem, lease_key.next.pem
                            keys of a rotation that is under way (safety.key_rotation)

All of it for the owner alone: 0700, and 0600 within. In the service's directory, keys_at says where this one is. It
decides nothing, and does not know what the ledger says.

Exceptions: KeyFileError (policies.signing) where something is missing, damaged, exposed, misplaced or another run's.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
from pathlib import Path

from policies.durable import create_file, move_file, read_private_file, replace_file
from policies.key_chain import LEASE_PURPOSE, VERDICT_PURPOSE
from policies.signing import KeyFileError, SigningKey, VerifyKey
from safety.canonical_json import canonical_json

PLACE_VARIABLE = "TEMPER_KEYS"
"""Environment variable: the directory in which each run's keys have a directory."""

PURPOSES = (VERDICT_PURPOSE, LEASE_PURPOSE)

_NOTE = "keys_at"
_OLD_KEY = "signing_key.pem"
_OWNER, _SECRET = "run", "evaluation_secret"
_SECRET_BYTES = 32
_OWNER_BYTES_MAX = 4096
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def place_of(directory: Path, run_id: str) -> Path:
    """Where the key directory of a run is, or is to be made.

    Args:
      directory: the safety service's own, which says where the keys were when it last ran.
      run_id: the training run.

    Raises:
      KeyFileError: no directory follows from the run id and the environment.
    """
    try:
        noted = Path((directory / _NOTE).read_text(encoding="utf-8").rstrip("\n"))
    except (OSError, ValueError):
        return default_place(run_id)
    try:
        place = default_place(run_id)
    except KeyFileError:
        return noted
    # They may have been moved, and the environment then says where to.
    return place if place.is_dir() else noted


def default_place(run_id: str) -> Path:
    """Where the keys of a run are made, unless somebody says where. Raises KeyFileError, as `place_of`."""
    if not _PLAIN.fullmatch(run_id):
        raise KeyFileError(f"run id {run_id!r} cannot name a key directory: say with --keys where the keys are to be")
    if above := os.environ.get(PLACE_VARIABLE):
        return Path(above).absolute() / run_id
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():
        try:
            state = Path.home() / ".local" / "state"
        except RuntimeError as error:
            raise KeyFileError(
                f"there is no home directory for the keys of run {run_id}: say in {PLACE_VARIABLE} where they are to be"
            ) from error
    return state / "temper" / "keys" / run_id


class KeyDirectory:
    """The keys of one run, opened or, where they may be, made.

    Args:
      place: the key directory.
      run_id: the training run.
      directory: the safety service's own; the caller holds its ledger, so nobody else is at the keys.
      ledger: digest of the ledger's first entry (32 bytes); None before there is one: only then are keys made.

    Attributes:
      place: as given.
      secret: of the held-out seeds (32 bytes).

    Raises:
      KeyFileError, OSError: see there.
    """

    def __init__(self, place: Path, run_id: str, directory: Path, ledger: bytes | None) -> None:
        self.place = place
        self._run_id, self._directory = run_id, directory
        if (directory / _OLD_KEY).exists():
            raise KeyFileError(
                f"{directory / _OLD_KEY} is where an earlier version kept its key: start a new run, with keys apart"
            )
        check_place(place, directory)
        if ledger is None:
            _make(place)
        else:
            require_place(place, run_id)
        _check_private(place)
        self._clear()
        self._claim(ledger)
        if ledger is None:
            for purpose in PURPOSES:
                if not self._path(purpose).exists():
                    SigningKey.generate().save(self._path(purpose))
            if not (place / _SECRET).exists():
                create_file(place / _SECRET, secrets.token_bytes(_SECRET_BYTES), 0o600)
        self.secret = self._read_secret()

    def bind(self, ledger: bytes) -> None:
        """Says that the keys are those of the ledger whose first entry has this digest (32 bytes), and of no other."""
        self._write_owner(ledger)
        note = f"{self.place.resolve()}\n".encode()
        path = self._directory / _NOTE
        if not path.is_file() or path.read_bytes() != note:
            replace_file(path, note, 0o600)

    def key(self, purpose: str) -> SigningKey:
        """The private key of a purpose."""
        path = self._path(purpose)
        if not path.exists():
            raise KeyFileError(f"{path} is missing, but the ledger of run {self._run_id} names it: restore it")
        return SigningKey.load(path)

    def prepare(self, purpose: str) -> SigningKey:
        """A new key of a purpose, on disk, beside the one that is in use. `settle` takes it up or throws it away."""
        self._path(purpose, ".next").unlink(missing_ok=True)
        key = SigningKey.generate()
        key.save(self._path(purpose, ".next"))
        return key

    def settle(self, purpose: str, current: VerifyKey) -> SigningKey:
        """The private half of `current`, which the ledger names; a key that is beside it, or before it, is removed.

        Raises:
          KeyFileError: it is not here.
        """
        path, beside = self._path(purpose), self._path(purpose, ".next")
        if beside.exists():
            if SigningKey.load(beside).verify_key.raw == current.raw:
                # Takes the outgoing key's place and so removes it. The ledger names this one, on disk, already.
                move_file(beside, path)
            else:
                beside.unlink()
        key = self.key(purpose)
        if key.verify_key.raw != current.raw:
            raise KeyFileError(
                f"{path} is key {key.verify_key.key_id}, the ledger of run {self._run_id} names {current.key_id}: "
                "restore that one"
            )
        return key

    def _path(self, purpose: str, which: str = "") -> Path:
        return self.place / f"{purpose}_key{which}.pem"

    def _clear(self) -> None:
        """Removes what an interrupted write left, which may be a whole key."""
        ours = (_OWNER, _SECRET, *(self._path(purpose, which).name for purpose in PURPOSES for which in ("", ".next")))
        for name in ours:
            for left in self.place.glob(f".{name}.[0-9]*"):
                left.unlink()

    def _claim(self, ledger: bytes | None) -> None:
        """Checks whose the directory is, or makes it this run's."""
        path = self.place / _OWNER
        if not path.exists():
            if any(self.place.iterdir()) or ledger is not None:
                raise KeyFileError(f"{self.place} does not say whose keys it holds: it is no key directory of a run")
            self._write_owner(None)
            return
        try:
            owner = json.loads(read_private_file(path, _OWNER_BYTES_MAX))
            run_id, bound = str(owner["run_id"]), bytes.fromhex(owner["ledger"])
        except (ValueError, KeyError, TypeError) as error:
            raise KeyFileError(f"{path} does not say whose keys these are: it is damaged; restore it") from error
        if run_id != self._run_id:
            raise KeyFileError(f"key directory {self.place} belongs to run {run_id!r}, this is run {self._run_id!r}")
        if bound and ledger is None:
            raise KeyFileError(
                f"the keys in {self.place} have signed for a ledger that is gone: restore it; starting anew would "
                "number and judge releases again under the same key"
            )
        if bound and bound != ledger:
            raise KeyFileError(f"key directory {self.place} belongs to another ledger of run {run_id!r}")

    def _write_owner(self, ledger: bytes | None) -> None:
        owner = {"run_id": self._run_id, "ledger": (ledger or b"").hex()}
        path, data = self.place / _OWNER, canonical_json(owner) + b"\n"
        if not path.exists() or path.read_bytes() != data:
            replace_file(path, data, 0o600)

    def _read_secret(self) -> bytes:
        path = self.place / _SECRET
        if not path.exists():
            raise KeyFileError(f"{path} is missing, but seeds have been drawn from it: restore it")
        secret = read_private_file(path, _SECRET_BYTES + 1)
        if len(secret) != _SECRET_BYTES:
            raise KeyFileError(f"{path} does not have {_SECRET_BYTES} bytes: it is damaged")
        return secret


def check_place(place: Path, *others: Path) -> None:
    """Raises KeyFileError where a key directory would lie in one of the others, or be one of them."""
    for other in others:
        if place.resolve().is_relative_to(other.resolve()):
            raise KeyFileError(
                f"key directory {place} lies in {other}, where other processes read and write: keys must be apart; "
                f"name another with {PLACE_VARIABLE} or --keys"
            )


def require_place(place: Path, run_id: str) -> None:
    """Raises KeyFileError where the key directory of a run that has begun is not there."""
    if not place.is_dir():
        raise KeyFileError(
            f"key directory {place} is missing, but the ledger of run {run_id} has begun: restore it from a copy, or "
            f"name the directory above it in {PLACE_VARIABLE}; without these keys the run releases and revokes nothing"
        )


def _make(place: Path) -> None:
    missing = [each for each in (place, *place.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)


def _check_private(place: Path) -> None:
    found = place.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise KeyFileError(f"{place} is no directory: keys need one of their own")
    if found.st_uid != os.geteuid():
        raise KeyFileError(f"key directory {place} belongs to user {found.st_uid}, this is user {os.geteuid()}")
    if mode := stat.S_IMODE(found.st_mode) & 0o077:
        raise KeyFileError(
            f"key directory {place} has mode {stat.S_IMODE(found.st_mode):04o}, others may {_allowed(mode)} it: it "
            "must be for its owner alone (chmod 700)"
        )


def _allowed(mode: int) -> str:
    return " and ".join(word for word, bits in (("read", 0o055), ("change", 0o022)) if mode & bits)
