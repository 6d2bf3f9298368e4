"""Environments of their own for the peers, whose requirements (numpy<2, protobuf<5) contradict Temper's.

Made once; a stamp written last says what is in it, so that an interrupted or different installation is done again.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peer_settings import VERSION
from benchmarks.process_group import BenchmarkError, run_to_end

CACHE = Path("~/.cache/temper-benchmarks")
"""Where the environments are kept between runs, unless a benchmark is told otherwise."""

_SAMPLE_FACTORY = (f"sample-factory=={VERSION}", "numpy<2", "gymnasium<1")
_STAMP = "installed.txt"
_STEP_S_MAX = 1800.0
"""Of one call of pip: a mirror that gives a few bytes now and then would otherwise never end."""


def install_peer(directory: Path, torch_requirement: str) -> Path:
    """Makes Sample Factory's virtual environment, unless it is there, and returns its Python.

    Args:
      directory: where it is kept between runs.
      torch_requirement: what to ask pip for, a CPU build for preference: with it a plain name may be several GB of
        CUDA libraries. Where pip looks is its own configuration's business.

    Raises:
      BenchmarkError: pip failed; nothing that could pass for an installation is left.
    """
    # torch comes first and is named again beside the rest, so that nothing puts another build in its place.
    steps = ((torch_requirement, "numpy<2"), (torch_requirement, *_SAMPLE_FACTORY))
    return install(directory, f"Sample Factory {VERSION}", steps)


def install(directory: Path, name: str, steps: Sequence[Sequence[str]]) -> Path:
    """Makes a peer's virtual environment, unless it is there.

    Args:
      directory: where it is kept between runs.
      name: of the peer, for whoever waits.
      steps: what to ask pip for, call by call; the last one names everything that matters.

    Returns:
      The environment's Python.

    Raises:
      BenchmarkError: pip failed, or took too long; nothing that could pass for an installation is left.
    """
    python, stamp = directory / "bin" / "python", directory / _STAMP
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    contents = "\n".join((f"python {version}", *steps[-1])) + "\n"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == contents:
        return python
    print(f"Installing {name} into {directory}; this takes a few minutes, once.", file=sys.stderr, flush=True)
    if directory.exists() and not (directory / "pyvenv.cfg").exists() and any(directory.iterdir()):
        raise BenchmarkError(f"{directory} holds something else than a virtual environment; left as it is")
    shutil.rmtree(directory, ignore_errors=True)
    directory.parent.mkdir(parents=True, exist_ok=True)
    log = directory.with_name(f"{directory.name}.log")
    _run([sys.executable, "-m", "venv", str(directory)], log)
    for requirements in steps:
        pip = [str(python), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
        _run([*pip, *requirements], log)
    log.unlink()
    stamp.write_text(contents, encoding="utf-8")
    return python


def environment() -> dict[str, str]:
    """The variables of a peer's processes: nothing of Temper's may come before what is installed for the peer."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def _run(command: Sequence[str], log: Path) -> None:
    run_to_end(command, log=log, directory=log.parent, seconds_max=_STEP_S_MAX, environment=environment())
