"""Which table a specification makes, and which specification is in force after a restart."""

from __future__ import annotations

import time
from collections.abc import Callable

from protos.replay.v1 import replay_pb2
from replay.sharding import global_position
from replay.tables.curated import CuratedTable
from replay.tables.fresh import FreshTable
from replay.tables.prioritised import PrioritisedTable
from replay.tables.stratified import StratifiedTable
from replay.tables.table import LogView, Table
from replay.tables.uniform import UniformTable

_TABLES: dict[str, type[Table]] = {
    table.kind: table for table in (FreshTable, UniformTable, PrioritisedTable, StratifiedTable)
}


def make_table(
    spec: replay_pb2.TableSpec,
    state: replay_pb2.TableState,
    view: LogView,
    seed: int = 0,
    *,
    clock_ns: Callable[[], int] = time.time_ns,
    shard: int = 0,
) -> Table:
    """The table that `spec`, which was checked, describes, as it was left with `state`; to be loaded.

    A state of another kind of table counts for nothing. In a filter `position` is the global one, as of this shard.
    """
    if state.HasField("spec") and state.spec.kind != spec.kind:
        state = replay_pb2.TableState()
    if spec.kind == CuratedTable.kind:
        return CuratedTable(spec, state, view, seed, clock_ns=clock_ns, first_position=global_position(shard, 0))
    return _TABLES[spec.kind](spec, state, view, seed, clock_ns=clock_ns)


def new_state(spec: replay_pb2.TableSpec, next_position: int) -> replay_pb2.TableState:
    """The state of a table that is made while the log is in use: a queue then begins with the next record.

    If it began with the oldest, appends would be held until somebody had consumed all that the log holds.
    """
    return replay_pb2.TableState(spec=spec, cursor=next_position if spec.kind == FreshTable.kind else 0)


def effective_spec(state: replay_pb2.TableState, configured: replay_pb2.TableSpec) -> replay_pb2.TableSpec:
    """What a configured table is told at the start: its last live change, if that was made under this configuration."""
    changed_live = state.HasField("spec") and state.HasField("configured") and state.configured == configured
    return state.spec if changed_live else configured
