"""Rules about what came of a record: whether it succeeded, what it violated, whether re-execution confirmed it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from replay.curation.context import CurationContext
from replay.curation.rules import rule
from replay.record import LoggedRecord

RETURN_THRESHOLDS: Mapping[str, float] = {
    "cartpole": 475.0,
    "gym:CartPole-v1": 475.0,
    "catch": 1.0,
    "catch-memory": 1.0,
    "gym:Acrobot-v1": -100.0,
    "gym:MountainCar-v0": -110.0,
}
"""The return from which an episode counts as a success, by environment id, as those who made them say."""


@rule("success", signals=("success",), parameters={"threshold": None})
def success(record: LoggedRecord, context: CurationContext) -> Mapping[str, float]:
    """1 where the episodes that ended in the record had at least `threshold` return on average, else 0.

    Without `threshold` it is that of RETURN_THRESHOLDS. Says nothing where no episode ended, or no threshold is known.
    """
    threshold = context.optional_parameter("threshold")
    if threshold is None:
        threshold = RETURN_THRESHOLDS.get(record.origin.environment.id)
    ended = record.header.signals.get("episodes", 0.0)
    if threshold is None or not ended > 0 or "return" not in record.header.signals:
        return {}
    return {"success": float(record.header.signals["return"] / ended >= threshold)}


@rule("violations", signals=("violations", "violation_rate"), needs_payload=True)
def violations(record: LoggedRecord, _context: CurationContext) -> Mapping[str, float]:
    """How many steps cost something, and which part of the steps made that is."""
    cost = record.step_columns.get("cost")
    if cost is None:
        return {}
    mask = record.step_columns.get("mask")
    made = len(cost) if mask is None else int(np.count_nonzero(mask))
    violating = int(np.count_nonzero(cost > 0))
    return {"violations": float(violating), "violation_rate": violating / made if made else 0.0}


@rule("reward_verified", signals=("reward_verified",))
def reward_verified(record: LoggedRecord, _context: CurationContext) -> Mapping[str, float]:
    """1 where re-execution gave the same record, 0 where it did not; nothing where it was not tried.

    Reads what was found out here, never what whoever wrote the record says about it.
    """
    if record.marks.signals.get("mismatch", 0.0) > 0:
        return {"reward_verified": 0.0}
    if record.marks.signals.get("verified", 0.0) > 0:
        return {"reward_verified": 1.0}
    return {}
