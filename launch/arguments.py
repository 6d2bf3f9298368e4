"""The arguments of every `temper` subcommand: what tyro parses, and nothing that runs.

A command's docstring is its help. Every setting of a run is reached by `--set`, not by an argument of its own. The
arguments of the commands over the trajectory store are in launch.arguments_replay.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from launch import arguments_keys, arguments_replay, arguments_safety, arguments_sweep
from policies.config import Backend

Directory = Annotated[Path, arg(metavar="DIR")]
File = Annotated[Path, arg(metavar="FILE")]
Address = Annotated[str, arg(metavar="ADDRESS")]
Certificates = Annotated[
    str, arg(metavar="DIR", help="Directory of this process's certificate (temper keys issue), for calls by TCP.")
]
Keys = Annotated[str, arg(metavar="DIR")]
Purpose = Literal["verdict", "lease"]


@dataclass(frozen=True)
class Train:
    """Train a policy on this machine, judge it, and release what passes; supervises every process of the run."""

    recipe: Annotated[Positional[str], arg(metavar="RECIPE")]
    """cartpole, cartpole-cost, catch, minatar-breakout, minatar-asterix, minatar-cost-space-invaders, distill, gym:ID,
    or the config.toml of a run to repeat."""
    overrides: Annotated[
        UseAppendAction[tuple[tuple[str, ...], ...]], arg(name="set", metavar="KEY=VALUE [KEY=VALUE ...]")
    ] = ()
    """Change settings of the recipe; the keys are listed below."""
    run_dir: Annotated[str, arg(metavar="DIR")] = ""
    """Where everything is written; by default a new directory runs/RECIPE-DATE-TIME."""
    resume: bool = False
    """Continue the run in --run-dir from its newest checkpoint, with its own settings."""
    max_seconds: Annotated[float, arg(metavar="S")] = 0.0
    """End in order after this many seconds of training in the whole run; 0: as the settings say."""
    max_env_steps: Annotated[int, arg(metavar="N")] = 0
    """End in order after this many environment steps of the whole run; 0: as the settings say."""


@dataclass(frozen=True)
class Distill:
    """Train a smaller policy to do as a released one does, judge it, and release what passes; as temper train."""

    teachers: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN_DIR[@N] [RUN_DIR[@N] ...]")]
    """Run directory of the teacher, its newest release or release N. Environment and suite are those of its run; of
    several runs, those of the first."""
    student_size: Annotated[str, arg(metavar="WIDTHS")] = ""
    """Widths of the student's dense layers, e.g. 16x16; by default the teacher's layers, all narrower, with a tenth of
    its parameters."""
    offline: bool = False
    """Learn from the records that the teachers' runs have left; nobody acts."""
    overrides: Annotated[
        UseAppendAction[tuple[tuple[str, ...], ...]], arg(name="set", metavar="KEY=VALUE [KEY=VALUE ...]")
    ] = ()
    """Change settings of the run; temper train --help lists the keys."""
    run_dir: Annotated[str, arg(metavar="DIR")] = ""
    """Where everything is written; by default a new directory runs/distill-DATE-TIME."""
    max_seconds: Annotated[float, arg(metavar="S")] = 0.0
    """End in order after this many seconds of training in the whole run; 0: as the settings say."""
    max_env_steps: Annotated[int, arg(metavar="N")] = 0
    """End in order after this many environment steps of the whole run; 0: as the settings say."""


@dataclass(frozen=True)
class Actor:
    """Run actor processes of a training run: they act, and stream what happened to replay."""

    config: File
    """The run's config.toml."""
    replay: Address
    """Where the replay service listens, unix:PATH or HOST:PORT; several shards with commas between them."""
    policy: Address
    """Where the learner serves policies."""
    trust: File
    """The safety service's verify_key.pem; may appear a little later."""
    run_id: Annotated[str, arg(metavar="ID")]
    """Id of the training run, as in RUN_DIR/run_id."""
    inference_address: Annotated[str, arg(metavar="ADDRESS")] = ""
    """Where an inference service listens; needed where actor.inference is served."""
    processes: Annotated[int, arg(metavar="N")] = 0
    """Actor processes to run here; 0: as the settings say."""
    actor_prefix: Annotated[str, arg(metavar="NAME")] = "actor"
    """The actors are called NAME-0000 and so on; must differ between hosts."""
    certificates: Certificates = ""


@dataclass(frozen=True)
class Learner:
    """Run the learner of a training run; it serves the policies that the actors act with."""

    config: File
    """The run's config.toml."""
    run_dir: Directory
    """The run directory: checkpoints, figures and the policy registry go there."""
    replay: Address
    """Where the replay service listens, unix:PATH or HOST:PORT; several shards with commas between them."""
    safety: Address
    """Where the safety service listens."""
    listen: Address
    """Where to serve policies."""
    trust: File
    """The safety service's verify_key.pem; may appear a little later."""
    run_id: Annotated[str, arg(metavar="ID")]
    """Id of the training run, as in RUN_DIR/run_id."""
    resume: bool = False
    """Continue from the newest checkpoint, if there is one."""
    max_seconds: Annotated[float, arg(metavar="S")] = 0.0
    """End in order after this many seconds of training in the whole run; 0: as the settings say."""
    max_env_steps: Annotated[int, arg(metavar="N")] = 0
    """End in order after this many environment steps of the whole run; 0: as the settings say."""
    certificates: Certificates = ""


@dataclass(frozen=True)
class ReplayServe:
    """Serve trajectories: durable append and sampling."""

    config: File
    """The run's config.toml."""
    directory: Directory
    """The store's directory, made if missing; on a local disk."""
    listen: Address
    """Where to serve, unix:PATH or HOST:PORT."""
    shard: Annotated[int, arg(metavar="N")] = 0
    """Its number, from 0, where it is one of several shards: for positions in rules and in the filters of tables."""
    certificates: Certificates = ""


