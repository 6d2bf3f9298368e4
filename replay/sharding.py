"""Several replay servers as one: how their addresses are written, which of them an actor writes to, and what becomes of
positions.

The shards of a log are numbered from 0 in the order of their addresses: that order says what a position means and where
an actor writes, so more shards are added at the end, and none is taken out while its records are wanted. An address may
change from one start to the next.

Knows names and numbers only: nothing here connects to anything.

Exceptions: AddressError (protos.transport) for addresses that cannot be parsed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from protos.transport import AddressError, check_address

SHARD_BITS = 48
"""Bits of a position that are the position in its shard; the shard's number stands above them."""

SHARDS_MAX = 1 << 64 - SHARD_BITS

_LOCAL_MASK = (1 << SHARD_BITS) - 1

_SALT = b"temper-28"
"""Any would do in the long run; under this one the first few actors, by their usual names, are spread evenly too."""


def check_addresses(text: str) -> tuple[str, ...]:
    """The addresses of a replay service's shards: one, or several with commas between them.

    Raises AddressError where one is neither "unix:PATH" nor "HOST:PORT", or stands there twice.
    """
    addresses = tuple(check_address(part.strip()) for part in text.split(","))
    for address in addresses:
        if addresses.count(address) > 1:
            raise AddressError(f"address {address} stands twice in {text!r}: every shard has one of its own")
    if len(addresses) > SHARDS_MAX:
        raise AddressError(f"{len(addresses)} addresses of shards, at most {SHARDS_MAX} can be told apart")
    return addresses


def global_position(shard: int, position: int) -> int:
    """The position, among all shards, of the record at `position` of this shard; those of shard 0 are their own."""
    return shard << SHARD_BITS | position


def shard_of(position: int) -> int:
    """The shard that a global position lies in."""
    return position >> SHARD_BITS


def local_position(position: int) -> int:
    """Where a global position lies in its shard."""
    return position & _LOCAL_MASK


def shard_ranking(actor_id: str, shards: int) -> list[int]:
    """All shards, the one that an actor writes to first, then those that take its place in turn.

    Highest random weight: every pair of actor and shard has a weight, a hash of the two. So actors spread evenly; one
    that is added takes its even part of them, and leaves all others where they were. (Thaler and Ravishankar 1998,
    "Using name-based mappings to increase hit rates", IEEE/ACM Transactions on Networking 6(1).)
    """
    return sorted(range(shards), key=lambda shard: _weight(actor_id, shard), reverse=True)


def choose_shard(actor_id: str, addresses: Sequence[str], reachable: Callable[[str], bool]) -> int:
    """The number of the shard that a new run of this actor writes to.

    The first in the actor's ranking that can be reached, or just the first where none can. A run stays on its shard,
    because only that one knows what it has of the run; another run of the same actor may go elsewhere.

    Args:
      actor_id: of the actor.
      addresses: of the shards.
      reachable: whether the service at an address answers; not asked of those after the first that does.
    """
    ranking = shard_ranking(actor_id, len(addresses))
    if len(ranking) == 1:
        return ranking[0]
    return next((shard for shard in ranking if reachable(addresses[shard])), ranking[0])


def _weight(actor_id: str, shard: int) -> int:
    digest = hashlib.blake2b(f"{shard}/{actor_id}".encode(), digest_size=8, person=_SALT).digest()
    return int.from_bytes(digest, "big")
