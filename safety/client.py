"""The safety service for its callers: blocking calls for threads. It verifies nothing; see `policies.trust`.

Exceptions:
  SafetyUnavailable: no answer, or the queue is full: nothing was decided that could not be asked for again.
  OfferRefused: the offer makes no sense to this service; offering it again will not help.
  LeaseRefused: snapshots must stop; the message says why.
  LeaseBreached: likewise, and until the learner has rolled back.
  RevocationRefused (safety.revocations): there is no such release, it is another run's, or no reason was given.
  PromotionRefused (safety.promotions): it is another run's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import NamedTuple

import grpc

from policies.artifact import artifact_digest
from protos import transport
from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2, safety_pb2_grpc
from safety.promotions import PROMOTIONS_MAX, PromotionRefused
from safety.revocations import REVOCATIONS_MAX, RevocationRefused, UnknownRelease

CHUNK_BYTES = 256 * 1024
"""Artifacts travel in pieces of this size."""


class SafetyUnavailable(Exception):
    """The safety service does not answer, or turns candidates away for now."""


class OfferRefused(ValueError):
    """The safety service cannot take this candidate: another run's, or bytes that are not those offered."""


class LeaseRefused(Exception):
    """There is no lease: actors must not use snapshots. The message has the reason."""


class LeaseBreached(Exception):
    """There is no lease until the learner has rolled back. The message has the reason.

    Attributes:
      epoch: the epoch of leases that is over; the learner names it once it has rolled back.
      release_number: number of the release to go back to; 0: there is none, so to the first weights.
      release_digest: digest of its artifact (32 bytes); b"" where there is none.
    """

    def __init__(self, epoch: int, reason: str, release_number: int, release_digest: bytes) -> None:
        super().__init__(reason)
        self.epoch, self.reason = epoch, reason
        self.release_number, self.release_digest = release_number, release_digest


class _Listed(NamedTuple):
    """Statements that are listed page by page: what they are, how many a run can have, how a question is refused."""

    what: str
    count_max: int
    refusal: type[ValueError]


_REVOCATIONS = _Listed("revocations", REVOCATIONS_MAX, RevocationRefused)
_PROMOTIONS = _Listed("promotions", PROMOTIONS_MAX, PromotionRefused)


