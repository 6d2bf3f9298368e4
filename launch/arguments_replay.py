"""The arguments of the commands that look into a trajectory store, work over it, or say what was learnt from it.

What TARGET may be is in launch.replay_target; what --json prints is in the docstring of each command's module.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

Target = Annotated[
    Positional[str],
    arg(
        metavar="TARGET",
        help="A run directory, a store's directory, or the address of a running service (unix:PATH or HOST:PORT, "
        "several shards with commas between them).",
    ),
]
Json = Annotated[bool, arg(help="Print JSON instead of text: one object, or one a line where there are several.")]
Filter = Annotated[
    str,
    arg(metavar="EXPRESSION", help="Only records that pass, e.g. 'policy_version > 100 and signals.success == 1'."),
]
FromPosition = Annotated[int, arg(name="from", metavar="N", help="Only records from this position on.")]
Limit = Annotated[int, arg(metavar="N", help="At most this many records; 0: all of them.")]
Record = Annotated[Positional[int], arg(metavar="RECORD", help="Position of the record in the log.")]
RecordName = Annotated[Positional[str], arg(metavar="RECORD", help="Its position in the log, or ACTOR/RUN/SEQUENCE.")]
RunDirectory = Annotated[
    str, arg(metavar="DIR", help="The run whose checkpoints and releases are looked at; by default that of TARGET.")
]

ExportFormat = Literal["parquet", "rlds", "jsonl", "prov"]
ImportFormat = Literal["minari", "parquet"]


@dataclass(frozen=True)
class ReplayStats:
    """Show the counters of a store and of its tables: how full, how fast, and who waits for whom."""

    target: Target
    json: Json = False


@dataclass(frozen=True)
class ReplayList:
    """List records, one line each, in log order, without sampling them."""

    target: Target
    filter: Filter = ""
    from_position: FromPosition = 0
    limit: Limit = 50
    columns: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME[,NAME ...]")] = ()
    """Show these instead: any field that a filter may name, e.g. position,task_id,environment,signals.return."""
    json: Json = False


@dataclass(frozen=True)
class ReplayShow:
    """Show one record: where it came from, what is known about it, and what its columns hold."""

    target: Target
    record: Record
    steps: Annotated[int, arg(metavar="N")] = 0
    """Also print the first N steps as a table."""
    json: Json = False


@dataclass(frozen=True)
class ReplayAudit:
    """Recompute the hash chain over every record. Exit status 1 where something was altered, and what it was first."""

    target: Target
    head: Annotated[str, arg(metavar="POSITION:HEX")] = ""
    """A head that an earlier audit printed and that was kept elsewhere: it must still be in the chain."""
    json: Json = False


@dataclass(frozen=True)
class ReplayTables:
    """Show what each table is; with SPEC create one, or change one while it is in use."""

    target: Target
    spec: Annotated[Positional[str], arg(metavar="SPEC")] = ""
    """All that a table is to be, e.g. 'prioritised per exponent=0.6 records_max=100000'; needs a running service."""
    json: Json = False


@dataclass(frozen=True)
class ReplayExport:
    """Write records to files that other tools read."""

    target: Target
    output: Annotated[Positional[Path], arg(metavar="OUTPUT")]
    """What to write; must not exist yet."""
    format: ExportFormat = "parquet"
    """parquet: a row a step, and one a record; rlds: whole episodes; jsonl: text; prov: provenance as W3C PROV-JSON."""
    steps: bool = False
    """jsonl only: write the columns of every step too."""
    filter: Filter = ""
    from_position: FromPosition = 0
    limit: Limit = 0
    json: Json = False


@dataclass(frozen=True)
class ReplayImport:
    """Append a data set from elsewhere, with its provenance. The same one again adds nothing."""

    target: Target
    source: Annotated[Positional[str], arg(metavar="PATH")]
    """What to read: a Minari data set's directory or its id on this machine, or the directory of an export."""
    format: ImportFormat = "minari"
    """minari: a Minari data set; parquet: what `temper replay export` wrote as parquet or rlds."""
    marks: bool = True
    """parquet only: whether what was found out about the records comes too, their signals and quarantines."""
    actor_id: Annotated[str, arg(metavar="NAME")] = ""
    """minari only: which actor the records are of; by default minari."""
    steps_per_record: Annotated[int, arg(metavar="N")] = 0
    """minari only: cut the rows of all episodes into records of this many; 0: an episode is a record."""
    download: bool = False
    """minari only: fetch a data set that is not on this machine."""
    limit: Annotated[int, arg(metavar="N")] = 0
    """minari only: at most this many episodes; 0: all of them."""
    json: Json = False


