"""Acting in step with the learner: a set number of unrolls by each snapshot, then a wait for the next one.

Otherwise it depends on timing which snapshot acts in which step, and two runs of one seed differ. In lockstep the
records are a function of the seed: unroll N is acted by snapshot N // unrolls, from its first step to its last, and the
learner has nothing to make the next snapshot from until it has them all. Acting and learning take turns, which costs
the time that they would have shared.

Only snapshots act, under a live lease: where there is none for a while the actor waits. A snapshot that is another one
begins a new count, so a learner that could not go on exactly where it was finds an actor that goes on with it. An actor
that is started again begins again with the episodes of its first start.

Wraps a policy source and a record writer for one rollout; decides nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from actors.rollout import PolicySource, RecordWriter
from policies.client import ActingPolicy
from protos.common.v1 import common_pb2

SEED_NAME = "lockstep"
"""Stands for the run id, which is another one in every start, in what seeds are derived from."""

_LOOK_S = 0.002
"""Time between two looks for the next snapshot: nothing else of the run goes on meanwhile."""


class Lockstep:
    """Both ends of a rollout: gives it the policy to act with, and counts the unrolls that it hands over.

    Args:
      policies: where snapshots come from.
      writer: takes the records, of one unroll of all lanes in each call.
      unrolls: to be acted by each snapshot, at least 1.
    """

    def __init__(self, policies: PolicySource, writer: RecordWriter, unrolls: int) -> None:
        self._policies = policies
        self._writer = writer
        self._unrolls = unrolls
        self._acting: ActingPolicy | None = None
        self._left = 0

    def current(self) -> ActingPolicy | None:
        """The snapshot that may act at this moment; None where there is none, or it has acted all that it is to."""
        acting = self._policies.current()
        if acting is None or acting.kind != "snapshot":
            return None
        if acting is not self._acting:
            self._acting, self._left = acting, self._unrolls
        return acting if self._left else None

    def wait(self, timeout_s: float) -> ActingPolicy | None:
        """The same, after waiting for one for at most `timeout_s`."""
        end_s = time.monotonic() + timeout_s
        while (acting := self.current()) is None and time.monotonic() < end_s:
            time.sleep(_LOOK_S)
        return acting

    def append(self, headers: Sequence[common_pb2.RecordHeader], payloads: Sequence[bytes], timeout_s: float) -> None:
        """Hands the records of an unroll on; see RecordWriter."""
        self._writer.append(headers, payloads, timeout_s)
        self._left -= 1
