"""The environments that records can be run again in here: made once each, when a record first asks for one.

A record names its environment by id, version and code digest, which covers its source and construction arguments. Only
the very same one will do: in any other the same actions may lead elsewhere, and that would say nothing of the record.

Exceptions: none of its own; an environment that cannot be had is a reason, given as a text.
"""

from __future__ import annotations

from actors.config import EnvironmentConfig
from actors.environment import SequentialVector, VectorEnvironment
from actors.environments.catalog import make_vector
from protos.common.v1 import common_pb2

LANES = 32
"""Episodes run again side by side where all lanes are stepped as one array."""

SEQUENTIAL_LANES = 8
"""The same where lanes are stepped one after the other: each costs as much as it would alone, and has to be made."""

_ENVIRONMENTS_MAX = 16


class KnownEnvironments:
    """Environments by the identity that records state. Close it.

    Args:
      config: the only environment to know; None: those that come with Temper or are registered with Gymnasium, by id
        and with the settings that they have by themselves.

    Raises:
      EnvironmentUnsupported: `config` names one that cannot be made.
    """

    def __init__(self, config: EnvironmentConfig | None) -> None:
        self._made: dict[str, VectorEnvironment | str] = {}
        self._only: VectorEnvironment | str | None = None
        if config is not None:
            self._only = _make(config)

    def find(self, identity: common_pb2.EnvironmentIdentity) -> VectorEnvironment | str:
        """The environment that this is, or why there is none."""
        environment = self._only if self._only is not None else self._by_name(identity.id)
        if isinstance(environment, str):
            return environment
        spec = environment.spec
        if spec.id != identity.id:
            return f"its environment is another one than {spec.id!r}"
        if spec.version != identity.version:
            return f"its environment is of another version than the one here ({spec.version})"
        if spec.code_digest != identity.code_digest:
            return "its environment has other code or settings than the one here, by its digest"
        return environment

    def _by_name(self, name: str) -> VectorEnvironment | str:
        if name in self._made:
            return self._made[name]
        if name.count(":") > 1:
            # To import what a record names would run whatever somebody wrote into a record.
            return "its environment is in a module, which is imported only where the environment is given by name"
        if len(self._made) >= _ENVIRONMENTS_MAX:
            return f"the records name more than {_ENVIRONMENTS_MAX} environments"
        try:
            self._made[name] = _make(EnvironmentConfig(name=name))
        except Exception:  # noqa: BLE001 - a record may name any that is installed, and they raise what they like
            self._made[name] = "its environment cannot be made here"
        return self._made[name]

    def give_up(self, environment: VectorEnvironment, why: str) -> None:
        """Never touches this one again, not even to close it; whoever asks for it is told why."""
        if self._only is environment:
            self._only = why
        for name, made in self._made.items():
            if made is environment:
                self._made[name] = why

    def close(self) -> None:
        """Closes every environment; may be called twice."""
        for environment in (self._only, *self._made.values()):
            if environment is not None and not isinstance(environment, str):
                environment.close()
        self._made.clear()


def _make(config: EnvironmentConfig) -> VectorEnvironment:
    trial = make_vector(config, 1)
    trial.close()
    return make_vector(config, SEQUENTIAL_LANES if isinstance(trial, SequentialVector) else LANES)
