"""What a rule may remember from record to record: sketches of bounded size, seeded, one context for each rule.

The same records in the same order with the same seed give the same answers. What is remembered is lost when the process
ends: a rule run again from the beginning of the log gives the same signals, one that is run from the middle knows
nothing of what came before.

Exceptions: KeyError for a parameter that the rule was not registered with; ValueError for one that has no value.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.curation.sketches import FirstSeen, SimHash, VisitCounts

_SIMHASHES_MAX = 8
"""Kinds of vectors whose planes are kept: up to 16 MB each, and the same again when they are made again."""


class CurationContext:
    """The memory of one rule in one run over a log.

    Args:
      parameters: of the rule; None where neither the rule nor whoever runs it gave a value.
      seed: of everything hashed at random.
    """

    def __init__(self, parameters: Mapping[str, float | None] | None = None, seed: int = 0) -> None:
        self._parameters = dict(parameters or {})
        self._seed = seed
        self._first_seen: FirstSeen | None = None
        self._visits: VisitCounts | None = None
        self._simhash: OrderedDict[tuple[int, int], SimHash] = OrderedDict()

    def parameter(self, name: str) -> float:
        """The value of a parameter. Raises KeyError for an unknown one, ValueError where it has no value."""
        value = self._parameters[name]
        if value is None:
            raise ValueError(f"parameter {name!r} has no value, and no default: give it one")
        return value

    def optional_parameter(self, name: str) -> float | None:
        """The value of a parameter, None where it has none. Raises KeyError for an unknown one."""
        return self._parameters[name]

    def first_seen(self, key: bytes, position: int) -> int:
        """The position at which `key` was seen first, which is `position` itself if it was not seen before.

        The newest million keys or so are remembered.
        """
        if self._first_seen is None:
            self._first_seen = FirstSeen(self._seed)
        return self._first_seen.first(key, position)

    def visits(self, codes: NDArray[np.uint64], kind: bytes = b"") -> NDArray[np.int64]:
        """How often each of `codes` [n] came in earlier calls with the same `kind` (int64 [n]); then counts them.

        Codes that fall together in the sketch are counted together, so it never says too little.
        """
        if self._visits is None:
            self._visits = VisitCounts(self._seed)
        return self._visits.before(codes, kind)

    def simhash(self, values: NDArray[Any], bits: int = 32) -> NDArray[np.uint64]:
        """A code of `bits` (1 to 64) for each row of `values` [n, D]; near rows tend to have the same."""
        key = (values.shape[1], bits)
        if key not in self._simhash:
            self._simhash[key] = SimHash(*key, self._seed)
            if len(self._simhash) > _SIMHASHES_MAX:
                self._simhash.popitem(last=False)
        self._simhash.move_to_end(key)
        return self._simhash[key].codes(values)
