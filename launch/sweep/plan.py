"""What a sweep is, as a file in its directory: so that it can go on, and is not taken for another.

Exceptions: PlanError for a file that is no plan of this version.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.errors import BadInput
from launch.sweep.grid import Member, Setting, members_of
from policies.durable import replace_file

_VERSION = 1


class PlanError(BadInput):
    """A plan that cannot be read."""


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep.

    Attributes:
      recipe: name of the recipe, not of its file.
      settings: each combination of settings.
      seeds: that each setting is run with.
      env_steps_max: limit of every run in place of its settings'; 0: theirs.
    """

    recipe: str
    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    env_steps_max: int = 0

    @property
    def members(self) -> tuple[Member, ...]:
        """Every run."""
        return members_of(self.settings, self.seeds)


def write_plan(plan: Plan, path: Path) -> None:
    """Writes it whole or not at all. Raises OSError."""
    content = {"version": _VERSION, **dataclasses.asdict(plan)}
    replace_file(path, (json.dumps(content, indent=2) + "\n").encode())


def read_plan(path: Path) -> Plan:
    """The plan in a file. Raises PlanError."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("version") != _VERSION:
            raise PlanError(f"{path} was written by another version of temper: choose another --sweep-dir")
        settings = tuple(Setting(each["name"], tuple(each["assignments"])) for each in content.pop("settings"))
        return Plan(settings=settings, seeds=tuple(content.pop("seeds")), **content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PlanError(f"{path} is no plan of a sweep: {' '.join(str(error).split())}") from None


def difference(before: Plan, now: Plan) -> str:
    """In what two plans differ, for a person; "" where they are the same."""
    names = {
        "recipe": "the recipe",
        "settings": "--vary",
        "seeds": "the seeds",
        "env_steps_max": "--max-env-steps",
    }
    return ", ".join(word for field, word in names.items() if getattr(before, field) != getattr(now, field))