@dataclass(frozen=True)
class SafetyServe:
    """Serve the gate: evaluate candidates, sign verdicts, grant leases."""

    config: File
    """The run's config.toml."""
    directory: Directory
    """Directory of the ledger and the public keys, made if missing."""
    listen: Address
    """Where to serve, unix:PATH or HOST:PORT."""
    run_id: Annotated[str, arg(metavar="ID")]
    """Id of the training run whose candidates it judges."""
    replay: Annotated[str, arg(metavar="ADDRESS")] = ""
    """Where the replay services listen; without them the violations in training are not monitored."""
    keys: Keys = ""
    """Directory of the private keys, made if missing: for this user alone, and outside of every run directory. By
    default $TEMPER_KEYS/ID, or else ~/.local/state/temper/keys/ID."""
    certificates: Certificates = ""


@dataclass(frozen=True)
class SafetyRotate:
    """Put new signing keys in the place of the old ones. Only while no safety service of the run runs."""

    run_dir: Annotated[Positional[Path], arg(metavar="RUN_DIR")]
    """The run directory."""
    why: str
    """Why; the ledger keeps it."""
    purpose: Purpose = "verdict"
    """Which key: verdict, and with it the one for leases; or lease alone."""
    keys: Keys = ""
    """Directory of the private keys; by default where they were when the service last ran."""
    json: bool = False
    """Print one JSON object instead of lines."""


@dataclass(frozen=True)
class SafetyVerdicts:
    """List what the gate of a run has decided, newest last."""

    run_dir: Annotated[Positional[Path], arg(metavar="RUN_DIR")]
    """The run directory."""
    limit: Annotated[int, arg(metavar="N")] = 0
    """The newest N only; 0: all."""
    json: bool = False
    """Print one JSON object a line instead of a table."""


@dataclass(frozen=True)
class SafetyAudit:
    """Check the ledger of a run: chain, signatures, no seeds chosen. Exit status 1 where something is wrong."""

    run_dir: Annotated[Positional[Path], arg(metavar="RUN_DIR")]
    """The run directory."""
    head: Annotated[str, arg(metavar="INDEX:HEX")] = ""
    """A head that an earlier audit printed: it must be in the chain."""
    json: bool = False
    """Print one JSON object instead of lines."""


@dataclass(frozen=True)
class SafetyCheck:
    """Check a suite file, and try it out: every slice is made and played. Exit status 2 where it is no suite."""

    suite: Annotated[Positional[Path], arg(metavar="SUITE")]
    """The suite, a TOML file."""
    recipe: Annotated[str, arg(metavar="RECIPE")] = "cartpole"
    """The recipe, or config.toml of a run, from which comes what the suite leaves out."""
    environment: Annotated[str, arg(metavar="NAME")] = ""
    """The environment that candidates are trained in, which every slice must fit; default: only one another."""
    json: bool = False
    """Print one JSON object instead of lines."""


@dataclass(frozen=True)
class PolicyServe:
    """Serve inference: act for actors that run no network themselves."""

    policy: Address
    """Where the learner serves policies."""
    trust: File
    """The safety service's verify_key.pem; may appear a little later."""
    run_id: Annotated[str, arg(metavar="ID")]
    """Id of the training run."""
    listen: Address
    """Where to serve, unix:PATH or HOST:PORT."""
    backend: Backend = "jax"
    """How the policies are computed here."""
    certificates: Certificates = ""
    insecure_network: bool = False
    """Allow TCP beyond this host without certificates."""


@dataclass(frozen=True)
class PolicyList:
    """List the releases of a run, newest last."""

    run_dir: Annotated[Positional[Path], arg(metavar="RUN_DIR")]
    """The run directory."""
    json: bool = False
    """Print one JSON object instead of lines."""


@dataclass(frozen=True)
class PolicyShow:
    """Show one release of a run: its network, its verdict, and the criteria it passed."""

    run_dir: Annotated[Positional[Path], arg(metavar="RUN_DIR")]
    """The run directory."""
    release: Annotated[int, arg(metavar="N")] = 0
    """Number of the release; 0: the newest."""


@dataclass(frozen=True)
class PolicyVerify:
    """Check every release of a run: signatures, digests, nothing missing. Exit status 1 where something is wrong."""

    run_dir: Annotated[Positional[Path], arg(metavar="RUN_DIR")]
    """The run directory."""
    json: bool = False
    """Print one JSON object instead of lines."""


@dataclass(frozen=True)
class Status:
    """Say how a run is doing, or what it came to."""

    run_dir: Annotated[Positional[Path], arg(metavar="RUN_DIR")]
    """The run directory."""
    json: bool = False
    """Print one JSON object instead of lines."""


@dataclass(frozen=True)
class Doctor:
    """Check that this machine has what a run needs. Exit status 1 where something needed is broken."""

    run_dir: Annotated[Path, arg(metavar="DIR")] = Path("runs")
    """Where runs will be written: its disk is measured."""
    json: bool = False
    """Print one JSON object instead of lines."""


Command = (
    Train
    | Distill
    | Actor
    | Learner
    | ReplayServe
    | SafetyServe
    | SafetyRotate
    | SafetyVerdicts
    | SafetyAudit
    | SafetyCheck
    | PolicyServe
    | PolicyList
    | PolicyShow
    | PolicyVerify
    | Status
    | Doctor
    | arguments_replay.Command
    | arguments_keys.Command
    | arguments_safety.Command
    | arguments_sweep.Command
)
