"""An environment in front of another: passes every call through. Whoever changes something of it overrides that.

Changes nothing by itself and knows no environment. Exceptions: those of the environment that it is put around.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.environment import EnvironmentSpec, VectorEnvironment, VectorStep


class WrappedEnvironment:
    """Another environment as it is. Satisfies `actors.environment.VectorEnvironment`.

    Args:
      environment: that every call goes to; closed with this.
    """

    def __init__(self, environment: VectorEnvironment) -> None:
        self._environment = environment

    @property
    def spec(self) -> EnvironmentSpec:
        """What each lane is."""
        return self._environment.spec

    @property
    def lanes(self) -> int:
        """N."""
        return self._environment.lanes

    def reset(self, lanes: NDArray[np.intp], seeds: Sequence[int]) -> NDArray[Any]:
        """Starts an episode in each of `lanes` [K]."""
        return self._environment.reset(lanes, seeds)

    def step(self, actions: NDArray[Any], active: NDArray[np.bool_]) -> VectorStep:
        """Steps the active lanes."""
        return self._environment.step(actions, active)

    def close(self) -> None:
        """Closes the environment."""
        self._environment.close()
