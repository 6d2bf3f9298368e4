"""Asks the services of a run for what the view, the summary and the status show; a service that is down is no error.

Exceptions: none of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from launch.monitor import CALL_S_MAX, VERDICTS_SHOWN_MAX
from launch.verdicts import Counts, Verdict, read_verdict
from protos.replay.v1 import replay_pb2
from replay.client import ReplayClient, ReplayError
from safety.client import LeaseRefused, OfferRefused, SafetyClient, SafetyUnavailable

# Whatever a service answers in place of what was asked for, there is nothing to show.
_NO_ANSWER = (ReplayError, SafetyUnavailable, OfferRefused, LeaseRefused)


class ReplayQuestions:
    """Asks one replay service for its counters. Use as a context manager."""

    def __init__(self, address: str) -> None:
        self._client = ReplayClient(address)

    def stats(self, timeout_s: float = CALL_S_MAX) -> replay_pb2.StatsResponse | None:
        """The counters now, or None when the service does not answer in time."""
        try:
            return self._client.stats(timeout_s)
        except _NO_ANSWER:
            return None

    def __enter__(self) -> ReplayQuestions:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the channel."""
        self._client.close()


class GateQuestions:
    """Asks one safety service what it has decided. Use as a context manager."""

    def __init__(self, address: str) -> None:
        self._client = SafetyClient(address)

    def verdicts(self, timeout_s: float = CALL_S_MAX) -> Sequence[Verdict] | None:
        """The newest verdicts, newest first, or None when the service does not answer in time."""
        try:
            statements = self._client.verdicts(VERDICTS_SHOWN_MAX, timeout_s)
        except _NO_ANSWER:
            return None
        return [verdict for statement in statements if (verdict := read_verdict(statement)) is not None]

    def counts(self, timeout_s: float = CALL_S_MAX) -> Counts | None:
        """How many candidates were judged, or None when the service does not answer in time."""
        try:
            trust = self._client.trust(timeout_s)
        except _NO_ANSWER:
            return None
        return Counts(trust.approved, trust.rejected)

    def __enter__(self) -> GateQuestions:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the channel."""
        self._client.close()