@dataclass(frozen=True)
class ReplayCurate:
    """Run rules over records: they write signals about them, and never change them."""

    target: Target
    rules: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME[:KEY=VALUE,...]")] = ()
    """Which rules, in this order; repeat it for several. Without any, those there are, are listed."""
    module: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="MODULE")] = ()
    """Import this first: a module of yours that registers rules."""
    filter: Filter = ""
    from_position: FromPosition = 0
    limit: Limit = 0
    dry_run: bool = False
    """Count what would be written, and write nothing."""
    follow: bool = False
    """Go on with records as they arrive, until interrupted; needs a running service."""
    json: Json = False


@dataclass(frozen=True)
class ReplayVerify:
    """Run records again in their environment and compare. Exit status 1 where one is not what happens."""

    target: Target
    fraction: Annotated[float, arg(metavar="F")] = 1.0
    """Which part of the records, chosen at random, in (0, 1]."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of that choice."""
    env: Annotated[str, arg(metavar="ENV")] = ""
    """Where records are run again, e.g. gym:my_module:My-v0; by default the environment that they name."""
    filter: Filter = ""
    from_position: FromPosition = 0
    limit: Limit = 0
    dry_run: bool = False
    """Only say what was found; mark no record."""
    json: Json = False


@dataclass(frozen=True)
class ReplayAuditor:
    """Verify a sample of the records of a running service as they arrive, until told to stop."""

    config: Annotated[Path, arg(metavar="FILE")]
    """The run's config.toml."""
    replay: Annotated[str, arg(metavar="ADDRESS")]
    """Where the replay service listens, unix:PATH or HOST:PORT."""
    fraction: Annotated[float, arg(metavar="F")] = 0.01
    """Which part of the records, chosen at random, in (0, 1]."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of that choice; 0: a secret one, so that nobody can know which records are looked at."""
    certificates: Annotated[str, arg(metavar="DIR")] = ""
    """Directory of this process's certificate (temper keys issue), for calls by TCP."""
    shard: Annotated[int, arg(metavar="N")] = 0
    """Number of the service, from 0, where it is one of several shards: for the positions in the log."""


@dataclass(frozen=True)
class ReplayLineage:
    """Say which checkpoints, policies and releases have learnt from a record."""

    target: Target
    record: RecordName
    run_dir: RunDirectory = ""
    json: Json = False


@dataclass(frozen=True)
class ReplayQuarantine:
    """Keep records from being sampled from now on, and list the checkpoints and releases that learnt from them."""

    target: Target
    filter: Annotated[Positional[str], arg(metavar="FILTER")] = ""
    """Which records: an expression, e.g. 'actor_id == "actor-0003" and policy_version < 40'."""
    why: Annotated[str, arg(metavar="TEXT")] = ""
    """Why, for whoever reads of it later; required with FILTER and with --lift."""
    dry_run: bool = False
    """Say what it would reach, and change nothing."""
    lift: Annotated[int, arg(metavar="ID")] = 0
    """End this quarantine."""
    listing: Annotated[bool, arg(name="list")] = False
    """List every quarantine there is or was."""
    revoke: bool = False
    """Also revoke the releases that learnt from these records: the actors drop them."""
    run_dir: RunDirectory = ""
    json: Json = False


@dataclass(frozen=True)
class PolicyLineage:
    """Say what a policy of a run has learnt from: records, environments, and the policies that acted."""

    run_dir: Annotated[Positional[Path], arg(metavar="RUN_DIR")]
    """The run directory."""
    version: Annotated[Positional[str], arg(metavar="VERSION")]
    """The learner's update, or release:N; where none was kept of that update, the newest before it."""
    records: bool = False
    """List the positions of the records instead."""
    from_position: FromPosition = 0
    limit: Limit = 50
    json: Json = False


@dataclass(frozen=True)
class PolicyRevoke:
    """Withdraw a release: actors drop it, and nobody is given it again."""

    run_dir: Annotated[Positional[Path], arg(metavar="RUN_DIR")]
    """The run directory."""
    release: Annotated[Positional[int], arg(metavar="RELEASE")]
    """Number of the release, as in `temper policy list`."""
    why: Annotated[str, arg(metavar="TEXT")]
    """Why, for whoever reads of it later."""
    json: Json = False


@dataclass(frozen=True)
class PolicyRollback:
    """Go back to an earlier release: revoke every one after it, the newest first."""

    run_dir: Annotated[Positional[Path], arg(metavar="RUN_DIR")]
    """The run directory."""
    why: Annotated[str, arg(metavar="TEXT")]
    """Why, for whoever reads of it later."""
    to: Annotated[int, arg(metavar="N")] = 0
    """Number of the release to go back to; 0: the one before the newest that stands."""
    json: Json = False


Command = (
    ReplayStats
    | ReplayList
    | ReplayShow
    | ReplayAudit
    | ReplayTables
    | ReplayExport
    | ReplayImport
    | ReplayCurate
    | ReplayVerify
    | ReplayAuditor
    | ReplayLineage
    | ReplayQuarantine
    | PolicyLineage
    | PolicyRevoke
    | PolicyRollback
)
