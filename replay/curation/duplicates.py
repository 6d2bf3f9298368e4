"""The rules `duplicate_of` and `near_duplicate_of`: records whose content came before.

Both name the position of the first such record among the newest million or so. They do not say which of the two is the
original: only which was stored first. A signal holds a position exactly in the first 32 shards of a log; in a later one
the rules fail, which is counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from replay.curation.context import CurationContext
from replay.curation.rules import rule
from replay.provenance import SIGNAL_MAX
from replay.record import LoggedRecord


@rule("duplicate_of", signals=("duplicate_of",))
def duplicate_of(record: LoggedRecord, context: CurationContext) -> Mapping[str, float]:
    """Position of the first record with exactly the same stored payload, where there is an earlier one.

    By digest, so no payload is read; the same columns in another encoding have another digest.
    """
    first = context.first_seen(record.header.payload_digest, record.position)
    return {"duplicate_of": _as_signal(first)} if first != record.position else {}


@rule("near_duplicate_of", signals=("near_duplicate_of",), needs_payload=True, parameters={"quantum": 0.01})
def near_duplicate_of(record: LoggedRecord, context: CurationContext) -> Mapping[str, float]:
    """Position of the first record with the same observations, to within `quantum`, and the same actions.

    Observations are rounded to multiples of `quantum` and hashed together with the actions, so two that lie on both
    sides of a rounding edge are not recognised. Rewards and policies may differ: relabelling makes no new experience.
    """
    quantum = context.parameter("quantum")
    if not quantum > 0:
        raise ValueError(f"quantum = {quantum} must be above 0")
    digest = hashlib.blake2b(record.origin.environment.code_digest, digest_size=16)
    for name, column in sorted(record.columns.items()):
        if column.dtype.kind == "f" and name.startswith("observation"):
            with np.errstate(all="ignore"):  # what is not finite rounds to something fixed, which will do
                digest.update(np.rint(column / quantum).astype(np.int64).tobytes())
        elif name == "action" or name.startswith(("action/", "observation")):
            digest.update(column.tobytes())
    first = context.first_seen(digest.digest(), record.position)
    return {"near_duplicate_of": _as_signal(first)} if first != record.position else {}


def _as_signal(position: int) -> float:
    if position > SIGNAL_MAX:
        raise ValueError(f"position {position} is above {SIGNAL_MAX:.0f}: no signal can hold it exactly")
    return float(position)
