"""Makes environments by name. Imports an environment's package only when that environment is asked for."""

from __future__ import annotations

import difflib

from actors.config import EnvironmentConfig
from actors.environment import SequentialVector, UnknownEnvironment, VectorEnvironment
from actors.environments.catch import Catch
from actors.environments.catch_memory import CatchMemoryVector

MINATAR_GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
"""The games of the MinAtar package."""


def names() -> tuple[str, ...]:
    """The names that can be made, without the open-ended family "gym:ID"."""
    return (
        "cartpole",
        "cartpole-edge",
        "catch",
        "catch-memory",
        *(f"minatar:{game}" for game in MINATAR_GAMES),
        "minatar-cost:space_invaders",
    )


def make_vector(config: EnvironmentConfig, lanes: int) -> VectorEnvironment:
    """Makes the environment `config.name` with N = `lanes` lanes.

    Raises:
      UnknownEnvironment: no environment has this name.
      MissingExtra: its package is not installed.
      EnvironmentUnsupported: its observation or action space is not one an agent here can use.
    """
    family, _, member = config.name.partition(":")
    if config.name == "cartpole":
        from actors.environments.cartpole import CartPoleVector  # noqa: PLC0415 - needs Gymnasium

        return CartPoleVector(config, lanes)
    if config.name == "cartpole-edge":
        from actors.environments.cartpole_edge import CartPoleEdgeVector  # noqa: PLC0415 - needs Gymnasium

        return CartPoleEdgeVector(config, lanes)
    if config.name in ("catch", "catch-memory"):
        remembers = config.name == "catch-memory"
        return CatchMemoryVector(config, lanes) if remembers else SequentialVector(lambda: Catch(config), lanes)
    if config.name in names() and family == "minatar":
        from actors.environments.minatar import MinAtar  # noqa: PLC0415 - needs MinAtar

        return SequentialVector(lambda: MinAtar(member, config), lanes)
    if config.name == "minatar-cost:space_invaders":
        from actors.environments.minatar_cost import SpaceInvadersClosedColumns  # noqa: PLC0415 - needs MinAtar

        return SequentialVector(lambda: SpaceInvadersClosedColumns(config), lanes)
    if family == "gym" and member:
        from actors.environments.gymnasium_adapter import (  # noqa: PLC0415 - needs Gymnasium
            GymnasiumEnvironment,
        )

        return SequentialVector(lambda: GymnasiumEnvironment(member, config), lanes)
    raise UnknownEnvironment(_unknown(config.name))


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, names(), n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"unknown environment {name!r}: {hint}known are {', '.join(names())} and gym:ID"
