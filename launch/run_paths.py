"""What lies where in a run directory. What the files contain is the business of those who write them.

The one thing that lies elsewhere are the private keys of the gate: whoever can write here must not find them.

Exceptions: launch.errors.RunDirectoryError; KeyFileError (policies.signing).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from launch.errors import RunDirectoryError
from safety.keys.directory import check_place, place_of, require_place

_SHARD = "shard-"
_STORE_NOTE = "format.json"


@dataclass(frozen=True)
class RunPaths:
    """Where things are in a run directory."""

    root: Path

    @property
    def config(self) -> Path:
        """Every setting, TOML."""
        return self.root / "config.toml"

    @property
    def suite(self) -> Path:
        """A copy of the suite file that the run was started with, if it has one, TOML."""
        return self.root / "suite.toml"

    @property
    def run_id(self) -> Path:
        """The id that leases and verdicts of this run are bound to."""
        return self.root / "run_id"

    @property
    def lock(self) -> Path:
        """Locked while a process of the run lives; holds the supervisor's process id."""
        return self.root / "lock"

    @property
    def summary(self) -> Path:
        """Written at the end, JSON."""
        return self.root / "summary.json"

    @property
    def failure(self) -> Path:
        """Why the run could not go on, JSON; not there where it could."""
        return self.root / "failure.json"

    @property
    def ledger(self) -> Path:
        """All that the gate has decided, for the owner of its directory alone."""
        return self.safety / "ledger.jsonl"

    @property
    def processes(self) -> Path:
        """Process ids and addresses while the run runs, JSON."""
        return self.root / "processes.json"

    @property
    def logs(self) -> Path:
        """One file a process."""
        return self.root / "logs"

    @property
    def replay(self) -> Path:
        """The trajectory store, or those of the shards."""
        return self.root / "replay"

    def replay_stores(self, shards: int) -> list[Path]:
        """The store of each replay service, in the order of the shards: one is `replay` itself, several lie in it."""
        return [self.replay] if shards == 1 else [self.replay / f"{_SHARD}{shard}" for shard in range(shards)]

    @property
    def policies(self) -> Path:
        """The registry of artifacts and releases."""
        return self.root / "policies"

    @property
    def safety(self) -> Path:
        """Ledger and public keys of the gate."""
        return self.root / "safety"

    @property
    def verify_key(self) -> Path:
        """The public key that all statements of the gate are verified with, or the certificates they carry."""
        return self.safety / "verify_key.pem"

    @property
    def metrics(self) -> Path:
        """The learner's figures, one JSON object a line, about one a second."""
        return self.root / "learner" / "metrics.jsonl"

    @property
    def final(self) -> Path:
        """The learner's last word, JSON."""
        return self.root / "learner" / "final.json"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard event files."""
        return self.root / "tensorboard"


def check_shards(paths: RunPaths, shards: int) -> None:
    """Checks that so many replay services would have every record of the run; some of them may be new.

    Raises:
      RunDirectoryError: there are records that none of them would have.
    """
    whole = (paths.replay / _STORE_NOTE).is_file()
    existing = len(list(paths.replay.glob(f"{_SHARD}*/{_STORE_NOTE}")))
    wanted = 1 if whole else max(2, existing) if existing else shards
    if shards < wanted or (whole and shards > 1):
        lie = "whole in one store" if whole else f"in {existing} shards"
        raise RunDirectoryError(
            f"replay.shards = {shards}, but the records of the run in {paths.root} lie {lie}: some would be lost to "
            f"it; resume it with --set replay.shards={wanted}"
        )


def key_directory(safety: Path, run_id: str, named: str = "") -> Path:
    """Where the private keys of a run are, or are to be made: as named, or else as is meant for the run.

    Args:
      safety: the directory of its safety service.
      run_id: the run's id.
      named: by the user; "" where it was not.

    Raises:
      KeyFileError: none is meant for the run, or it lies in a run directory, or in the safety service's.
    """
    place = Path(named).absolute() if named else place_of(safety, run_id)
    runs = [
        each for each in place.resolve().parents if (each / "config.toml").is_file() and (each / "run_id").is_file()
    ]
    check_place(place, safety, *runs)
    return place


def check_keys(paths: RunPaths, run_id: str) -> None:
    """Checks that the private keys of a run lie apart from it and, where its gate has decided anything, that they do.

    Raises:
      KeyFileError: they do not.
    """
    place = key_directory(paths.safety, run_id)
    check_place(place, paths.root)
    if (paths.safety / "ledger.jsonl").is_file():
        require_place(place, run_id)


def default_run_directory(recipe: str) -> Path:
    """runs/RECIPE-YYYYmmdd-HHMMSS under the working directory, in local time."""
    safe = "".join(character if character.isalnum() or character in "-._" else "-" for character in recipe)
    return Path("runs") / f"{safe}-{time.strftime('%Y%m%d-%H%M%S')}"


def require_run_directory(root: Path) -> RunPaths:
    """The paths of an existing run directory, for a command that only reads it.

    Raises:
      RunDirectoryError: there is none.
    """
    paths = RunPaths(root)
    if not paths.config.is_file():
        raise RunDirectoryError(f"{root} is not a run directory: it has no config.toml")
    return paths
