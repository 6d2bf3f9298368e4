"""`temper replay audit`: recomputes the hash chain over the records in a store, from its files.

The chain shows what was altered since somebody kept a head of it: so the head is printed, as POSITION:HEX, to be kept
elsewhere and given to a later audit. Records evicted since then are covered by the head, but can no longer be read.

--json prints one object, or one a line where there are several shards:
    directory, records, first_position, next_position (of what was audited),
    head (POSITION:HEX of the newest record, null without records), intact,
    altered_position (of the first record found altered, null where it is not known or nothing was), and reason ("" or
    what is wrong).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.arguments_replay import ReplayAudit
from launch.errors import BadInput
from launch.json_output import json_line
from launch.progress import progress
from launch.replay_target import Place, locate, open_client
from replay.chain import ChainReport, verify_chain
from replay.offline import OfflineSource
from replay.store import StoreCorrupt, StoreView

_HEAD_CHARACTERS = 64


def run(arguments: ReplayAudit) -> int:
    """Prints what was found; returns 1 where something was altered or the kept head is not in the chain."""
    kept = _kept_head(arguments.head) if arguments.head else None
    directories = _directories(locate(arguments.target))
    if kept is not None and len(directories) > 1:
        raise BadInput(f"--head is of one shard, {arguments.target} has {len(directories)}: audit a shard's directory")
    findings = [_audit(directory, kept, arguments.json) for directory in directories]
    for finding in findings:
        print(json_line(finding) if arguments.json else _described(finding))
    return 0 if all(finding["intact"] for finding in findings) else 1


def _audit(directory: Path, kept: tuple[int, bytes] | None, json: bool) -> dict[str, Any]:
    with OfflineSource(directory) as source:
        counters = source.view.counters()
        finding: dict[str, Any] = {
            "directory": str(directory),
            "records": counters.records,
            "first_position": counters.first_position,
            "next_position": counters.next_position,
            "head": None,
            "intact": False,
            "altered_position": None,
            "reason": "",
        }
        try:
            report = _verify(source.view, counters.records, json)
        except StoreCorrupt as error:
            return finding | {"altered_position": min(error.positions, default=None), "reason": str(error)}
        reason = _compare(source.view, report, kept) if kept is not None else ""
    head = f"{report.next_position - 1}:{report.head.hex()}" if report.next_position else None
    audited = {name: getattr(report, name) for name in ("records", "first_position", "next_position")}
    return finding | audited | {"head": head, "intact": not reason, "reason": reason}


def _verify(view: StoreView, records: int, json: bool) -> ChainReport:
    with progress("auditing", records, json=json) as shown:
        done = 0

        def show(verified: int, _: int) -> None:
            nonlocal done
            shown.advance(verified - done)
            done = verified

        return verify_chain(view, show)


def _compare(view: StoreView, report: ChainReport, kept: tuple[int, bytes]) -> str:
    """Why the kept head is not in the chain that was verified; "" where it is."""
    position, head = kept
    if position >= report.next_position:
        return f"the kept head is of record {position}, but the log ends before {report.next_position}: it was cut off"
    found = view.read_headers([position])
    if not found:
        return (
            f"the kept head is of record {position}, which was evicted (the oldest left is {report.first_position}): "
            "nothing can be compared with it; keep newer heads"
        )
    if found[0].chain != head:
        return f"the chain at record {position} is not what it was when its head was kept: the log was rewritten"
    return ""


def _described(finding: dict[str, Any]) -> str:
    if not finding["intact"]:
        where = finding["altered_position"]
        altered = "" if where is None else f"the first altered record is {where}: "
        return f"{finding['directory']}: NOT INTACT: {altered}{finding['reason']}"
    if finding["head"] is None:
        return f"{finding['directory']}: no records were ever appended"
    covered = f"{finding['first_position']} to {finding['next_position'] - 1}" if finding["records"] else "none left"
    return f"{finding['directory']}: {finding['records']:,} records intact ({covered})\nhead {finding['head']}"


def _kept_head(text: str) -> tuple[int, bytes]:
    position, _, digest = text.partition(":")
    if not position.isdecimal() or len(digest) != _HEAD_CHARACTERS or set(digest.lower()) - set("0123456789abcdef"):
        raise BadInput(
            f"--head {text!r} is not POSITION:HEX with {_HEAD_CHARACTERS} hexadecimal digits, as an audit prints it"
        )
    return int(position), bytes.fromhex(digest)


def _directories(place: Place) -> Sequence[Path]:
    """Where the files are, also those of services on this host."""
    return place.directories or [_directory_of(address) for address in place.addresses]


def _directory_of(address: str) -> Path:
    with open_client(address) as client:
        located = client.locate()
    if not located.directory:
        raise BadInput(f"the service at {address} keeps its records in memory: there are no files to audit")
    directory = Path(located.directory)
    try:
        note = json.loads((directory / "format.json").read_text())
    except (OSError, ValueError):
        note = {}
    if note.get("store_id") != located.store_id.hex():
        raise BadInput(f"the store of {address} is {directory} on another host: audit it there, on its files")
    return directory
