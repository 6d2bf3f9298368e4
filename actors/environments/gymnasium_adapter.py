"""Any registered Gymnasium environment whose spaces are known to actors.environments.gymnasium_spaces.

The cost of a step is `info["cost"]`, 0 where there is none.

The code digest covers the environment's class and those of all wrappers around it with the classes they are made from,
the arguments that wrappers record, and the function that makes them where there is one. Of a wrapper that records no
arguments it has the source only.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from actors.environment import EnvironmentSpec, EnvironmentUnsupported, MissingExtra, Transition, UnknownEnvironment
from actors.environments.identity import code_digest, package_version

try:
    import gymnasium
    from gymnasium.envs.registration import load_env_creator
    from gymnasium.wrappers import TimeLimit

    from actors.environments.gymnasium_spaces import ActionCodec, ObservationCodec
except ModuleNotFoundError as error:
    raise MissingExtra("environments 'gym:ID' need Gymnasium: pip install 'temper[gym]'") from error

_PYTHON_S = {"builtins", "abc", "typing"}
"""Modules of classes that say nothing of an environment."""


class GymnasiumEnvironment:
    """One environment made by `gymnasium.make`. Satisfies `actors.environment.Environment`.

    Args:
      environment_id: registered id, or "MODULE:ID" where importing MODULE registers it.
      config: `episode_steps_max` is used.

    Raises:
      UnknownEnvironment: nothing is registered under this id; names the near ones.
      MissingExtra: a package that the environment needs is not installed.
      EnvironmentUnsupported: its spaces are not supported, or it does not take its arguments; from `reset` and `step`:
        an observation has not the shape of its space.
    """

    def __init__(self, environment_id: str, config: EnvironmentConfig) -> None:
        self._environment: Any = _make(environment_id, config.episode_steps_max or None)
        name = f"gym:{environment_id}"
        self._observe = ObservationCodec(name, self._environment.observation_space)
        self._action = ActionCodec(name, self._environment.action_space)
        registered, base = self._environment.unwrapped.spec, type(self._environment.unwrapped)
        steps_max = _steps_max(self._environment)
        version = package_version("gymnasium")
        self.spec = EnvironmentSpec(
            id=name,
            version=version,
            code_digest=code_digest(
                (*_classes(self._environment), GymnasiumEnvironment, ObservationCodec, ActionCodec),
                {
                    "id": environment_id,
                    "class": f"{base.__module__}.{base.__qualname__}",
                    "kwargs": registered.kwargs,
                    "episode_steps_max": steps_max,
                    "wrappers": [_wrapper(each) for each in _layers(self._environment)[:-1]],
                    "made_by": _maker(registered.entry_point),
                },
                version,
            ),
            observation=self._observe.space,
            action=self._action.space,
            episode_steps_max=steps_max,
        )

    def reset(self, seed: int) -> NDArray[Any]:
        """Starts an episode with `seed`."""
        observation, _ = self._environment.reset(seed=seed)
        return self._observe(observation)

    def step(self, action: Any) -> Transition:
        """Takes one step."""
        observation, reward, terminated, truncated, info = self._environment.step(self._action(action))
        return Transition(
            self._observe(observation), float(reward), float(info.get("cost", 0.0)), bool(terminated), bool(truncated)
        )

    def close(self) -> None:
        """Closes the environment."""
        self._environment.close()


def _layers(environment: Any) -> list[Any]:
    """The wrappers from the outermost on, and last the environment itself."""
    layers = [environment]
    while isinstance(layers[-1], gymnasium.Wrapper):
        layers.append(layers[-1].env)
    return layers


def _steps_max(environment: Any) -> int | None:
    """Steps after which it truncates an episode: the least, should several wrappers do so."""
    limits = [getattr(each, "_max_episode_steps", None) for each in _layers(environment) if isinstance(each, TimeLimit)]
    return min((limit for limit in limits if limit is not None), default=None)


def _classes(environment: Any) -> Iterator[type]:
    """The classes of all layers, and those that they inherit from."""
    for layer in _layers(environment):
        yield from (each for each in type(layer).__mro__ if each.__module__ not in _PYTHON_S)


def _wrapper(wrapper: Any) -> list[object]:
    kind = type(wrapper)
    return [f"{kind.__module__}.{kind.__qualname__}", _arguments(wrapper)]


def _arguments(wrapper: Any) -> dict[str, Any]:
    """Those that it was made with, where it records them (gymnasium.utils.RecordConstructorArgs)."""
    return {name: value for name, value in getattr(wrapper, "_saved_kwargs", {}).items() if name != "env"}


def _maker(entry_point: Any) -> object:
    """What makes the environment, where that is a function and not the class itself."""
    made_by = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    return None if isinstance(made_by, type) else made_by


def _make(environment_id: str, steps_max: int | None) -> Any:
    try:
        # Its own checker repeats on each start what the contract tests check once.
        return gymnasium.make(environment_id, max_episode_steps=steps_max, disable_env_checker=True)
    except gymnasium.error.UnregisteredEnv as error:
        raise UnknownEnvironment(_unknown(environment_id)) from error
    except gymnasium.error.DependencyNotInstalled as error:
        raise MissingExtra(f"gym:{environment_id} needs a package that is not installed: {_one_line(error)}") from error
    except ModuleNotFoundError as error:
        raise MissingExtra(f"gym:{environment_id} needs a module that is not installed: {_one_line(error)}") from error
    except (gymnasium.error.Error, TypeError, ValueError) as error:
        raise EnvironmentUnsupported(f"gym:{environment_id} cannot be made: {_one_line(error)}") from error


def _unknown(environment_id: str) -> str:
    near = difflib.get_close_matches(environment_id, list(gymnasium.registry), n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"no Gymnasium environment is registered as {environment_id!r}{hint}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
