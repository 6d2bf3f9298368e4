"""Which actors act with a release that is a canary: those whose names hash below its share. Knows no statements.

The hash is of the name alone, so an actor is in the same shares for as long as it is called the same: a small fleet can
be named such that somebody is in, and no actor draws lots anew whenever it starts. A person can tell beforehand who it
will be. Names are no secret, and the share is no defence against an actor that lies about its own.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

_DOMAIN = b"temper.canary.v1\n"


def unit(actor_id: str) -> float:
    """The actor's place in [0, 1]: the first 8 bytes of the SHA-256 of its name, as a share of 2^64."""
    digest = hashlib.sha256(_DOMAIN + actor_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def in_share(actor_id: str, share: float) -> bool:
    """Whether an actor of that name acts with a canary of that share."""
    return unit(actor_id) < share


def least_share(actor_ids: Iterable[str]) -> float:
    """The least share that includes one of these actors, of which there must be one at least."""
    return math.nextafter(min(unit(actor_id) for actor_id in actor_ids), math.inf)
