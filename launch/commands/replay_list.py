"""`temper replay list`: records in log order, one line each, without sampling them.

--json prints one object a line: the record as launch.record_view says, or with --columns these fields alone, null where
the record lacks one. Where there are more, how to go on is said on standard error: from the next one's position.
"""

from __future__ import annotations

import sys
from itertools import chain, islice

from launch.arguments_replay import ReplayList
from launch.json_output import json_line
from launch.record_view import HEADING, Columns, record_json, record_line
from launch.replay_target import check_range, open_source


def run(arguments: ReplayList) -> int:
    """Prints as many as wanted, and where to go on if there are more."""
    check_range(arguments.from_position, arguments.limit)
    chosen = Columns(arguments.columns) if arguments.columns else None
    limit = arguments.limit or None
    with open_source(arguments.target, writable=False) as source:
        records = source.records(
            filter_text=arguments.filter,
            from_position=arguments.from_position,
            # One more than wanted tells whether there are more.
            limit=arguments.limit + 1 if limit else 0,
        )
        # A service refuses a filter when it is asked for the first record: before anything is printed.
        begun = list(islice(records, 1))
        if not arguments.json:
            print(chosen.heading if chosen else HEADING)
        for record in islice(chain(begun, records), limit):
            if arguments.json:
                print(json_line(chosen.values(record) if chosen else record_json(record)))
            else:
                print(chosen.line(record) if chosen else record_line(record))
        following = next(records, None)
    if following is not None:
        print(f"next: --from {following.position}", file=sys.stderr if arguments.json else sys.stdout)
    return 0
