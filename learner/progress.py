"""How far a training run has come: what a checkpoint keeps beside the arrays, and what the metrics report.

Plain numbers and JSON; no devices, no files.

Exceptions: ProgressError for what was kept by a version that kept it differently.
"""

from __future__ import annotations

import base64
import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learner.lineage import ConsumedRecords
from learner.lineage_provenance import ConsumedProvenance
from protos.common.v1 import common_pb2
from replay.sharding import local_position, shard_of

RECENT_EPISODES = 100
LAG_HISTORY_RECORDS = 10_000


class ProgressError(ValueError):
    """What a checkpoint keeps of the progress is not what this version keeps."""


@dataclasses.dataclass
class Progress:
    """Counters of one training run, across restarts. Mutable: the train loop owns it."""

    seed: int
    """What the first parameters came from; updates are deterministic. Replayed records are drawn by their table from
    its own seed and its count of samples, and noted in the journal of draws: that is all the random state there is."""
    updates: int = 0
    batches: int = 0
    """Batches taken from replay, those included that were not learnt from."""
    fresh: dict[int, int] = dataclasses.field(default_factory=dict)
    """First position of the fresh table that has not been taken, by shard; empty: nothing has."""
    env_steps: int = 0
    """Environment steps learnt from, each once, however often it was replayed."""
    wall_s: float = 0.0
    """Time the learner has run, from the start of its process; time between a crash and a restart is not counted."""
    lag_sum: float = 0.0
    lag_count: int = 0
    replay_counters: dict[str, float] = dataclasses.field(default_factory=dict)
    """Replay's own counters and limiter state as of the last checkpoint, for comparison after a crash."""
    consumed: ConsumedRecords = dataclasses.field(default_factory=ConsumedRecords)
    provenance: ConsumedProvenance = dataclasses.field(default_factory=ConsumedProvenance)
    """Of the consumed records."""
    recent_lags: collections.deque[float] = dataclasses.field(
        default_factory=lambda: collections.deque(maxlen=LAG_HISTORY_RECORDS)
    )
    recent_returns: collections.deque[tuple[float, float]] = dataclasses.field(
        default_factory=lambda: collections.deque(maxlen=4 * RECENT_EPISODES)
    )
    """(sum of returns, episodes) of the newest records in which an episode ended."""
    rolled_back_epoch: int = 0
    """The newest epoch of leases whose breach was answered by rolling back; 0: none."""
    rollbacks: int = 0
    rollbacks_in_a_row: int = 0
    """Those since the newest release."""
    newest_release: int = 0
    """Number of the newest release that this learner has seen made; 0: none."""
    undone_after: int = 0
    undone_until: int = 0
    """Versions above the one and up to the other were undone by the newest rollback."""
    undone_records: int = 0
    """Fresh records that were drawn and not learnt from, because undone weights had acted in their batch."""

    dropped_stale_records: int = 0
    """Records that were drawn and not learnt from, because their policy lagged by more than `staleness_max`."""

    def roll_back(self, epoch: int, version: int) -> None:
        """The weights are those of `version` again. The count of updates is one more: versions only ascend."""
        self.undone_after, self.undone_until = version, self.updates
        self.updates += 1
        self.rolled_back_epoch = epoch
        self.rollbacks += 1
        self.rollbacks_in_a_row += 1
        self.recent_returns.clear()

    def released(self, number: int) -> None:
        """A candidate has become a release; a verdict that is only told again is none."""
        if number > self.newest_release:
            self.newest_release, self.rollbacks_in_a_row = number, 0

    def is_undone(self, headers: Sequence[common_pb2.RecordHeader]) -> bool:
        """Whether undone weights have acted in any of these records."""
        return self.undone_until > self.undone_after and any(
            self.undone_after < span.version <= self.undone_until for header in headers for span in header.policies
        )

    def take(self, fresh_positions: Sequence[int]) -> None:
        """Counts a batch as taken, whose fresh records stand at these positions, in their order."""
        self.batches += 1
        for position in fresh_positions:
            self.fresh[shard_of(position)] = local_position(position) + 1

    def add_records(
        self,
        positions: Sequence[int],
        headers: Sequence[common_pb2.RecordHeader],
        origins: Sequence[common_pb2.Origin],
    ) -> None:
        """Counts the records of a batch among those that have been learnt from, each once however often it comes."""
        new = self.consumed.add(positions)
        self.provenance.add([headers[index] for index in new], [origins[index] for index in new])

    def add_lags(self, lags: NDArray[np.float64]) -> None:
        """Counts the policy lag of each record of a batch (updates)."""
        self.lag_sum += float(lags.sum())
        self.lag_count += len(lags)
        self.recent_lags.extend(lags.tolist())

    def add_episodes(self, headers: Sequence[common_pb2.RecordHeader]) -> None:
        """Counts the episodes that ended in these records."""
        for header in headers:
            episodes = header.signals.get("episodes", 0.0)
            if episodes > 0:
                self.recent_returns.append((header.signals["return"], episodes))

    @property
    def recent_return(self) -> float | None:
        """Mean undiscounted return of about the last 100 training episodes; None before there are 20."""
        total, count = 0.0, 0.0
        for returns, episodes in reversed(self.recent_returns):
            total, count = total + returns, count + episodes
            if count >= RECENT_EPISODES:
                break
        return total / count if count >= RECENT_EPISODES / 5 else None

    @property
    def policy_lag(self) -> dict[str, float]:
        """Mean over the run, and 95th percentile over the recent records (updates)."""
        if not self.lag_count:
            return {"mean": 0.0, "p95": 0.0}
        return {
            "mean": self.lag_sum / self.lag_count,
            "p95": float(np.percentile(np.array(self.recent_lags), 95)) if self.recent_lags else 0.0,
        }

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON types."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain["fresh"] = {str(shard): position for shard, position in self.fresh.items()}
        plain["consumed"] = base64.b64encode(self.consumed.to_bytes()).decode()
        plain["provenance"] = self.provenance.to_json()
        plain["recent_lags"] = list(self.recent_lags)
        plain["recent_returns"] = list(self.recent_returns)
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Progress:
        """What `to_json` gave. Raises ProgressError."""
        plain = dict(plain)
        try:
            lags, returns = plain.pop("recent_lags"), plain.pop("recent_returns")
            consumed = ConsumedRecords.from_bytes(base64.b64decode(plain.pop("consumed"), validate=True))
            provenance = ConsumedProvenance.from_json(plain.pop("provenance"))
            fresh = {int(shard): int(position) for shard, position in plain.pop("fresh", {}).items()}
            progress = cls(**plain, fresh=fresh, consumed=consumed, provenance=provenance)
            progress.recent_lags.extend(lags)
            progress.recent_returns.extend((total, count) for total, count in returns)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ProgressError(f"the progress in it was kept by another version of temper: {error!r}") from error
        return progress
