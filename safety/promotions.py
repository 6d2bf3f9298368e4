"""A promotion as the ledger has it: its fields, and how many there may be. Signs and stores nothing.

Exceptions: PromotionRefused.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2

PROMOTIONS_MAX = 100_000
"""Most promotions of one run: a learner that starts asks for all of them."""

PAGE_PROMOTIONS = 256
"""Most promotions in one answer; each has a few hundred bytes."""


class PromotionRefused(ValueError):
    """What is no canary that waits to be decided, or is another run's; nothing was decided."""


def promotion_fields(signed: common_pb2.SignedStatement, statement: safety_pb2.PromotionStatement) -> Mapping[str, Any]:
    """A promotion's fields in the ledger: the signed statement whole, and beside it what a person wants to read."""
    return {
        "statement": base64.b64encode(signed.SerializeToString(deterministic=True)).decode(),
        "run_id": statement.run_id,
        "promotion_number": statement.promotion_number,
        "release_number": statement.release_number,
        "artifact_digest": statement.artifact_digest.hex(),
        "episodes": statement.episodes,
        "violating_episodes": statement.violating_episodes,
        "why": statement.why,
    }
