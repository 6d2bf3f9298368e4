"""A Minari data set on this machine: where it is, what it is, and its episodes one after another.

Everything that the package minari says about a data set it cannot read becomes one line here. Only `download` uses the
network.

Exceptions: ImportRefused; ModuleNotFoundError for a package that the data set's format needs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import minari
import numpy as np
from minari.storage.datasets_root_dir import get_dataset_path
from numpy.typing import NDArray

from protos.common.v1 import common_pb2
from replay.exchange.dataset_origin import Dataset
from replay.exchange.errors import ImportRefused
from replay.exchange.spaces import Arrays, flattened

_METADATA = "metadata.json"
_READ_BYTES = 1024 * 1024
_TEXT_MAX = 256
_NAMES_SHOWN = 10
_SEED_MAX = 2**64 - 1

_UNREADABLE = (ValueError, KeyError, AssertionError, TypeError, AttributeError, OSError)
"""What minari raises for what it cannot read."""


class Episode(NamedTuple):
    """An episode of k steps as the data set has it."""

    number: int
    """From 0, in the data set."""
    observations: Arrays
    """Columns [k + 1, *shape]."""
    actions: Arrays
    """Columns [k, *shape]."""
    rewards: NDArray[np.float64]
    terminations: NDArray[np.bool_]
    truncations: NDArray[np.bool_]
    seed: int | None
    """With which its environment was reset; None where that is not recorded."""


class MinariDataset:
    """A data set that is here.

    Args:
      source: its directory, or its id in the collection of this machine (MINARI_DATASETS_PATH).
      download: whether to fetch it where it is not here.

    Attributes:
      dataset: what it is.
      episodes, steps: how many it has.

    Raises ImportRefused; ModuleNotFoundError for a package that its format needs.
    """

    def __init__(self, source: str, *, download: bool = False) -> None:
        self._path = _locate(source, download)
        with _readable(self._path):
            self._minari = minari.MinariDataset(self._path)
            self.episodes = int(self._minari.total_episodes)
            self.steps = int(self._minari.total_steps)
            metadata = self._minari.storage.read_raw_metadata(self._path)
            self.dataset = Dataset(
                self._minari.id, _digest(self._path), self._minari.minari_version, _environment(metadata)
            )

    def read(self, episodes_max: int = 0) -> Iterator[Episode]:
        """The episodes in order; the first `episodes_max` if that is not 0. Raises ImportRefused."""
        indices = self._minari.episode_indices[: episodes_max or None]
        storage = self._minari.storage
        with _readable(self._path):
            read = zip(self._minari.iterate_episodes(indices), storage.get_episode_metadata(indices), strict=False)
            index = -1
            for index, (data, metadata) in enumerate(read):
                yield self._episode(index, data, metadata)
            if index + 1 != len(indices):
                raise ImportRefused(f"{self._path} has {index + 1} episodes, its metadata says {len(indices)}")

    def _episode(self, number: int, data: Any, metadata: Mapping[str, Any]) -> Episode:
        steps = len(data.rewards)
        observations = flattened("observation", self._minari.observation_space, data.observations)
        actions = flattened("action", self._minari.action_space, data.actions)
        lengths = {
            **{name: len(each) - 1 for name, each in observations.items()},
            **{name: len(each) for name, each in actions.items()},
            "terminations": len(data.terminations),
            "truncations": len(data.truncations),
            "its metadata": int(metadata["total_steps"]),
        }
        for name, length in lengths.items():
            if length != steps:
                raise ImportRefused(
                    f"episode {number} of {self._path} has rewards for {steps} steps, but {name} for {length}"
                )
        return Episode(
            number,
            observations,
            actions,
            np.asarray(data.rewards, np.float64),
            np.asarray(data.terminations, np.bool_),
            np.asarray(data.truncations, np.bool_),
            _seed(metadata.get("seed")),
        )


def _locate(source: str, download: bool) -> Path:
    """The directory with the data set's metadata.json. Raises ImportRefused."""
    path = Path(source)
    with _readable(path):
        for candidate in (path, path / "data"):
            if (candidate / _METADATA).is_file():
                return candidate
        if path.exists():
            raise ImportRefused(f"{source} is no Minari data set: there is no {_METADATA} in it, nor in its data/")
        data = Path(get_dataset_path(source)) / "data"
        if not data.is_dir() and download:
            _download(source)
        if data.is_dir():
            return data
        raise ImportRefused(
            f"{source} is neither a directory nor a Minari data set in {get_dataset_path()}, which has "
            f"{', '.join(_known()) or 'none'}; --download fetches one"
        )


def _download(name: str) -> None:
    try:
        # It says what it does where a program may read our output.
        with contextlib.redirect_stdout(sys.stderr):
            minari.download_dataset(name)
    except ImportError:
        raise
    except Exception as error:
        # The network's libraries have errors of their own, none of which are known here.
        raise ImportRefused(f"Minari data set {name} cannot be fetched: {_first_line(error)}") from error


def _known() -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about directories that are no data sets
        try:
            names = sorted(minari.list_local_datasets())
        except _UNREADABLE:
            return []
    return [*names[:_NAMES_SHOWN], *(["..."] if len(names) > _NAMES_SHOWN else [])]


def _environment(metadata: Mapping[str, Any]) -> common_pb2.EnvironmentIdentity:
    """Which environment the data set says that it was made in; its spaces identify one that it does not name."""
    spec = metadata.get("env_spec")
    spaces = f"{metadata.get('observation_space')}\n{metadata.get('action_space')}"
    return common_pb2.EnvironmentIdentity(
        id=(json.loads(spec)["id"] if spec else metadata["dataset_id"])[:_TEXT_MAX],
        version=", ".join(metadata.get("requirements") or ())[:_TEXT_MAX] or "unknown",
        code_digest=hashlib.sha256((spec or spaces).encode()).digest(),
    )


def _digest(path: Path) -> bytes:
    """SHA-256 over names and contents of the data set's files."""
    whole = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file():
            content = hashlib.sha256()
            with file.open("rb") as opened:
                while part := opened.read(_READ_BYTES):
                    content.update(part)
            whole.update(file.relative_to(path).as_posix().encode() + b"\0" + content.digest())
    return whole.digest()


def _seed(value: Any) -> int | None:
    try:
        seed = int(value)
    except (TypeError, ValueError):
        return None
    return seed if 0 <= seed <= _SEED_MAX else None


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what minari raises inside the context into ImportRefused."""
    try:
        yield
    except ImportRefused:
        raise
    except ImportError as error:
        # minari hides which module it misses, and the command line names the extra by that.
        hidden = error.__context__
        if isinstance(hidden, ModuleNotFoundError):
            raise ModuleNotFoundError(str(hidden), name=hidden.name) from error
        raise
    except _UNREADABLE as error:
        raise ImportRefused(f"Minari data set {path} cannot be read: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
