"""Releases and artifacts on disk: content-addressed, written once, verified whenever they are read.

Layout, and what holds at every moment, also after a crash:
  DIRECTORY/artifacts/DIGEST.safetensors   its SHA-256 is DIGEST; complete, since it was renamed into place after fsync
  DIRECTORY/releases/NUMBER.verdict        a serialized SignedStatement; its artifact was in place before it
  DIRECTORY/revocations/NUMBER.revocation  a serialized SignedStatement; NUMBER is the revocation's own
  DIRECTORY/promotions/NUMBER.promotion    likewise, of a promotion
  DIRECTORY/lock                           held by a writer while it writes; readers need no lock
Names that begin with a dot are unfinished writes: readers pass over them, the next writer removes them. A release, a
revocation or a promotion is never replaced or removed; a release that is revoked stays, and is shown as such, but is
never the newest. Nor is one whose verdict makes it a canary, until there is a promotion for it.
An artifact without a release is what a crash between the two writes leaves; it harms nobody.

It stores nothing on anybody's word: a release enters only with a verdict that verifies, a revocation or a promotion
likewise only signed, and all are verified again whenever they are read. It is no service.

Exceptions: RegistryError; promotion also raises those of `policies.trust` and `policies.artifact`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import DecodeError

from policies.artifact import DIGEST_BYTES, Artifact, ArtifactError, artifact_digest
from policies.durable import replace_file
from policies.promotion import Promotion
from policies.revocation import Revocation
from policies.trust import TrustPolicy, UntrustedError
from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2

_ARTIFACT_SUFFIX = ".safetensors"
_RELEASE_SUFFIX = ".verdict"
_REVOCATION_SUFFIX = ".revocation"
_PROMOTION_SUFFIX = ".promotion"

_Statement = TypeVar("_Statement")


class RegistryError(Exception):
    """Something is not in the registry, or is not what it was when it was written."""


@dataclasses.dataclass(frozen=True)
class Release:
    """A released policy, as its verdict describes it. Units and meanings are those of `VerdictStatement`.

    `revocation` says that it was taken back; None: it may act. `promotion` says that it was a canary, and is none any
    more.
    """

    number: int
    version: int
    digest: bytes
    verdict_id: str
    run_id: str
    episodes: int
    violating_episodes: int
    return_mean: float
    return_ci95_low: float
    return_ci95_high: float
    issue_time_ns: int
    expiry_time_ns: int
    signed_verdict: common_pb2.SignedStatement = dataclasses.field(repr=False, hash=False)
    canary_share: float = 0.0
    revocation: Revocation | None = None
    promotion: Promotion | None = None

    @property
    def promoted(self) -> bool:
        """Whether it may act everywhere, unless it was revoked: it never was a canary, or is none any more."""
        return self.canary_share == 0.0 or self.promotion is not None


class PolicyRegistry:
    """The registry in a directory, made by the first write. Any number of readers; writers take turns.

    Args:
      directory: where it is.
      trust: whose verdicts count, and for which run.
    """

    def __init__(self, directory: Path, trust: TrustPolicy) -> None:
        self._directory = directory
        self._artifacts = directory / "artifacts"
        self._releases = directory / "releases"
        self._revocations = directory / "revocations"
        self._promotions = directory / "promotions"
        self._trust = trust

    @property
    def trust(self) -> TrustPolicy:
        """Whose statements count here."""
        return self._trust

    def promote(self, data: bytes, signed_verdict: common_pb2.SignedStatement) -> Release:
        """Makes an artifact a release, durably once this returns. The same promotion again changes nothing.

        Args:
          data: the artifact's bytes.
          signed_verdict: the verdict that approves exactly them.

        Raises:
          UntrustedError: the verdict does not verify, has expired, is older than a release, or is about another; or the
            artifact has been revoked.
          ArtifactError: the bytes are no artifact, or have a value that is not finite.
          RegistryError: the newest release cannot be read, or this one cannot be written: nothing is half written, and
            the same promotion can be tried again.
        """
        digest = artifact_digest(data)
        verdict = self._trust.check_past_release(signed_verdict, digest)
        path = self._release_path(verdict.release_number)
        with self._writing(path, "no actor gets that release before it is"):
            revocation = self._revoked().get(digest)
            if revocation is not None:
                raise revocation.refusal()
            held = self._read_release(path) if path.exists() else None
            if held is not None and held.digest == digest:
                return held
            # Of all releases, the revoked ones included: numbers ascend whatever becomes of them.
            newest = self._read_release(paths[-1]) if (paths := self._release_paths()) else None
            number, newest_digest = (0, b"") if newest is None else (newest.number, newest.digest)
            self._trust.check_release(signed_verdict, digest, number, newest_digest)
            Artifact.from_bytes(data, digest).check_finite()
            replace_file(self._artifact_path(digest), data)
            replace_file(path, signed_verdict.SerializeToString(deterministic=True))
        return _release(verdict, signed_verdict)

    def revoke(self, signed_revocation: common_pb2.SignedStatement) -> Revocation:
        """Takes an artifact out of use, durably once this returns, whether or not it is here. Again changes nothing.

        Raises:
          UntrustedError: the statement does not verify.
          RegistryError: another revocation has its number, or it cannot be written.
        """
        revocation = Revocation.verified(signed_revocation, self._trust)
        path = self._revocation_path(revocation.number)
        consequence = "whoever starts anew must be told of it again"
        held = self._keep(path, signed_revocation, self._read_revocation, consequence)
        if held is not None and held.digest != revocation.digest:
            raise _set_back("revocation", path, held.digest, revocation.digest)
        return revocation

    def promote_canary(self, signed_promotion: common_pb2.SignedStatement) -> Promotion:
        """Lets a canary act everywhere, durably once this returns, whether or not it is here. Again changes nothing.

        Raises:
          UntrustedError: the statement does not verify.
          RegistryError: another promotion has its number, or it cannot be written.
        """
        promotion = Promotion.verified(signed_promotion, self._trust)
        path = self._promotion_path(promotion.number)
        consequence = "the release stays a canary until it is"
        held = self._keep(path, signed_promotion, self._read_promotion, consequence)
        if held is not None and held.release != promotion.release:
            raise _set_back("promotion", path, held.digest, promotion.digest)
        return promotion

    def releases(self) -> list[Release]:
        """All releases, ascending, revoked ones included. Raises RegistryError when anything does not verify."""
        revoked, promoted = self._revoked(), self._promoted()
        return [
            dataclasses.replace(
                release,
                revocation=revoked.get(release.digest),
                promotion=promoted.get((release.number, release.digest)),
            )
            for release in map(self._read_release, self._release_paths())
        ]

    def newest(self, but_for: Collection[bytes] = ()) -> Release | None:
        """The newest release that may act everywhere, or None. Raises RegistryError, as `releases`.

        Args:
          but_for: digests of artifacts that are passed over besides; revoked, but not in here yet.
        """
        return next((release for release in self._standing(but_for) if release.promoted), None)

    def canary(self, but_for: Collection[bytes] = ()) -> Release | None:
        """The newest release that is not revoked, if it is a canary still, or None; otherwise as `newest`."""
        newest = next(self._standing(but_for), None)
        return None if newest is None or newest.promoted else newest

    def _standing(self, but_for: Collection[bytes]) -> Iterator[Release]:
        """What is not revoked, newest first, each with its promotion."""
        revoked, promoted = {*self._revoked(), *but_for}, self._promoted()
        for path in reversed(self._release_paths()):
            release = self._read_release(path)
            if release.digest not in revoked:
                yield dataclasses.replace(release, promotion=promoted.get((release.number, release.digest)))

    def _keep(
        self, path: Path, signed: common_pb2.SignedStatement, read: Callable[[Path], _Statement], consequence: str
    ) -> _Statement | None:
        """Writes a statement unless there is one; returns the one that there was. Raises as `_writing`."""
        with self._writing(path, consequence):
            if path.exists():
                return read(path)
            replace_file(path, signed.SerializeToString(deterministic=True))
        return None

    def revocations(self) -> list[Revocation]:
        """All revocations, ascending. Raises RegistryError when one cannot be read or does not verify."""
        return [self._read_revocation(path) for path in self._revocation_paths()]

    def promotions(self) -> list[Promotion]:
        """All promotions, ascending. Raises RegistryError when one cannot be read or does not verify."""
        return [self._read_promotion(path) for path in self._promotion_paths()]

    def artifact(self, digest: bytes) -> bytes:
        """An artifact's bytes. Raises RegistryError when it is not there or its bytes have changed."""
        path = self._artifact_path(digest)
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise RegistryError(f"artifact {digest.hex()} is not in {self._artifacts}") from error
        except OSError as error:
            raise RegistryError(f"artifact {path} cannot be read: {error.strerror}") from error
        if artifact_digest(data) != digest:
            raise RegistryError(f"artifact {path} has changed on disk: its digest is {artifact_digest(data).hex()}")
        return data

    def verify(self) -> list[str]:
        """Reads everything and returns what is wrong, one line each; empty when all is well."""
        problems = []
        for read, paths in (
            (self._read_revocation, self._revocation_paths()),
            (self._read_promotion, self._promotion_paths()),
        ):
            for path in paths:
                try:
                    read(path)
                except RegistryError as error:
                    problems.append(str(error))
        for path in self._release_paths():
            try:
                release = self._read_release(path)
                Artifact.from_bytes(self.artifact(release.digest), release.digest).check_finite()
            except RegistryError as error:
                problems.append(str(error))
            except ArtifactError as error:
                problems.append(f"the artifact of release {path} cannot be used: {error}")
        for path in self._artifact_paths():
            try:
                self.artifact(bytes.fromhex(path.stem))
            except RegistryError as error:
                problems.append(str(error))
            except ValueError:
                problems.append(f"artifact {path} is not named by a digest")
        return list(dict.fromkeys(problems))

    def _read_release(self, path: Path) -> Release:
        signed, verdict = common_pb2.SignedStatement(), safety_pb2.VerdictStatement()
        try:
            signed.ParseFromString(path.read_bytes())
            # Only to learn which artifact it names; believed after the check.
            verdict.ParseFromString(signed.payload)
            verdict = self._trust.check_past_release(signed, verdict.artifact_digest)
        except (DecodeError, UntrustedError) as error:
            raise RegistryError(f"release {path} is not to be trusted: {error}") from error
        except OSError as error:
            raise RegistryError(f"release {path} cannot be read: {error.strerror}") from error
        if path != self._release_path(verdict.release_number) or len(verdict.artifact_digest) != DIGEST_BYTES:
            raise RegistryError(f"release {path} holds the verdict of release {verdict.release_number}")
        return _release(verdict, signed)

    def _read_revocation(self, path: Path) -> Revocation:
        revocation = self._read("revocation", path, Revocation.verified)
        if path != self._revocation_path(revocation.number):
            raise RegistryError(f"revocation {path} holds revocation {revocation.number}")
        return revocation

    def _read_promotion(self, path: Path) -> Promotion:
        promotion = self._read("promotion", path, Promotion.verified)
        if path != self._promotion_path(promotion.number):
            raise RegistryError(f"promotion {path} holds promotion {promotion.number}")
        return promotion

    def _read(
        self, kind: str, path: Path, verified: Callable[[common_pb2.SignedStatement, TrustPolicy], _Statement]
    ) -> _Statement:
        try:
            return verified(common_pb2.SignedStatement.FromString(path.read_bytes()), self._trust)
        except (DecodeError, UntrustedError) as error:
            raise RegistryError(f"{kind} {path} is not to be trusted: {error}") from error
        except OSError as error:
            raise RegistryError(f"{kind} {path} cannot be read: {error.strerror}") from error

    def _revoked(self) -> dict[bytes, Revocation]:
        """The revocation of each artifact that has one: the first, should there be several."""
        return {revocation.digest: revocation for revocation in reversed(self.revocations())}

    def _promoted(self) -> dict[tuple[int, bytes], Promotion]:
        """The promotions, by number and artifact of the release."""
        return {promotion.release: promotion for promotion in self.promotions()}

    def _revocation_paths(self) -> list[Path]:
        paths = self._revocations.glob(f"*{_REVOCATION_SUFFIX}")
        return sorted(path for path in paths if not path.name.startswith("."))

    def _promotion_paths(self) -> list[Path]:
        paths = self._promotions.glob(f"*{_PROMOTION_SUFFIX}")
        return sorted(path for path in paths if not path.name.startswith("."))

    def _promotion_path(self, number: int) -> Path:
        return self._promotions / f"{number:08d}{_PROMOTION_SUFFIX}"

    def _revocation_path(self, number: int) -> Path:
        return self._revocations / f"{number:08d}{_REVOCATION_SUFFIX}"

    def _release_paths(self) -> list[Path]:
        return sorted(path for path in self._releases.glob(f"*{_RELEASE_SUFFIX}") if not path.name.startswith("."))

    def _artifact_paths(self) -> list[Path]:
        return [path for path in self._artifacts.glob(f"*{_ARTIFACT_SUFFIX}") if not path.name.startswith(".")]

    def _artifact_path(self, digest: bytes) -> Path:
        return self._artifacts / f"{digest.hex()}{_ARTIFACT_SUFFIX}"

    def _release_path(self, number: int) -> Path:
        return self._releases / f"{number:08d}{_RELEASE_SUFFIX}"

    @contextlib.contextmanager
    def _writing(self, path: Path, consequence: str) -> Iterator[None]:
        """Holds the writers' lock, and clears away what a writer that died has left.

        Raises RegistryError, with what follows, where the disk does not take what is written to `path`.
        """
        try:
            self._artifacts.mkdir(parents=True, exist_ok=True)
            directories = (self._artifacts, self._releases, self._revocations, self._promotions)
            for directory in directories[1:]:
                directory.mkdir(exist_ok=True)
            with (self._directory / "lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                for directory in directories:
                    for unfinished in directory.glob(".*"):
                        unfinished.unlink()
                yield
        except OSError as error:
            kind = path.suffix[1:]
            raise RegistryError(f"{kind} {path} cannot be written: {error.strerror}; {consequence}") from error


def _release(verdict: safety_pb2.VerdictStatement, signed: common_pb2.SignedStatement) -> Release:
    return Release(
        number=verdict.release_number,
        version=verdict.version,
        digest=verdict.artifact_digest,
        verdict_id=verdict.verdict_id,
        run_id=verdict.run_id,
        episodes=verdict.episodes,
        violating_episodes=verdict.violating_episodes,
        return_mean=verdict.return_mean,
        return_ci95_low=verdict.return_ci95_low,
        return_ci95_high=verdict.return_ci95_high,
        issue_time_ns=verdict.issue_time_ns,
        expiry_time_ns=verdict.expiry_time_ns,
        signed_verdict=signed,
        canary_share=verdict.canary_share,
    )


def _set_back(kind: str, path: Path, held: bytes, other: bytes) -> RegistryError:
    return RegistryError(
        f"{kind} {path} is about artifact {held.hex()}, another of the same number about {other.hex()}: the safety "
        "service's ledger has been set back"
    )
