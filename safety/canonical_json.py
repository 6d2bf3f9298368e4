"""The one JSON text of a value: sorted keys, no spaces, no NaN. What is digested is always this text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping


def canonical_json(value: Mapping[str, object]) -> bytes:
    """The canonical UTF-8 text of a JSON object, without a line feed. Raises ValueError for NaN and infinities."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def canonical_digest(value: Mapping[str, object]) -> bytes:
    """SHA-256 of the canonical text (32 bytes)."""
    return hashlib.sha256(canonical_json(value)).digest()
