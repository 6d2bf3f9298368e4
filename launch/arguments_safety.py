"""The arguments of the `temper safety` commands that look into verdicts. What runs them is in launch.commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

_Verdict = Annotated[Positional[str], arg(metavar="VERDICT")]
_RunDirectory = Annotated[Path, arg(metavar="DIR")]


@dataclass(frozen=True)
class SafetyExplain:
    """Explain a verdict: every criterion with its figures and a plot, and the episodes that decided it."""

    verdict: _Verdict
    """Its id or the first characters of it, release:N, or newest; `temper safety verdicts` lists them."""
    run_dir: _RunDirectory
    """The run directory."""
    json: bool = False
    """Print one JSON object instead of lines."""


@dataclass(frozen=True)
class SafetyReplay:
    """Run an episode that a verdict rests on again, and compare. Exit status 1 where it comes out otherwise."""

    verdict: _Verdict
    """Its id or the first characters of it, release:N, or newest."""
    episode: Annotated[Positional[str], arg(metavar="SLICE:INDEX")]
    """The slice and the number of the episode in it, as `temper safety explain` prints them."""
    run_dir: _RunDirectory
    """The run directory."""
    incumbent: bool = False
    """Run the incumbent release on that seed instead of the candidate."""
    steps: bool = False
    """Print the steps around each event, too; with --json, all of them."""
    json: bool = False
    """Print one JSON object instead of lines."""


@dataclass(frozen=True)
class SafetyExport:
    """Print a verdict as an in-toto statement in a signed DSSE envelope, for tools that check attestations."""

    verdict: _Verdict
    """Its id or the first characters of it, release:N, or newest."""
    run_dir: _RunDirectory
    """The run directory."""


Command = SafetyExplain | SafetyReplay | SafetyExport
