"""Turns of shards in proportion to what they have, exact over time rather than on average only.

Every turn gives each shard that takes part its share of one, and costs the one whose turn it is one: the turn is that
of the shard with the most (as in smooth weighted round robin). So after n turns a shard has had its n shares to within
less than one turn for each shard, in place of the sqrt(n) by which a random choice strays.
"""

from __future__ import annotations

from collections.abc import Mapping


class Shares:
    """Whose turn it is. Knows nothing of batches or of waiting.

    Args:
      shards: how many there are.
    """

    def __init__(self, shards: int) -> None:
        self._credits = [0.0] * shards

    def turn(self, weights: Mapping[int, float]) -> int:
        """The shard whose turn it is among those that take part, the first of equals.

        Args:
          weights: above 0, by shard, of those that take part; the others neither gain nor lose.
        """
        total = sum(weights.values())
        return max(weights, key=lambda shard: self._credits[shard] + weights[shard] / total)

    def take(self, shard: int, weights: Mapping[int, float]) -> float:
        """Notes that this shard has had a turn among these; returns its share, the probability of such a turn."""
        total = sum(weights.values())
        for each, weight in weights.items():
            self._credits[each] += weight / total
        self._credits[shard] -= 1.0
        return weights[shard] / total
