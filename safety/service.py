"""The safety service on the wire: translates calls for the gate and the lease authority, and decides nothing itself.

Status codes: INVALID_ARGUMENT for an offer or a revocation that makes no sense or is another run's, NOT_FOUND for a
release that there is not, RESOURCE_EXHAUSTED while the queue is full, others upload, or a canary is undecided,
DEADLINE_EXCEEDED for an upload that does not end, FAILED_PRECONDITION for a lease that is withheld, UNAVAILABLE while
the service stops, INTERNAL where it can no longer record what it decides; after that it stops. A candidate that cannot
be judged is no error: it gets a verdict; nor is a breach, which the learner is told and answers.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import NoReturn

import grpc
import grpc.aio

from actors.config import EnvironmentConfig
from protos import transport
from protos.safety.v1 import safety_pb2, safety_pb2_grpc
from protos.transport_guard import guarded_server
from replay.client_sharded import open_client
from replay.settings import SettingError
from safety.canaries.counts import canary_counts
from safety.canaries.watch import CanaryWatch, ReadCounts
from safety.config import SafetyConfig
from safety.gate import Gate, GateBusy, GateClosed, OfferRefused
from safety.keys.custody import CustodyError
from safety.leases.authority import EpochOver, LeaseAuthority, LeaseWithheld, newest_breach
from safety.leases.monitor import RiskMonitor
from safety.leases.monitor_file import FILE_NAME as MONITOR_FILE_NAME
from safety.leases.training_counts import STATS_S_MAX, replay_totals
from safety.leases.training_totals import CountsUnreadable, TrainingCounts
from safety.ledger import LedgerError
from safety.promotions import PromotionRefused
from safety.revocations import RevocationRefused, UnknownRelease
from safety.verdicts import Offer

SERVICE_NAME = "temper.safety.v1.Safety"

PROGRESS_S = 0.25
"""Time between two progress messages."""

UPLOADS_MAX = 4
"""Uploads at a time, each of which may hold a whole artifact."""

UPLOAD_S_MAX = 60.0
"""Time in which a candidate must have been uploaded."""

CALLS_MAX = 64
"""Calls at a time besides the candidates in the queue and in upload: those must not keep leases from being renewed."""

_STOP_S_MAX = 2.0
_Context = grpc.aio.ServicerContext[object, object]


async def serve(
    config: SafetyConfig,
    environment: EnvironmentConfig,
    directory: Path,
    address: str,
    *,
    run_id: str,
    replay_address: str | None,
    on_ready: Callable[[str], None],
    stop: asyncio.Event,
    keys: Path | None = None,
) -> None:
    """Runs the safety service of one training run until `stop` is set.

    Args:
      config: suite, criteria, limits.
      environment: what candidates are evaluated in.
      directory: the service's own; made if it is not there. Nobody else may write there.
      address: where to listen; "unix:PATH" or "HOST:PORT".
      run_id: the training run; candidates of others are refused.
      replay_address: where the training violations are counted, and those of canaries; None: nothing is monitored.
      on_ready: called with the bound address once calls are answered.
      stop: ends the service in order; a candidate in evaluation is then left undecided.
      keys: the directory of the private keys; None: the one that is meant for the run (safety.keys.directory).

    Raises:
      SettingError, AddressError, LedgerError, CustodyError, EnvironmentUnsupported, EvaluationFailed: it cannot start.
      LedgerError, CustodyError: it can no longer record what it decides.
    """
    transport.check_address(address)
    if replay_address is None and config.lease_violation_rate_max < 1.0:
        raise SettingError(
            f"safety.lease_violation_rate_max = {config.lease_violation_rate_max} needs the address of replay: without "
            "it the training violations cannot be monitored"
        )
    if replay_address is None and config.canary_share:
        raise SettingError(
            f"safety.canary_share = {config.canary_share} needs the address of replay: without it no canary could be "
            "promoted"
        )
    gate = await asyncio.to_thread(Gate, config, environment, directory, run_id, keys=keys)
    try:
        await asyncio.to_thread(gate.start)
        breach = newest_breach(gate.ledger.entries())
        epoch = 1 if breach is None else breach.epoch + 1
        with (
            _monitoring(config, replay_address, epoch, directory / MONITOR_FILE_NAME) as monitor,
            _canary_counts(replay_address) as read_counts,
        ):
            leases = LeaseAuthority(gate.docket, config, run_id, monitor=monitor)
            watch = CanaryWatch(gate.docket, config, read_counts)
            await _answer_calls(gate, leases, watch, address, on_ready=on_ready, stop=stop)
    finally:
        await asyncio.to_thread(gate.close)


async def _answer_calls(
    gate: Gate,
    leases: LeaseAuthority,
    watch: CanaryWatch,
    address: str,
    *,
    on_ready: Callable[[str], None],
    stop: asyncio.Event,
) -> None:
    calls_max = CALLS_MAX + UPLOADS_MAX + gate.pending_max
    server = guarded_server(calls_max=calls_max)
    servicer = SafetyServicer(gate, leases)
    safety_pb2_grpc.add_SafetyServicer_to_server(servicer, server)
    health = transport.add_health_and_reflection(server, [SERVICE_NAME])
    bound = transport.bind(server, address)
    await server.start()
    try:
        await transport.set_serving(health, [SERVICE_NAME])
        on_ready(bound)
        async with _running(watch) as watching:
            stopping = asyncio.ensure_future(stop.wait())
            await asyncio.wait((stopping, servicer.broken, watching), return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
    finally:
        await server.stop(_STOP_S_MAX)
    if servicer.broken.done():
        raise servicer.broken.result()


@contextlib.contextmanager
def _monitoring(
    config: SafetyConfig, replay_address: str | None, epoch: int, path: Path
) -> Iterator[RiskMonitor | None]:
    """A risk monitor with the thread that feeds it; None where there is no replay."""
    if replay_address is None:
        yield None
        return
    client = open_client(replay_address)
    monitor = RiskMonitor(functools.partial(replay_totals, client), config, epoch, path)
    ended = threading.Event()
    thread = threading.Thread(target=monitor.run, args=(ended,), name="temper-risk-monitor", daemon=True)
    thread.start()
    try:
        yield monitor
    finally:
        ended.set()
        thread.join(STATS_S_MAX + _STOP_S_MAX)
        client.close()


@contextlib.contextmanager
def _canary_counts(replay_address: str | None) -> Iterator[ReadCounts]:
    """What reads the counts of a canary."""
    if replay_address is None:
        yield _no_counts
        return
    with contextlib.closing(open_client(replay_address)) as client:
        yield functools.partial(canary_counts, client)


def _no_counts(_release_number: int) -> TrainingCounts:
    raise CountsUnreadable("this safety service was given no address of replay")


@contextlib.asynccontextmanager
async def _running(watch: CanaryWatch) -> AsyncIterator[asyncio.Future[None]]:
    """Runs the watch in a thread of its own; the future fails when the watch does, and so does the end of this."""
    ended = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(1, "temper-canary-watch") as executor:
        watching = asyncio.get_running_loop().run_in_executor(executor, watch.run, ended)
        try:
            yield watching
        finally:
            ended.set()
            # What it is just recording is recorded; a look takes as long as replay is waited for.
            await asyncio.wait((watching,))
    watching.result()


class _UploadTimeout(Exception):
    """An upload did not end in its time."""


class SafetyServicer(safety_pb2_grpc.SafetyServicer):
    """Translates between messages and the gate. Runs in one asyncio loop.

    Attributes:
      broken: completed with the error after which nothing can be recorded any more.
    """

    def __init__(self, gate: Gate, leases: LeaseAuthority) -> None:
        self._gate = gate
        self._leases = leases
        self._uploads = 0
        self.broken: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    async def Evaluate(
        self, request_iterator: AsyncIterator[safety_pb2.EvaluateRequest], context: _Context
    ) -> AsyncIterator[safety_pb2.EvaluateResponse]:
        """See the service's definition."""
        episodes = [0, 0]

        def on_progress(ended: int, total: int) -> None:
            # From the gate's thread; whole numbers in a list need no lock.
            episodes[:] = ended, total

        try:
            offer, artifact = await self._upload_in_turn(request_iterator)
            # In a thread: it digests the whole artifact.
            submitted = await asyncio.to_thread(self._gate.submit, offer, artifact, on_progress)
            deciding = asyncio.wrap_future(submitted)
            while not deciding.done():
                # A client that goes away does not undo an evaluation; its verdict waits in the ledger.
                await asyncio.wait((deciding,), timeout=PROGRESS_S)
                progress = safety_pb2.EvaluateProgress(episodes_done=episodes[0], episodes_total=episodes[1])
                yield safety_pb2.EvaluateResponse(progress=progress)
            yield safety_pb2.EvaluateResponse(verdict=await deciding)
        except OfferRefused as error:
            await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, error)
        except GateBusy as error:
            await _abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, error)
        except _UploadTimeout as error:
            await _abort(context, grpc.StatusCode.DEADLINE_EXCEEDED, error)
        except (GateClosed, concurrent.futures.CancelledError) as error:
            await _abort(context, grpc.StatusCode.UNAVAILABLE, error)
        except (LedgerError, CustodyError) as error:
            await self._abort_broken(context, error)

    async def RenewLease(
        self, request: safety_pb2.RenewLeaseRequest, context: _Context
    ) -> safety_pb2.RenewLeaseResponse:
        """See the service's definition."""
        try:
            # In a thread: it may have to wait for the disk.
            lease = await asyncio.to_thread(self._leases.renew, request.run_id, request.rolled_back_epoch)
        except EpochOver as over:
            return safety_pb2.RenewLeaseResponse(breach=over.breach)
        except LeaseWithheld as error:
            await _abort(context, grpc.StatusCode.FAILED_PRECONDITION, error)
        except (LedgerError, CustodyError) as error:
            await self._abort_broken(context, error)
        return safety_pb2.RenewLeaseResponse(lease=lease)

    async def GetTrust(self, _request: safety_pb2.GetTrustRequest, _context: _Context) -> safety_pb2.GetTrustResponse:
        """See the service's definition."""
        key = self._gate.verify_key
        counts, broken_off = self._gate.counts._asdict(), self._gate.docket.broken_off
        return safety_pb2.GetTrustResponse(public_key=key.raw, key_id=key.key_id, broken_off=broken_off, **counts)

    async def ListVerdicts(
        self, request: safety_pb2.ListVerdictsRequest, _context: _Context
    ) -> safety_pb2.ListVerdictsResponse:
        """See the service's definition."""
        return safety_pb2.ListVerdictsResponse(verdicts=self._gate.newest_verdicts(request.limit))

    async def Revoke(self, request: safety_pb2.RevokeRequest, context: _Context) -> safety_pb2.RevokeResponse:
        """See the service's definition."""
        try:
            # In a thread: it waits for the disk.
            revocation = await asyncio.to_thread(self._gate.revoke, request.run_id, request.release_number, request.why)
        except UnknownRelease as error:
            await _abort(context, grpc.StatusCode.NOT_FOUND, error)
        except RevocationRefused as error:
            await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, error)
        except (LedgerError, CustodyError) as error:
            await self._abort_broken(context, error)
        return safety_pb2.RevokeResponse(revocation=revocation)

    async def ListRevocations(
        self, request: safety_pb2.ListRevocationsRequest, context: _Context
    ) -> safety_pb2.ListRevocationsResponse:
        """See the service's definition."""
        try:
            # In a thread: a decision may just be on its way to the disk.
            listed, newest_number = await asyncio.to_thread(
                self._gate.revocations, request.run_id, request.after_number, request.limit
            )
        except RevocationRefused as error:
            await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, error)
        return safety_pb2.ListRevocationsResponse(revocations=listed, newest_number=newest_number)

    async def ListPromotions(
        self, request: safety_pb2.ListPromotionsRequest, context: _Context
    ) -> safety_pb2.ListPromotionsResponse:
        """See the service's definition."""
        try:
            # In a thread: a decision may just be on its way to the disk.
            listed, newest_number = await asyncio.to_thread(
                self._gate.docket.promotions, request.run_id, request.after_number, request.limit
            )
        except PromotionRefused as error:
            await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, error)
        return safety_pb2.ListPromotionsResponse(promotions=listed, newest_number=newest_number)

    async def _upload_in_turn(self, requests: AsyncIterator[safety_pb2.EvaluateRequest]) -> tuple[Offer, bytes]:
        """As `_upload`, one of a few and within its time. Raises OfferRefused, GateBusy or _UploadTimeout."""
        if self._uploads >= UPLOADS_MAX:
            raise GateBusy(f"{UPLOADS_MAX} candidates are being uploaded already; offer it again later")
        self._uploads += 1
        try:
            async with asyncio.timeout(UPLOAD_S_MAX):
                return await self._upload(requests)
        except TimeoutError as error:
            raise _UploadTimeout(
                f"the candidate was not uploaded within {UPLOAD_S_MAX:g} s: nothing was decided"
            ) from error
        finally:
            self._uploads -= 1

    async def _upload(self, requests: AsyncIterator[safety_pb2.EvaluateRequest]) -> tuple[Offer, bytes]:
        """The offer and the artifact's bytes; none of an oversize one. Raises OfferRefused."""
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("kind") != "offer":
            raise OfferRefused("the first message of an evaluation must be its offer")
        message = first.offer
        offer = Offer(message.run_id, message.version, message.digest, message.total_bytes, message.lineage_digest)
        self._gate.check_offer(offer)
        if self._gate.is_oversize(offer):
            return offer, b""
        artifact = bytearray()
        async for request in requests:
            if request.WhichOneof("kind") != "data":
                raise OfferRefused("every message after the offer must carry data")
            artifact += request.data
            if len(artifact) > offer.total_bytes:
                raise OfferRefused(f"more than the {offer.total_bytes} bytes that were offered have come")
        return offer, bytes(artifact)

    async def _abort_broken(self, context: _Context, error: Exception) -> NoReturn:
        if not self.broken.done():
            self.broken.set_result(error)
        await _abort(context, grpc.StatusCode.INTERNAL, error)


async def _abort(context: _Context, code: grpc.StatusCode, error: BaseException) -> NoReturn:
    await context.abort(code, str(error) or "the safety service stops; nothing was decided")
    raise AssertionError("abort always raises")
