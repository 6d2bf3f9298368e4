"""The file that keeps what the risk monitor knows across restarts of the safety service. Judges nothing.

It is a canonical JSON object: the epoch, the counts that the test has seen (null where the epoch has not begun), the
test's state, and the SHA-256 of all that. It is replaced whole. It is no secret and needs no signature: whoever can
write in the safety service's directory can replace its keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from policies.durable import replace_file
from safety.canonical_json import canonical_digest, canonical_json
from safety.leases.training_totals import TrainingCounts
from safety.statistics.breach import BreachRule, BreachState, start, state_fields, state_in
from safety.statistics.sequential import StateError

FILE_NAME = "lease_monitor.json"

_KIND = "temper.lease-monitor.v1"


class MonitorState(NamedTuple):
    """What an epoch's monitor knows.

    `seen` are the counts that `watch` has taken in, where it began included; None: the epoch has not begun.
    """

    seen: TrainingCounts | None
    watch: BreachState


def write_state(path: Path, epoch: int, state: MonitorState, rule: BreachRule) -> None:
    """Puts the state on disk, synced. Raises OSError."""
    fields = {
        "kind": _KIND,
        "epoch": epoch,
        "seen": None if state.seen is None else list(state.seen),
        "watch": state_fields(rule, state.watch),
    }
    replace_file(path, canonical_json({**fields, "digest": canonical_digest(fields).hex()}) + b"\n", 0o600)


def read_state(path: Path, epoch: int, rule: BreachRule) -> MonitorState | None:
    """The state of this epoch; None where the file is missing, damaged, of another epoch, or of another rule."""
    try:
        fields = json.loads(path.read_bytes())
        digest = fields.pop("digest")
        if digest != canonical_digest(fields).hex() or (fields["kind"], fields["epoch"]) != (_KIND, epoch):
            return None
        return _state_in(fields, rule)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _state_in(fields: Mapping[str, object], rule: BreachRule) -> MonitorState | None:
    seen = fields["seen"]
    if seen is None:
        return MonitorState(None, start())
    if not isinstance(seen, list) or len(seen) != 2 or not all(type(each) is int and each >= 0 for each in seen):
        return None
    try:
        watch = fields["watch"]
        return MonitorState(TrainingCounts(*seen), state_in(rule, watch)) if isinstance(watch, dict) else None
    except StateError:
        return None
