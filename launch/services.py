"""Asks the services of a run for what the view, the summary and the status show; a service that is down is no error.

Exceptions: none of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from launch.monitor import CALL_S_MAX, VERDICTS_SHOWN_MAX
from launch.topology import names_of
from launch.verdicts import Revoked, Verdict, read_revocation, read_verdict
from protos.replay.v1 import replay_pb2
from replay.client import ReplayClient, ReplayError
from replay.shard_stats import summed_stats
from replay.sharding import check_addresses
from safety.client import LeaseRefused, OfferRefused, SafetyClient, SafetyUnavailable
from safety.revocations import RevocationRefused

# Whatever a service answers in place of what was asked for, there is nothing to show.
_NO_ANSWER = (ReplayError, SafetyUnavailable, OfferRefused, LeaseRefused, RevocationRefused)


class ReplayQuestions:
    """Asks the replay service, or each of its shards, for its counters. Use as a context manager.

    Args:
      addresses: of the shards, with commas between them.
    """

    def __init__(self, addresses: str) -> None:
        self._clients = [ReplayClient(address) for address in check_addresses(addresses)]
        self._names = names_of("replay", len(self._clients))
        self._known: dict[str, replay_pb2.StatsResponse] = {}
        self.down: Sequence[str] = ()
        # At once, so that a shard that is down delays nobody's figures but its own.
        self._pool = ThreadPoolExecutor(len(self._clients), "replay-questions")

    def stats(self, timeout_s: float = CALL_S_MAX) -> replay_pb2.StatsResponse | None:
        """The counters now, or None when no shard answers in time; one that does not counts with what it last said."""

        def ask(client: ReplayClient) -> replay_pb2.StatsResponse | None:
            try:
                return client.stats(timeout_s)
            except _NO_ANSWER:
                return None

        each = zip(self._names, self._pool.map(ask, self._clients), strict=True)
        answers = {name: answer for name, answer in each if answer is not None}
        self._known |= answers
        if len(self._clients) > 1:
            self.down = [name for name in self._names if name not in answers]
            return summed_stats(self._known[name] for name in self._names if name in self._known) if answers else None
        return next(iter(answers.values()), None)

    def __enter__(self) -> ReplayQuestions:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the channels."""
        self._pool.shutdown()
        for client in self._clients:
            client.close()


class GateQuestions:
    """Asks one safety service what it has decided about a run. Use as a context manager."""

    def __init__(self, address: str, run_id: str) -> None:
        self._client = SafetyClient(address)
        self._run_id = run_id
        self._revoked: list[Revoked] = []

    def verdicts(self, timeout_s: float = CALL_S_MAX) -> Sequence[Verdict] | None:
        """The newest verdicts, newest first, or None when the service does not answer in time."""
        try:
            statements = self._client.verdicts(VERDICTS_SHOWN_MAX, timeout_s)
        except _NO_ANSWER:
            return None
        return [verdict for statement in statements if (verdict := read_verdict(statement)) is not None]

    def revoked(self, timeout_s: float = CALL_S_MAX) -> Sequence[Revoked] | None:
        """The revoked releases, oldest first, or None when the service does not answer in time.

        A revocation is for good, so only what is not known yet is asked for.
        """
        try:
            statements = self._client.revocations(self._run_id, len(self._revoked), timeout_s)
        except _NO_ANSWER:
            return None
        self._revoked += [each for statement in statements if (each := read_revocation(statement)) is not None]
        return tuple(self._revoked)

    def __enter__(self) -> GateQuestions:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the channel."""
        self._client.close()
