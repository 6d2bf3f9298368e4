"""`temper replay tables`: what each table of a store is; creates one, or changes one while it is in use.

--json prints one object a table: the fields of TableStats in replay.proto under their names. With SPEC only of the
table that it is about, as it is then. How many records pass the filter of a curated table only a service knows: of a
directory that nobody serves, those available are all that it chooses from.
"""

from __future__ import annotations

from collections.abc import Iterable

from launch.arguments_replay import ReplayTables
from launch.errors import BadInput
from launch.json_output import json_line, message_json
from launch.replay_target import Place, locate, open_client, open_source
from protos.replay.v1 import replay_pb2
from replay.table_spec import format_spec, parse_spec


def run(arguments: ReplayTables) -> int:
    """Prints the tables, or the one that SPEC made or changed."""
    is_served = True
    if arguments.spec:
        spec = parse_spec(arguments.spec)
        tables: Iterable[replay_pb2.TableStats] = _set(locate(arguments.target), spec)
    else:
        with open_source(arguments.target, writable=False) as source:
            stats = source.stats()
        tables, is_served = stats.tables, bool(stats.durability)
    for table in tables:
        print(json_line(message_json(table)) if arguments.json else _described(table, is_served))
    return 0


def _set(place: Place, spec: replay_pb2.TableSpec) -> list[replay_pb2.TableStats]:
    """The table as each shard has it then. Raises BadInput."""
    if not place.addresses:
        raise BadInput(
            f"nobody serves {place.text}: tables are changed live; start its service, or set replay.tables of its run"
        )
    changed = []
    for address in place.addresses:
        with open_client(address) as client:
            changed.append(client.set_table(spec))
    return changed


def _described(table: replay_pb2.TableStats, is_served: bool) -> str:
    records = f"{table.available:,} records from position {table.first_position}"
    passing = "those that pass of " if table.kind == "curated" and not is_served else ""
    return f"{format_spec(table.spec)}: {passing}{records}"