class SafetyClient:
    """A connection to the safety service; for any number of threads.

    Args:
      address: "unix:PATH" or "HOST:PORT". Raises AddressError.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel = transport.channel(address)
        self._calls = safety_pb2_grpc.SafetyStub(self._channel)

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
        """Offers a candidate and waits for its verdict, approval or rejection.

        An artifact that has been judged already gets the verdict it got then. After SafetyUnavailable the same
        candidate can be offered again: what was decided meanwhile is not decided anew.

        Args:
          artifact: its bytes.
          run_id: the training run.
          version: learner update count.
          timeout_s: for everything, waiting in the queue included.
          on_progress: called with the episodes that have ended and the most there can be.
          lineage_digest: digest of the candidate's lineage (32 bytes), for the verdict to bind; b"": there is none.

        Raises:
          SafetyUnavailable, OfferRefused: see there.
        """
        offer = safety_pb2.CandidateOffer(
            run_id=run_id,
            version=version,
            digest=artifact_digest(artifact),
            total_bytes=len(artifact),
            lineage_digest=lineage_digest,
        )
        try:
            responses = self._calls.Evaluate(_requests(offer, artifact), timeout=timeout_s)
            try:
                for response in responses:
                    if response.WhichOneof("kind") == "verdict":
                        return response.verdict
                    if on_progress is not None:
                        on_progress(response.progress.episodes_done, response.progress.episodes_total)
            finally:
                # Whatever `on_progress` raises must not leave a call behind; one that has ended is not touched.
                responses.cancel()
        except grpc.RpcError as error:
            raise self._translated(error) from error
        raise SafetyUnavailable(f"the safety service at {self._address} ended an evaluation without a verdict")

    def renew_lease(
        self, run_id: str, rolled_back_epoch: int = 0, timeout_s: float = 5.0
    ) -> common_pb2.SignedStatement:
        """A fresh lease for the snapshots of a run.

        Args:
          run_id: the training run.
          rolled_back_epoch: the newest epoch whose breach has been answered by rolling back; 0: none.
          timeout_s: for the answer.

        Raises:
          SafetyUnavailable, LeaseRefused, LeaseBreached: see there.
        """
        try:
            request = safety_pb2.RenewLeaseRequest(run_id=run_id, rolled_back_epoch=rolled_back_epoch)
            response = self._calls.RenewLease(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise self._translated(error) from error
        if response.WhichOneof("kind") == "breach":
            breach = response.breach
            raise LeaseBreached(breach.epoch, breach.reason, breach.release_number, breach.release_digest)
        return response.lease

    def trust(self, timeout_s: float = 5.0) -> safety_pb2.GetTrustResponse:
        """The key that signs, and counts of verdicts. Believe a key from a file rather. Raises SafetyUnavailable."""
        try:
            return self._calls.GetTrust(safety_pb2.GetTrustRequest(), timeout=timeout_s)
        except grpc.RpcError as error:
            raise self._translated(error) from error

    def verdicts(self, limit: int = 0, timeout_s: float = 5.0) -> list[common_pb2.SignedStatement]:
        """Past verdicts, newest first, at most `limit` (0: all). Raises SafetyUnavailable."""
        try:
            request = safety_pb2.ListVerdictsRequest(limit=limit)
            return list(self._calls.ListVerdicts(request, timeout=timeout_s).verdicts)
        except grpc.RpcError as error:
            raise self._translated(error) from error

    def revoke(self, run_id: str, release_number: int, why: str, timeout_s: float = 10.0) -> common_pb2.SignedStatement:
        """The signed revocation of a release, in the ledger by then; of one revoked before, that of then.

        The actors do not hear of it from the safety service: hand it to the policy distribution.

        Raises:
          SafetyUnavailable: no answer; it may be revoked or not. Asking again is safe.
          RevocationRefused: see there.
        """
        if not 0 <= release_number < 2**64:
            raise UnknownRelease(f"there is no release {release_number}: they are numbered from 1")
        request = safety_pb2.RevokeRequest(run_id=run_id, release_number=release_number, why=why)
        try:
            return self._calls.Revoke(request, timeout=timeout_s).revocation
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                raise UnknownRelease(error.details()) from error
            if error.code() == grpc.StatusCode.INVALID_ARGUMENT:
                raise RevocationRefused(error.details()) from error
            raise self._translated(error) from error

    def revocations(
        self, run_id: str, after_number: int = 0, timeout_s: float = 10.0
    ) -> list[common_pb2.SignedStatement]:
        """The revocations of a run with a number above `after_number`, ascending, asked for page by page.

        Args:
          run_id: the training run.
          after_number: number of the last one that is known; 0: all are wanted.
          timeout_s: for all pages together.

        Raises:
          SafetyUnavailable: no answer in time, or a list that does not end.
          RevocationRefused: it is another run's.
        """

        def ask(known: int, timeout_s: float) -> tuple[Sequence[common_pb2.SignedStatement], int]:
            request = safety_pb2.ListRevocationsRequest(run_id=run_id, after_number=known)
            page = self._calls.ListRevocations(request, timeout=timeout_s)
            return page.revocations, page.newest_number

        return self._all_pages(ask, after_number, timeout_s, _REVOCATIONS)

    def promotions(
        self, run_id: str, after_number: int = 0, timeout_s: float = 10.0
    ) -> list[common_pb2.SignedStatement]:
        """The promotions of a run, as `revocations` of those.

        Raises:
          SafetyUnavailable: no answer in time, or a list that does not end.
          PromotionRefused: it is another run's.
        """

        def ask(known: int, timeout_s: float) -> tuple[Sequence[common_pb2.SignedStatement], int]:
            request = safety_pb2.ListPromotionsRequest(run_id=run_id, after_number=known)
            page = self._calls.ListPromotions(request, timeout=timeout_s)
            return page.promotions, page.newest_number

        return self._all_pages(ask, after_number, timeout_s, _PROMOTIONS)

    def _all_pages(
        self,
        ask: Callable[[int, float], tuple[Sequence[common_pb2.SignedStatement], int]],
        after_number: int,
        timeout_s: float,
        listed: _Listed,
    ) -> list[common_pb2.SignedStatement]:
        """All statements with a number above `after_number`; `ask` gives those after a number, and the newest of all.

        Raises SafetyUnavailable, and `listed.refusal` where the arguments make no sense.
        """
        deadline_s = time.monotonic() + timeout_s
        found: list[common_pb2.SignedStatement] = []
        while len(found) <= listed.count_max:
            try:
                page, newest_number = ask(after_number + len(found), max(0.0, deadline_s - time.monotonic()))
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.INVALID_ARGUMENT:
                    raise listed.refusal(error.details()) from error
                raise self._translated(error) from error
            found += page
            if not page or after_number + len(found) >= newest_number:
                return found
        raise SafetyUnavailable(
            f"the safety service at {self._address} lists more than the {listed.count_max} {listed.what} a run can have"
        )

    def close(self) -> None:
        """Ends the connection; calls in progress raise SafetyUnavailable."""
        self._channel.close()

    def __enter__(self) -> SafetyClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _translated(self, error: grpc.RpcError) -> Exception:
        code, details = error.code(), error.details()
        if code == grpc.StatusCode.INVALID_ARGUMENT:
            return OfferRefused(details)
        if code == grpc.StatusCode.FAILED_PRECONDITION:
            return LeaseRefused(details)
        return SafetyUnavailable(f"the safety service at {self._address} does not answer: {code.name}: {details}")


def _requests(offer: safety_pb2.CandidateOffer, artifact: bytes) -> Iterator[safety_pb2.EvaluateRequest]:
    yield safety_pb2.EvaluateRequest(offer=offer)
    for start in range(0, len(artifact), CHUNK_BYTES):
        yield safety_pb2.EvaluateRequest(data=artifact[start : start + CHUNK_BYTES])
