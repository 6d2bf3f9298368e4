"""Fresh weights for the actors, and the lease under which they may be used.

A snapshot is only as good as its lease: a thread of its own renews the lease with the safety service while that
service agrees. When it refuses or is gone, nothing is done here: the lease runs out and the actors fall back to the
last release by themselves. When it tells of a breach, snapshot and lease are withdrawn at once, and the train loop must
roll back before there is another lease; an actor that has them goes on until his lease ends, `safety.lease_s` at most.
"""

from __future__ import annotations

import logging
import threading

import jax
import numpy as np

from learner.train_state import TrainState
from policies.artifact import Artifact
from policies.distribution import PolicyBoard
from policies.spec import PolicySpec
from protos.safety.v1 import safety_pb2
from safety.client import LeaseBreached, SafetyClient

_log = logging.getLogger(__name__)

RETRY_S = 0.2
"""Wait after a failed renewal; at start-up the safety service is usually only moments away."""


def artifact_bytes(spec: PolicySpec, state: TrainState) -> bytes:
    """The state's policy as an artifact; waits for the update that makes it."""
    parameters = {name: np.asarray(array) for name, array in jax.device_get(state.parameters).items()}
    return Artifact(spec, parameters).to_bytes()


class SnapshotPublisher:
    """Puts the policy on the board as a snapshot."""

    def __init__(self, spec: PolicySpec, board: PolicyBoard) -> None:
        self._spec = spec
        self._board = board
        self._held: tuple[int, bytes] | None = None

    def publish(self, state: TrainState) -> None:
        """Offers the state's policy to the actors; does not wait for any of them."""
        self.hold(state)
        self.publish_held()

    def hold(self, state: TrainState) -> None:
        """Makes a snapshot without offering it."""
        self._held = int(state.updates), artifact_bytes(self._spec, state)

    def publish_held(self) -> None:
        """Offers the snapshot made last."""
        if self._held is not None:
            self._board.publish_snapshot(*self._held)


class LeaseKeeper:
    """Renews the run's lease at a third of its life, in a thread, and puts each on the board.

    Args:
      client: grants the leases; not closed.
      board: offers them.
      run_id: the training run.
      rolled_back_epoch: the newest epoch whose breach was answered in an earlier start; 0: none.
    """

    def __init__(self, client: SafetyClient, board: PolicyBoard, run_id: str, rolled_back_epoch: int = 0) -> None:
        self._client = client
        self._board = board
        self._run_id = run_id
        self._lock = threading.Lock()
        self._rolled_back_epoch = rolled_back_epoch
        self._breach: LeaseBreached | None = None
        self._stopped = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease-keeper", daemon=True)
        self._refusal = ""

    def start(self) -> None:
        """Starts renewing, at once."""
        self._thread.start()

    @property
    def refusal(self) -> str:
        """Why the last renewal failed; "" if it did not."""
        return self._refusal

    @property
    def breach(self) -> LeaseBreached | None:
        """The breach that must be answered by rolling back; None where there is none."""
        with self._lock:
            return self._breach

    def rolled_back(self, epoch: int) -> None:
        """The breach of this epoch is answered, and the new snapshot is on the board: asks for a lease at once."""
        with self._lock:
            self._rolled_back_epoch, self._breach = epoch, None
        self._wake.set()

    def close(self) -> None:
        """Stops renewing; the last lease runs out by itself."""
        self._stopped = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        wait_s = 0.0
        while True:
            self._wake.wait(wait_s)
            self._wake.clear()
            if self._stopped:
                return
            try:
                lease = self._client.renew_lease(self._run_id, self._rolled_back_epoch)
                self._board.publish_lease(lease)
            except Exception as error:  # noqa: BLE001  whatever it was: if renewing ended, every actor would stop
                if isinstance(error, LeaseBreached):
                    self._take_breach(error)
                if str(error) != self._refusal:
                    _log.warning("no lease: %s", error)
                self._refusal, wait_s = str(error), RETRY_S
            else:
                terms = safety_pb2.LeaseStatement.FromString(lease.payload)
                self._refusal, wait_s = "", (terms.expiry_time_ns - terms.issue_time_ns) / 3e9

    def _take_breach(self, breach: LeaseBreached) -> None:
        with self._lock:
            if breach.epoch <= self._rolled_back_epoch:
                # It was answered while the question was on its way.
                return
            if self._breach is None or self._breach.epoch != breach.epoch:
                # Before the train loop can know of it, so that what it publishes in answer stays.
                self._board.withdraw_snapshot()
            self._breach = breach
