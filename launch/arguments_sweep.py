"""The arguments of `temper sweep`: what tyro parses, and nothing that runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg


@dataclass(frozen=True)
class Sweep:
    """Train every combination of varied settings with several seeds, and compare what they come to."""

    recipe: Annotated[Positional[str], arg(metavar="RECIPE")]
    """As for train."""
    sweep_dir: Annotated[str, arg(metavar="DIR")]
    """Where everything is written; each run has a directory of its own in it."""
    seeds: Annotated[int, arg(metavar="K")] = 5
    """Each combination is run with the seeds 1 to K."""
    seed_list: Annotated[str, arg(metavar="K,K,...")] = ""
    """These seeds instead."""
    vary: Annotated[
        UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="KEY=VALUE,VALUE,... [KEY=VALUE,...]")
    ] = ()
    """Settings to vary, each with its values; all combinations are run. A value with commas in it stands in
    brackets."""
    overrides: Annotated[
        UseAppendAction[tuple[tuple[str, ...], ...]], arg(name="set", metavar="KEY=VALUE [KEY=VALUE ...]")
    ] = ()
    """Settings of all runs; temper train --help lists the keys."""
    parallel: Annotated[int, arg(metavar="N")] = 0
    """Runs at once; 0: as many as there are processors for."""
    max_env_steps: Annotated[int, arg(metavar="N")] = 0
    """Each run ends after this many environment steps; 0: as its settings say."""
    resume: bool = False
    """Go on with the sweep in --sweep-dir: finished runs are kept, all others continued."""
    json: bool = False
    """Print one JSON object instead of a table; what happens is told on standard error."""


Command = Sweep
