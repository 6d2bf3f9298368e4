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
      RuleError: a module cannot be imported, a rule or parameter is not known, a rule is chosen twice, or two write a
        signal of the same name.
    """
    known_rules(modules)
    chosen = [choose(text) for text in texts]
    names = [each.rule.name for each in chosen]
    for name in names:
        if names.count(name) > 1:
            raise RuleError(f"rule {name!r} is chosen more than once: its signals would overwrite each other")
    written_by: dict[str, str] = {}
    for each in chosen:
        for signal in each.rule.signals:
            other = written_by.setdefault(signal, each.rule.name)
            if other != each.rule.name:
                raise RuleError(f"rules {other!r} and {each.rule.name!r} both write the signal {signal!r}: choose one")
    return chosen


def known_rules(modules: Sequence[str] = ()) -> Mapping[str, Rule]:
    """Every rule there is, by name, after importing `modules`. Raises RuleError for one that cannot be imported."""
    for module in modules:
        try:
            importlib.import_module(module)
        except RuleError:
            raise
        except (Exception, SystemExit) as error:  # the module is somebody else's: whatever it raises, it cannot be used
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise RuleError(f"module {module!r} with rules cannot be imported: {what}") from error
    return registered()
