"""The runs that have a name: each recipe is a small function from nothing to every setting of a run.

Exceptions: launch.errors.UnknownRecipe; those of launch.config_file where the recipe is a file.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from pathlib import Path

from actors.config import ActorConfig, EnvironmentConfig
from launch.config import RunConfig, StopConfig
from launch.errors import UnknownRecipe
from learner.config import LearnerConfig
from policies.config import NetworkConfig
from replay.config import ReplayConfig
from safety.config import SafetyConfig

GYM_PREFIX = "gym:"


def cartpole() -> RunConfig:
    """Gymnasium's CartPole-v1 to a mean evaluation return of 475, the cart kept within its margin."""
    return RunConfig(
        recipe="cartpole",
        environment=EnvironmentConfig(name="cartpole"),
        actor=ActorConfig(lanes=32, unroll_length=32, window_records=64),
        replay=ReplayConfig(fresh_unconsumed_max=64, commit_ms_max=1.0),
        learner=LearnerConfig(
            batch_size=16,
            learning_rate=2e-3,
            learning_rate_end=2e-4,
            anneal_updates=4_000,
            reward_scale=0.1,
            cost_coefficient=0.5,
            candidate_return_min=300.0,
            candidate_interval_s=0.5,
        ),
        stop=StopConfig(target_return=475.0),
    )


def cartpole_cost() -> RunConfig:
    """CartPole paid for being near the end of its track, where steps cost: return and safety pull apart."""
    return RunConfig(
        recipe="cartpole-cost",
        environment=EnvironmentConfig(name="cartpole-edge"),
        actor=ActorConfig(lanes=32, unroll_length=32, window_records=64),
        replay=ReplayConfig(fresh_unconsumed_max=64, commit_ms_max=1.0),
        safety=SafetyConfig(violation_rate_max=0.05),
        learner=LearnerConfig(
            batch_size=16,
            learning_rate=1e-3,
            learning_rate_end=1e-4,
            anneal_updates=3_000,
            reward_scale=0.05,
            # Low enough that training keeps trying the margin: about half of the candidates are beyond it now and then.
            cost_coefficient=0.03,
            candidate_return_min=300.0,
            candidate_interval_s=1.0,
        ),
        stop=StopConfig(env_steps_max=1_500_000),
    )


def catch() -> RunConfig:
    """Catch a falling ball with a paddle: the smallest run, over in seconds."""
    return RunConfig(
        recipe="catch",
        environment=EnvironmentConfig(name="catch"),
        learner=LearnerConfig(candidate_return_min=0.8),
        stop=StopConfig(target_return=0.95),
    )


def catch_memory() -> RunConfig:
    """Catch a ball that is seen in the first rows only: a recurrent policy, for none without memory can do it."""
    return RunConfig(
        recipe="catch-memory",
        environment=EnvironmentConfig(name="catch-memory"),
        network=NetworkConfig(hidden_sizes=(64,), core="gru", core_size=32),
        actor=ActorConfig(lanes=32, unroll_length=16, window_records=64),
        replay=ReplayConfig(fresh_unconsumed_max=64, commit_ms_max=1.0),
        learner=LearnerConfig(
            batch_size=16,
            learning_rate=3e-3,
            learning_rate_end=3e-4,
            anneal_updates=3_000,
            entropy_cost=0.02,
            entropy_cost_end=0.002,
            candidate_return_min=0.8,
        ),
        stop=StopConfig(target_return=0.95, env_steps_max=2_000_000),
    )


def minatar_breakout() -> RunConfig:
    """MinAtar Breakout with a small convolutional network."""
    return _minatar("breakout")


def minatar_asterix() -> RunConfig:
    """MinAtar Asterix with a small convolutional network."""
    return _minatar("asterix")


def minatar_cost_space_invaders() -> RunConfig:
    """MinAtar Space Invaders with three columns in which steps cost: return and safety pull apart."""
    base = _minatar("space_invaders")
    return dataclasses.replace(
        base,
        recipe="minatar-cost-space-invaders",
        # Whole games are of some 300 steps: the gate would spend more time on them than training takes.
        environment=EnvironmentConfig(name="minatar-cost:space_invaders", episode_steps_max=120),
        safety=dataclasses.replace(base.safety, violation_rate_max=0.05, episodes=100, episodes_max=300),
        learner=dataclasses.replace(
            base.learner,
            # Late candidates violate in 1 to 4 of 100 games at this price.
            cost_coefficient=3.0,
            # A policy that hardly explores any more enters a closed column by choice, not by chance.
            entropy_cost_end=2e-4,
            anneal_updates=1_500,
            # The step size stays, so that candidates go on being different from each other.
            learning_rate_end=1e-3,
            # Before, they earn too little to be worth the gate's error rate.
            candidate_return_min=10.0,
            candidate_interval_s=0.0,
            candidate_interval_updates=50,
        ),
        stop=StopConfig(env_steps_max=800_000),
    )


def distill() -> RunConfig:
    """A smaller student of released policies; `temper distill RUN_DIR` makes its settings from the teacher's run."""
    return RunConfig(
        recipe="distill",
        learner=LearnerConfig(entropy_cost=0.0, entropy_cost_end=0.0),
        stop=StopConfig(env_steps_max=1_000_000),
    )


def _minatar(game: str) -> RunConfig:
    return RunConfig(
        recipe=f"minatar-{game}",
        environment=EnvironmentConfig(name=f"minatar:{game}"),
        network=NetworkConfig(kind="conv", hidden_sizes=(128,), activation="relu"),
        # Returns vary widely between episodes: one as good as the incumbent needs this margin to be let through.
        safety=SafetyConfig(return_margin=0.2),
        learner=LearnerConfig(
            learning_rate=1e-3,
            learning_rate_end=1e-4,
            anneal_updates=8_000,
            candidate_interval_s=30.0,
        ),
        stop=StopConfig(env_steps_max=5_000_000),
    )


def _gym(recipe: str) -> RunConfig:
    return RunConfig(
        recipe=recipe,
        environment=EnvironmentConfig(name=recipe),
        actor=ActorConfig(lanes=16),
        learner=LearnerConfig(candidate_interval_s=15.0),
        stop=StopConfig(env_steps_max=1_000_000),
    )


RECIPES: Mapping[str, Callable[[], RunConfig]] = {
    "cartpole": cartpole,
    "cartpole-cost": cartpole_cost,
    "catch": catch,
    "catch-memory": catch_memory,
    "minatar-breakout": minatar_breakout,
    "minatar-asterix": minatar_asterix,
    "minatar-cost-space-invaders": minatar_cost_space_invaders,
    "distill": distill,
}
"""By name; besides these, "gym:ID" is a recipe for any registered Gymnasium environment."""


def make_recipe(name: str) -> RunConfig:
    """The settings of the recipe `name`.

    Raises:
      UnknownRecipe: there is none; the message lists those that there are and names the nearest.
    """
    if name in RECIPES:
        return RECIPES[name]()
    if name.startswith(GYM_PREFIX) and len(name) > len(GYM_PREFIX):
        return _gym(name)
    close = difflib.get_close_matches(name, RECIPES, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    known = ", ".join([*RECIPES, "gym:ID", "a config.toml of a run"])
    raise UnknownRecipe(f"no recipe {name!r}; {guess}known: {known}")


def describe(name: str) -> str:
    """The recipe's first docstring line."""
    return (RECIPES[name].__doc__ or "").partition("\n")[0]


def is_config_file(recipe: str) -> bool:
    """Whether what the user gave as a recipe is meant as the path of a config file."""
    return recipe.endswith(".toml") or (recipe not in RECIPES and Path(recipe).is_file())
