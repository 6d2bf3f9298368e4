"""Which processes a run on one machine consists of: their command lines, sockets and limits.

Every one is a public subcommand of `temper`; a script that spreads a run over machines starts the same ones with
other addresses.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from launch.child import ChildSpec
from launch.config import RunConfig
from launch.errors import BadInput
from launch.process import ONE_THREAD
from launch.run_paths import RunPaths, key_directory

STOP_ORDER = ("learner", "actors", "inference", "auditor", "safety", "replay")
"""Data flows from the last to the first: who consumes stops before who produces, and the store closes last. Of several
of a kind, such as replay-0 and replay-1, the name is the kind's.
"""

_ACTORS_STOP_S = 1.0
"""Time that the host of the actors needs besides that of its actors, to kill those that overstay theirs."""

_READ_S = 1e-4
"""Time that a starting replay service is given for each record a table reads: some ten times what it takes alone."""


@dataclass(frozen=True)
class Limits:
    """Limits of the whole run, given at this start in place of those in its settings; 0: those in its settings.

    Raises:
      BadInput: one is negative or no number.
    """

    seconds_max: float = 0.0
    env_steps_max: int = 0

    def __post_init__(self) -> None:
        for name, value in (("--max-seconds", self.seconds_max), ("--max-env-steps", self.env_steps_max)):
            if value < 0:
                raise BadInput(f"{name} {value} is negative: write a positive limit, or leave it out for none")
            if math.isnan(value):
                raise BadInput(f"{name} nan is not a number: write a positive limit, or leave it out for none")


@dataclass(frozen=True)
class Addresses:
    """Where each service of a run listens; replay's shards with commas between them."""

    replay: str
    safety: str
    policy: str
    inference: str

    @classmethod
    def in_directory(cls, directory: Path, shards: int = 1) -> Addresses:
        """Unix sockets in a directory with a short path (a socket path is at most 107 bytes)."""
        replay = [f"unix:{directory / name}.sock" for name in names_of("replay", shards)]
        others = [f"unix:{directory / name}.sock" for name in ("safety", "policy", "inference")]
        return cls(",".join(replay), *others)

    @property
    def replay_shards(self) -> list[str]:
        """The address of each replay service, in order."""
        return self.replay.split(",")


def names_of(kind: str, count: int) -> list[str]:
    """What processes of one kind are called: by the kind where there is one, else KIND-0 and so on."""
    return [kind] if count == 1 else [f"{kind}-{number}" for number in range(count)]


def stop_order(names: Iterable[str]) -> list[str]:
    """These processes in the order in which to stop them."""
    return sorted(names, key=lambda name: STOP_ORDER.index(name.partition("-")[0]))


def processes_of(
    config: RunConfig, paths: RunPaths, addresses: Addresses, run_id: str, limits: Limits, *, resume: bool
) -> list[ChildSpec]:
    """The processes of a run in the order in which to start them: the slowest to start first.

    Raises:
      KeyFileError: there is no place for the gate's private keys, or not one apart.
    """
    common = ("--config", str(paths.config))
    trust = ("--trust", str(paths.verify_key), "--run-id", run_id)
    specs = [
        _learner(paths, addresses, limits, common + trust, resume=resume),
        ChildSpec(
            name="safety",
            command=[
                *_temper("safety", "serve", *common, "--directory", str(paths.safety), "--listen", addresses.safety),
                *("--run-id", run_id, "--replay", addresses.replay),
                *("--keys", str(key_directory(paths.safety, run_id))),
            ],
            environment=ONE_THREAD,
            address=addresses.safety,
            ready_s_max=60.0,
        ),
        *_replay(config, paths, addresses, common),
    ]
    if config.distillation.offline:
        # It learns from what its teachers' runs have left.
        return specs
    served = config.actor.inference == "served"
    if served:
        specs.append(
            ChildSpec(
                name="inference",
                command=_temper(
                    "policy", "serve", *trust, "--policy", addresses.policy, "--listen", addresses.inference
                ),
                address=addresses.inference,
                ready_s_max=120.0,
            )
        )
    actor = _temper("actor", *common, *trust, "--replay", addresses.replay, "--policy", addresses.policy)
    if served:
        actor += ["--inference-address", addresses.inference]
    specs.append(ChildSpec(name="actors", command=actor, stop_s_max=config.actor.stop_s_max + _ACTORS_STOP_S))
    if config.audit.fraction:
        specs += _auditors(config, addresses, common)
    return specs


def _replay(config: RunConfig, paths: RunPaths, addresses: Addresses, common: tuple[str, ...]) -> list[ChildSpec]:
    # Tables that choose by what is in a record read all of them at the start; some may have been made while it ran.
    read = config.replay.records_max * (len(config.replay.tables) + 1)
    shards = addresses.replay_shards
    places = zip(names_of("replay", len(shards)), shards, paths.replay_stores(len(shards)), strict=True)
    return [
        ChildSpec(
            name=name,
            command=[
                *_temper("replay", "serve", *common, "--directory", str(directory), "--listen", address),
                *("--shard", str(shard)),
            ],
            address=address,
            ready_s_max=60.0 + read * _READ_S,
            stop_s_max=30.0,
        )
        for shard, (name, address, directory) in enumerate(places)
    ]


def _auditors(config: RunConfig, addresses: Addresses, common: tuple[str, ...]) -> list[ChildSpec]:
    """One for each shard, because each has a log of its own. They look on: a run does without.

    Which records they choose is their secret: actors know the run's seed.
    """
    choice = ("--fraction", str(config.audit.fraction))
    shards = addresses.replay_shards
    return [
        ChildSpec(
            name=name,
            command=_temper("replay", "auditor", *common, "--replay", address, "--shard", str(shard), *choice),
            environment=ONE_THREAD,
            essential=False,
        )
        for shard, (name, address) in enumerate(zip(names_of("auditor", len(shards)), shards, strict=True))
    ]


def _learner(
    paths: RunPaths, addresses: Addresses, limits: Limits, common: tuple[str, ...], *, resume: bool
) -> ChildSpec:
    command = _temper("learner", *common, "--run-dir", str(paths.root))
    command += ["--replay", addresses.replay, "--safety", addresses.safety, "--listen", addresses.policy]
    if limits.env_steps_max:
        command += ["--max-env-steps", str(limits.env_steps_max)]
    if limits.seconds_max:
        command += ["--max-seconds", str(limits.seconds_max)]
    return ChildSpec(
        name="learner",
        command=[*command, "--resume"] if resume else command,
        restart_arguments=() if resume else ("--resume",),
        ends_run=True,
        address=addresses.policy,
        ready_s_max=180.0,
        stop_s_max=60.0,
    )


def _temper(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "launch.cli", *arguments]
