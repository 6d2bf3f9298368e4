"""Runs the Inference service on a thread of the test, over real sockets, behind a real distribution server."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from policies.artifact import Artifact, artifact_digest
from policies.distribution import DistributionServer, PolicyBoard
from policies.service import serve
from policies.signing import SigningKey
from policies.testing import RUN_ID, signed_verdict

KEY = SigningKey.generate()
WAIT_S = 20.0


@contextlib.contextmanager
def distribution(directory: Path, artifact: Artifact | None) -> Iterator[tuple[PolicyBoard, str]]:
    """A board that holds `artifact` as release 1, and the address that offers it."""
    board = PolicyBoard()
    if artifact is not None:
        publish(board, artifact, 1)
    server = DistributionServer(board, f"unix:{directory}/policy")
    try:
        yield board, server.start()
    finally:
        server.stop()


def publish(board: PolicyBoard, artifact: Artifact, number: int) -> bytes:
    """Makes `artifact` release `number`, of version 10 * number; returns its digest."""
    data = artifact.to_bytes()
    verdict = signed_verdict(KEY, artifact_digest(data), release_number=number, version=10 * number)
    return board.publish_release(10 * number, data, verdict)


@contextlib.contextmanager
def inference(directory: Path, policy_address: str) -> Iterator[str]:
    """The address of an Inference service that runs for as long as the context."""
    started: concurrent.futures.Future[str] = concurrent.futures.Future()
    stopping: concurrent.futures.Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = concurrent.futures.Future()
    key_path = directory / "verify_key.pem"
    KEY.verify_key.save(key_path)

    async def main() -> None:
        stop = asyncio.Event()
        stopping.set_result((asyncio.get_running_loop(), stop))
        address = f"unix:{directory}/inference"
        await serve(policy_address, key_path, RUN_ID, address, backend="numpy", on_ready=started.set_result, stop=stop)

    thread = threading.Thread(target=lambda: asyncio.run(main()), name="inference-service")
    thread.start()
    try:
        yield started.result(WAIT_S)
    finally:
        loop, stop = stopping.result(WAIT_S)
        loop.call_soon_threadsafe(stop.set)
        thread.join(WAIT_S)


@contextlib.contextmanager
def inference_of(directory: Path, artifact: Artifact | None) -> Iterator[tuple[PolicyBoard, str]]:
    """Both at once: the board behind it, and the address of the Inference service."""
    with distribution(directory, artifact) as (board, policy_address), inference(directory, policy_address) as address:
        yield board, address
