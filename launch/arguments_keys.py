"""The arguments of the commands over certificates: what tyro parses, and nothing that runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg


@dataclass(frozen=True)
class KeysInit:
    """Make a certificate authority of one's own, for the processes of an installation that spans hosts."""

    directory: Annotated[Positional[Path], arg(metavar="DIRECTORY")]
    """Where; made if missing. Keep it away from the hosts of a run."""
    days: Annotated[float, arg(metavar="DAYS")] = 3650.0
    """How long the authority is valid."""
    trust: Annotated[UseAppendAction[tuple[Path, ...]], arg(metavar="FILE")] = ()
    """A certificate of another authority to trust as well, e.g. the one that this one replaces; may be repeated."""


@dataclass(frozen=True)
class KeysIssue:
    """Issue the certificate of one process, or of one person."""

    role: Annotated[Positional[str], arg(metavar="ROLE")]
    """Roles with commas between them: append, sample, offer, evaluate, revoke, watch, read, administer; or what kind of
    process it is for: replay, safety, learner, actor, inference, auditor, operator."""
    name: Annotated[Positional[str], arg(metavar="NAME")]
    """Whose it is; the files go to DIRECTORY/issued/NAME."""
    host: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="HOST")] = ()
    """Name or address by which others reach what it serves; may be repeated. Without one it cannot serve."""
    directory: Annotated[Path, arg(metavar="DIRECTORY")] = Path("keys")
    """The authority's directory."""
    days: Annotated[float, arg(metavar="DAYS")] = 365.0
    """How long the certificate is valid."""
    replace: bool = False
    """Issue it anew where there is one of that name."""


@dataclass(frozen=True)
class KeysShow:
    """Show certificates: whose, for what, until when. Exit status 1 where one cannot be used."""

    directory: Annotated[Positional[Path], arg(metavar="DIRECTORY")] = Path("keys")
    """An authority's directory, or a process's."""
    json: bool = False
    """Print one JSON object a line."""


@dataclass(frozen=True)
class KeysCallers:
    """Ask a service how many callers it has refused."""

    address: Annotated[Positional[str], arg(metavar="ADDRESS")]
    """Where it listens, unix:PATH or HOST:PORT (TEMPER_CERTIFICATES names the certificate to show)."""
    json: bool = False
    """Print one JSON object."""


Command = KeysInit | KeysIssue | KeysShow | KeysCallers
