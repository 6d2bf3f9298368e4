"""Finds the verdict that a person means, in the ledger of a run: by its id, by its release, or the newest.

The ledger is verified whole before anything of it is believed, as `temper safety verdicts` does.

Exceptions: launch.errors.BadInput where nothing, or more than one verdict, is meant; what launch.releases raises;
LedgerError (safety.ledger).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.errors import BadInput
from launch.releases import history_of, require_trust
from launch.run_paths import RunPaths, require_run_directory
from policies.trust import TrustPolicy
from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2
from safety.history import VERDICT
from safety.ledger import LedgerEntry, read_ledger

NEWEST = "newest"

_RELEASE = re.compile(r"release[: ]([0-9]{1,18})")
_PREFIX = re.compile(r"[0-9a-f]{1,32}")
_PREFIX_CHARACTERS = 8
_NAMED_MAX = 4


@dataclasses.dataclass(frozen=True)
class ChosenVerdict:
    """One verdict, and what else the ledger says of it.

    Attributes:
      paths: of the run.
      trust: that verified it.
      signed: as it was signed.
      statement: what it says.
      fields: of its ledger entry.
      short_id: the first characters of its id, as many as no other verdict of the run shares.
      incumbent_release: number of the release that it was compared with; 0: none.
      revocation: why its release was taken back since; None where it was not.
    """

    paths: RunPaths
    trust: TrustPolicy
    signed: common_pb2.SignedStatement
    statement: safety_pb2.VerdictStatement
    fields: Mapping[str, Any]
    short_id: str
    incumbent_release: int
    revocation: safety_pb2.RevocationStatement | None


def choose_verdict(run_dir: Path, wanted: str) -> ChosenVerdict:
    """The verdict that `wanted` names: "newest", "release:N", or an id or the beginning of one.

    Raises:
      BadInput, RunDirectoryError, KeyFileError, LedgerError: see the module.
    """
    paths = require_run_directory(run_dir)
    trust = require_trust(paths)
    entries = read_ledger(paths.safety)
    history = history_of(entries, paths, trust)
    signed = history.newest(0)[::-1]
    statements = [safety_pb2.VerdictStatement.FromString(each.payload) for each in signed]
    place = _place(statements, wanted, run_dir)
    statement = statements[place]
    past = history.revocation(statement.artifact_digest) if statement.approved else None
    numbers = {each.artifact_digest: each.release_number for each in statements[:place] if each.approved}
    return ChosenVerdict(
        paths=paths,
        trust=trust,
        signed=signed[place],
        statement=statement,
        fields=_entries(entries)[place].fields,
        short_id=_short_id(statement.verdict_id, [each.verdict_id for each in statements]),
        incumbent_release=numbers.get(statement.incumbent_digest, 0),
        revocation=None if past is None else past.statement,
    )


def _entries(entries: Sequence[LedgerEntry]) -> list[LedgerEntry]:
    """Those that are verdicts, in the order in which the history has them."""
    return [entry for entry in entries if entry.kind == VERDICT]


def _place(statements: Sequence[safety_pb2.VerdictStatement], wanted: str, run_dir: Path) -> int:
    """Which of them is meant."""
    if not statements:
        raise BadInput(f"there is no verdict in {run_dir} yet, so not {wanted!r}")
    if wanted == NEWEST:
        return len(statements) - 1
    release = _RELEASE.fullmatch(wanted)
    if release is not None:
        return _place_of_release(statements, int(release[1]), run_dir)
    prefix = wanted.lower()
    if not _PREFIX.fullmatch(prefix):
        raise BadInput(f"{wanted!r} names no verdict: write {NEWEST}, release:N, or the first characters of its id")
    found = [place for place, each in enumerate(statements) if each.verdict_id.startswith(prefix)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise BadInput(
            f"no verdict in {run_dir} has an id that begins with {prefix}; `temper safety verdicts {run_dir}` lists all"
        )
    named = ", ".join(statements[place].verdict_id for place in found[:_NAMED_MAX])
    more = f" and {len(found) - _NAMED_MAX} more" if len(found) > _NAMED_MAX else ""
    raise BadInput(f"{len(found)} verdicts begin with {prefix}: {named}{more}; write more of the id")


def _place_of_release(statements: Sequence[safety_pb2.VerdictStatement], number: int, run_dir: Path) -> int:
    places = {each.release_number: place for place, each in enumerate(statements) if each.approved}
    if number not in places:
        known = f"1 to {max(places)}" if places else "none"
        raise BadInput(f"no release {number} in {run_dir}; releases there are: {known}")
    return places[number]


def _short_id(verdict_id: str, every_id: Sequence[str]) -> str:
    for length in range(_PREFIX_CHARACTERS, len(verdict_id)):
        if sum(each.startswith(verdict_id[:length]) for each in every_id) == 1:
            return verdict_id[:length]
    return verdict_id
