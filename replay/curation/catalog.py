"""The rules there are: those that come with Temper, and those in modules of the user's.

Exceptions: RuleError for a module that cannot be imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence

# Imported for what they register.
from replay.curation import duplicates, fidelity, novelty, outcome_rules  # noqa: F401
from replay.curation.rules import ChosenRule, Rule, RuleError, choose, registered


def choose_rules(texts: Sequence[str], modules: Sequence[str] = ()) -> list[ChosenRule]:
    """Imports `modules`, which register rules, and chooses one rule for each text ("NAME" or "NAME:KEY=VALUE,...").

    Raises:
      RuleError: a module cannot be imported, a rule or parameter is not known, or a rule is chosen twice.
    """
    known_rules(modules)
    chosen = [choose(text) for text in texts]
    names = [each.rule.name for each in chosen]
    for name in names:
        if names.count(name) > 1:
            raise RuleError(f"rule {name!r} is chosen more than once: its signals would overwrite each other")
    return chosen


def known_rules(modules: Sequence[str] = ()) -> Mapping[str, Rule]:
    """Every rule there is, by name, after importing `modules`. Raises RuleError for one that cannot be imported."""
    for module in modules:
        try:
            importlib.import_module(module)
        except RuleError:
            raise
        except Exception as error:  # the module is somebody else's: whatever it raises, it cannot be used
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise RuleError(f"module {module!r} with rules cannot be imported: {what}") from error
    return registered()
