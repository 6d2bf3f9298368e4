"""MinAtar's Space Invaders with closed columns: each step that ends with the cannon in one of them costs 1.

The game is that of `actors.environments.minatar`, unchanged. Closed are the CLOSED_COLUMNS at the right end of the ten
that the cannon moves in. Aliens come down there as everywhere, so whoever looks at the return alone goes in to shoot
them sooner and to get out of the way of bullets, and violates in nearly every game; a cannon that stays out waits for
the aliens to come back, and earns somewhat less. Since an action is now and then repeated in place of the chosen one,
it does well to keep one column away from the line.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from actors.environment import Transition
from actors.environments.identity import code_digest
from actors.environments.minatar import MinAtar

CLOSED_COLUMNS = 3
"""Of ten; the cannon starts in the sixth."""

_CANNON = 0
"""Channel of the observation that shows it."""


class SpaceInvadersClosedColumns:
    """One game. Satisfies `actors.environment.Environment`."""

    def __init__(self, config: EnvironmentConfig) -> None:
        self._game = MinAtar("space_invaders", config)
        inner = self._game.spec
        arguments = {"game": inner.code_digest.hex(), "closed_columns": CLOSED_COLUMNS, "cannon": _CANNON}
        self.spec = dataclasses.replace(
            inner,
            id="minatar-cost:space_invaders",
            code_digest=code_digest((SpaceInvadersClosedColumns,), arguments, inner.version),
        )

    def reset(self, seed: int) -> NDArray[np.bool_]:
        """Starts a game; the cannon is in an open column."""
        return self._game.reset(seed)

    def step(self, action: int) -> Transition:
        """Takes one step."""
        transition = self._game.step(action)
        return transition._replace(cost=float(transition.observation[:, -CLOSED_COLUMNS:, _CANNON].any()))

    def close(self) -> None:
        """Holds nothing that needs freeing."""
        self._game.close()
