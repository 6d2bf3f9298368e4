"""What TARGET on the command line stands for, and how its records are reached.

    a run directory     of a run that is running: its replay service; otherwise the store that it left
    a store's directory the store itself, whether or not a service has it open (to read; to write none may); or that of
                        the stores shard-0, shard-1, ...: the shards of one log
    an address          the service there; several, with commas between them, are the shards of one log

Exceptions: launch.errors.BadInput; while a source is open also what replay.source lists, but ReplayError becomes
BadInput.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launch.errors import BadInput
from launch.process_list import read_process_list
from launch.run_directory import holder_of
from launch.run_paths import RunPaths

if TYPE_CHECKING:
    from replay.client import ReplayClient
    from replay.offline import OfflineSource
    from replay.source import RecordSource

CONNECT_S_MAX = 5.0
"""How long a service may take to answer at all."""

POSITION_MAX = 2**63 - 1

_NOTE = "format.json"
_SHARD = re.compile(r"shard-\d+")
"""As launch.run_paths names them."""


@dataclass(frozen=True)
class Place:
    """Where a target's log is, one entry a shard: at addresses, or in directories, or both (a run that is running)."""

    text: str
    """As it was typed."""
    addresses: Sequence[str] = ()
    """Of the running service; () where none is known of."""
    directories: Sequence[Path] = ()
    """Of the stores; () where only addresses are known."""
    run: RunPaths | None = None
    """The run directory, where that is what it is."""

    @property
    def shards(self) -> int:
        """How many stores make the log."""
        return max(len(self.addresses), len(self.directories))


@contextlib.contextmanager
def looking_at(name: str) -> Iterator[None]:
    """Turns what the file system says inside the context into BadInput, which says what was looked at."""
    try:
        yield
    except OSError as error:
        raise BadInput(f"{name} cannot be read: {error.strerror or error}") from None


def locate(target: str) -> Place:
    """What `target` stands for; asks no service. Raises BadInput."""
    if not target:
        raise BadInput("TARGET is empty: name a run directory, a store's directory or an address")
    with looking_at(target):
        return _locate(target)


def _locate(target: str) -> Place:
    path = Path(target)
    if not target.startswith("unix:") and path.is_dir():
        if (path / "config.toml").is_file():
            return _locate_run(target, RunPaths(path.absolute()))
        directories = _stores_in(path)
        if not directories:
            raise BadInput(f"{target} is neither a run directory (no config.toml) nor a store's (no {_NOTE})")
        return Place(target, directories=_check_shards(directories))
    from protos.transport import AddressError, check_address  # noqa: PLC0415  a directory needs no gRPC

    try:
        return Place(target, addresses=[check_address(address.strip()) for address in target.split(",")])
    except AddressError as error:
        raise BadInput(f"{target!r} is no directory here, and no address: {error}") from None


@contextlib.contextmanager
def open_source(target: str, *, writable: bool) -> Iterator[RecordSource]:
    """The records of `target`, live or offline; closed at the end.

    Args:
      target: see the head of this module.
      writable: whether signals or quarantines will be written. A directory is then opened exclusively.

    Raises:
      BadInput: it is nothing, nobody answers there, or the service refused what was asked of it. A shard that does not
        answer is left out of what is read, and standard error says so.
      StoreError, FilterError, SourceReadOnly: see replay.source.
    """
    place = locate(target)
    with contextlib.ExitStack() as opened:
        if place.addresses:
            shards = _open_clients(place.addresses, opened, writable)
        else:
            shards = dict(
                enumerate(opened.enter_context(_open_directory(each, writable)) for each in place.directories)
            )
        yield _joined(shards, place.shards)


@contextlib.contextmanager
def open_client(address: str) -> Iterator[ReplayClient]:
    """The service at an address, closed at the end.

    Raises:
      BadInput: nobody answers there within seconds, or the service refused what was asked of it.
    """
    from replay.client import ReplayClient, ReplayError, ReplayUnavailable  # noqa: PLC0415  help must not load gRPC

    with ReplayClient(address) as client:
        try:
            client.stats(CONNECT_S_MAX)
        except ReplayUnavailable:
            raise BadInput(
                f"nobody answers at {address} within {CONNECT_S_MAX:g} s: does it run, and is that its address?"
            ) from None
        except ReplayError as error:
            raise BadInput(str(error)) from None
        try:
            yield client
        except ReplayError as error:
            raise BadInput(str(error)) from None


def check_range(from_position: int, limit: int) -> None:
    """Raises BadInput unless --from and --limit are what they can be."""
    for name, value in (("--from", from_position), ("--limit", limit)):
        if not 0 <= value <= POSITION_MAX:
            raise BadInput(f"{name} {value} must be 0 to {POSITION_MAX}: nothing was read")


def _locate_run(target: str, paths: RunPaths) -> Place:
    directories = _stores_in(paths.replay) if paths.replay.is_dir() else []
    holder = holder_of(paths)
    if holder is not None:
        processes = read_process_list(paths)
        if processes is None:
            raise BadInput(f"the run in {target} is just starting or ending (process {holder}): try again in a moment")
        return Place(target, processes["addresses"]["replay"].split(","), directories, paths)
    if not directories:
        raise BadInput(f"the run in {target} has left no records: there is no store in {paths.replay}")
    return Place(target, (), _check_shards(directories), paths)


def _stores_in(directory: Path) -> list[Path]:
    """The directory itself if it is a store's, else those in it that are, by number: the shards of one log."""
    if (directory / _NOTE).is_file():
        return [directory]
    # By these names only: other stores that lie in one directory have nothing to do with each other.
    found = (note.parent for note in directory.glob(f"*/{_NOTE}") if _SHARD.fullmatch(note.parent.name))
    return sorted(found, key=lambda shard: (len(shard.name), shard.name))  # 10 comes after 9


def _check_shards(directories: Sequence[Path]) -> Sequence[Path]:
    """Returns them; raises BadInput where a run's shard is missing: positions in those after it would be others."""
    for number, shard in enumerate(directories):
        if shard.name != f"shard-{number}" and len(directories) > 1:
            raise BadInput(
                f"{shard.parent} has {shard.name}, but shard-{number} is missing: all before it must be there"
            )
    return directories


def _open_directory(directory: Path, writable: bool) -> OfflineSource:
    from replay.offline import OfflineSource  # noqa: PLC0415  an address needs no store
    from replay.store import StoreBusy  # noqa: PLC0415

    try:
        return OfflineSource(directory, writable=writable)
    except StoreBusy as error:
        raise BadInput(f"{error}; or give the address of the service that has it as TARGET") from None


def _open_clients(addresses: Sequence[str], opened: contextlib.ExitStack, writable: bool) -> dict[int, RecordSource]:
    """The shards that answer, by number; to be written to, all of them must."""
    shards: dict[int, RecordSource] = {}
    for number, address in enumerate(addresses):
        try:
            shards[number] = opened.enter_context(open_client(address))
        except BadInput as error:
            last = number == len(addresses) - 1
            if writable or (last and not shards):
                raise
            print(f"temper: shard {number} is left out: {error}", file=sys.stderr)
    return shards


def _joined(shards: Mapping[int, RecordSource], count: int) -> RecordSource:
    if count == 1:
        return shards[0]
    from replay.sharded_source import ShardedSource  # noqa: PLC0415  most logs are whole

    return ShardedSource(shards, count)
