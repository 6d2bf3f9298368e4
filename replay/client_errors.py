"""What can go wrong between a client and the replay service, and how long a client waits before it tries again.

ReplayError            anything a replay client raises about the service
  ReplayUnavailable    not reached, or no answer in time: try again later
  ReplayRefused        the service said no, and will again: trying again is no use
  SampleTimeout        no batch yet; nothing is lost, ask again
"""

from __future__ import annotations

import random

import grpc

_BACKOFF_S_MIN = 0.05

_PERMANENT = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.DATA_LOSS,
)


class ReplayError(Exception):
    """Anything a replay client raises about the service."""


class ReplayUnavailable(ReplayError):
    """The service was not reached, or did not answer in time. Try again later."""


class ReplayRefused(ReplayError):
    """The service refused, and would refuse the same again; the message is its own."""


class SampleTimeout(ReplayError):
    """No batch arrived in time. Nothing is lost: ask again."""


def translate(error: grpc.RpcError, address: str) -> ReplayError:
    """The client's exception for a failed call: ReplayRefused if the status is permanent, else ReplayUnavailable."""
    code, details = error.code(), error.details()
    if code in _PERMANENT:
        return ReplayRefused(f"replay at {address} refused: {details} ({code.name})")
    return ReplayUnavailable(f"replay at {address}: {details} ({code.name})")


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
