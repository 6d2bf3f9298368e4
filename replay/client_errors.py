"""What can go wrong between a client and the replay service, and how long a client waits before it tries again.

ReplayError            anything a replay client raises about the service
  ReplayUnavailable    not reached, or no answer in time: try again later
    ReplayFaulty       the service answered that it failed itself: try again, but not for ever
  ReplayRefused        the service said no, and will again, or does nothing but fail: trying again is no use
  SampleTimeout        no batch yet; nothing is lost, ask again
"""

from __future__ import annotations

import logging
import math
import random
import time

import grpc

_BACKOFF_S_MIN = 0.05
_REASONS_MAX = 8
_SETTLED_S = 10.0
"""After so long without anything new, success counts as the end of an outage (s)."""

_PERMANENT = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
)

_FAULTS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


class ReplayError(Exception):
    """Anything a replay client raises about the service."""


class ReplayUnavailable(ReplayError):
    """The service was not reached, or did not answer in time. Try again later."""


class ReplayFaulty(ReplayUnavailable):
    """The service was reached and failed, in a way that it has no name for. It may not fail the next time."""


class ReplayRefused(ReplayError):
    """The service refused, and would refuse the same again; the message is its own."""


class SampleTimeout(ReplayError):
    """No batch arrived in time. Nothing is lost: ask again.

    Attributes:
      why: what has failed since the last batch; "" where nothing has, there are just no records.
    """

    def __init__(self, message: str, why: str = "") -> None:
        super().__init__(message)
        self.why = why


def translate(error: grpc.RpcError, address: str) -> ReplayError:
    """The client's exception for a failed call: ReplayRefused if the status is permanent, ReplayFaulty if it tells of a
    fault, else ReplayUnavailable.
    """
    code, details = error.code(), error.details()
    if code in _PERMANENT:
        return ReplayRefused(f"replay at {address} refused: {details} ({code.name})")
    if code in _FAULTS:
        return ReplayFaulty(f"replay at {address} failed: {details} ({code.name})")
    return ReplayUnavailable(f"replay at {address}: {details} ({code.name})")


class FailureLog:
    """Logs why something does not work, once for each reason, until it works again.

    Something that works for a moment and fails again, for the same reason, is not worth a line each time; nor are more
    reasons than a few.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._told: set[str] = set()
        self._last_s = -math.inf

    def failed(self, reason: str) -> None:
        """It does not work."""
        if reason in self._told or len(self._told) >= _REASONS_MAX:
            return
        self._told.add(reason)
        self._last_s = time.monotonic()
        self._log.warning("%s", reason)

    def worked(self) -> None:
        """It works."""
        if self._told and time.monotonic() - self._last_s > _SETTLED_S:
            self._told.clear()


class Backoff:
    """Waiting times that double from 50 ms to a maximum, each shortened at random by up to half, so that many clients
    of a service that comes back do not all arrive at once.
    """

    def __init__(self, maximum_s: float) -> None:
        self._maximum_s = maximum_s
        self._next_s = min(_BACKOFF_S_MIN, maximum_s)

    def next_s(self) -> float:
        """The time to wait now (s)."""
        wait_s = self._next_s * random.uniform(0.5, 1.0)  # noqa: S311  spreads arrivals, hides nothing
        self._next_s = min(2.0 * self._next_s, self._maximum_s)
        return wait_s

    def reset(self) -> None:
        """After a success: start from the shortest again."""
        self._next_s = min(_BACKOFF_S_MIN, self._maximum_s)
