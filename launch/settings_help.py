"""The list of all settings under `temper train --help`: key, default, bounds and meaning, made from the configs."""

from __future__ import annotations

from collections.abc import Sequence

from launch.config import RunConfig
from launch.errors import UnknownRecipe
from launch.recipes import RECIPES, describe, make_recipe
from launch.settings_tree import Leaf, format_value, leaves


def print_settings(arguments: Sequence[str]) -> None:
    """Prints the recipes and every setting with its default.

    Args:
      arguments: what stood after `train`; where a recipe is among them, the defaults are that recipe's.
    """
    print("\nrecipes:")
    for name in RECIPES:
        print(f"  {name:<18} {describe(name)}")
    print(
        f"  {'gym:ID':<18} Any registered Gymnasium environment with a Box or Discrete observation, Discrete actions."
    )
    config = _recipe_among(arguments)
    of_recipe = f" of {config.recipe}" if config.recipe else ""
    print(f"\nsettings (--set KEY=VALUE), with their defaults{of_recipe}:")
    for leaf in leaves(config):
        print(f"  {leaf.key}={format_value(leaf.value)}\n      {_explain(leaf)}")


def _explain(leaf: Leaf) -> str:
    return f"{leaf.meaning} [{leaf.bounds}]" if leaf.bounds else leaf.meaning


def _recipe_among(arguments: Sequence[str]) -> RunConfig:
    for argument in arguments:
        try:
            return make_recipe(argument)
        except UnknownRecipe:
            continue
    return RunConfig(recipe="")
