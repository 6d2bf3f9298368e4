"""What a curation rule is: a plain function, registered by name, from a record to signals about it.

    @rule("long", signals=("long",), parameters={"steps": 100.0})
    def long(record: LoggedRecord, context: CurationContext) -> Mapping[str, float]:
        \"\"\"1 where the record has at least `steps` steps.\"\"\"
        return {"long": float(record.header.steps >= context.parameter("steps"))}

A rule sees one record at a time, in log order, and whatever it keeps in its context (context.py), which is bounded. It
returns some of the signals that it was registered with, finite numbers, or nothing where it has nothing to say. The
rules that come with Temper are listed in catalog.py; a user's own are registered by importing the module they are in.

What verification found out is nobody else's to say: no rule writes the signals `verified`, `mismatch` and
`verification_error`.

Exceptions: RuleError (a ValueError) for a name or parameter that is not known, a clash of names, a malformed choice.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from replay.curation.context import CurationContext
from replay.provenance import RESERVED_SIGNALS
from replay.record import LoggedRecord

RuleFunction = Callable[[LoggedRecord, CurationContext], Mapping[str, float]]
_Function = TypeVar("_Function", bound=RuleFunction)

_NAME = re.compile(r"[A-Za-z0-9._/-]{1,64}")

_OF_VERIFICATION = RESERVED_SIGNALS - {"reward_verified"}
"""`reward_verified` is what a rule that comes with Temper concludes from them."""


class RuleError(ValueError):
    """A rule cannot be registered or chosen; the message names what was wrong and what is known."""


@dataclass(frozen=True)
class Rule:
    """A registered rule."""

    name: str
    function: RuleFunction
    signals: tuple[str, ...]
    """Names of the signals that it may write."""
    needs_payload: bool
    """Whether it reads `record.columns`; where no rule does, payloads are not read at all."""
    parameters: Mapping[str, float | None]
    """Its parameters with their defaults; None where there is no default."""

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return (self.function.__doc__ or "").strip().partition("\n")[0]


@dataclass(frozen=True)
class ChosenRule:
    """A rule, and the parameters to run it with, defaults included."""

    rule: Rule
    parameters: Mapping[str, float | None]


_registered: dict[str, Rule] = {}


def rule(
    name: str,
    *,
    signals: Sequence[str],
    needs_payload: bool = False,
    parameters: Mapping[str, float | None] | None = None,
) -> Callable[[_Function], _Function]:
    """Registers the function below it, and leaves it as it is.

    Args:
      name: unique among the rules: 1 to 64 of A-Z, a-z, 0-9, '.', '_', '/' and '-'.
      signals: names of the signals that it may write, at least one, of the same form.
      needs_payload: whether it reads `record.columns`.
      parameters: numbers that whoever runs it may set, with their defaults; None for none.

    Raises:
      RuleError: the name is malformed or taken by another function; there is no signal, or one that it must not write.
    """
    if not _NAME.fullmatch(name):
        raise RuleError(f"rule name {name!r} must match {_NAME.pattern}: it was not registered")
    if not signals or isinstance(signals, str):
        raise RuleError(f"rule {name!r} must name the signals that it writes, in a tuple: it was not registered")
    for signal in signals:
        if not _NAME.fullmatch(signal):
            raise RuleError(f"signal {signal!r} of rule {name!r} must match {_NAME.pattern}: it was not registered")
        if signal in _OF_VERIFICATION:
            raise RuleError(
                f"signal {signal!r} is for verification to write, not for rule {name!r}: it was not registered"
            )

    def register(function: _Function) -> _Function:
        taken = _registered.get(name)
        if taken is not None and _whence(taken.function) != _whence(function):
            raise RuleError(f"rule {name!r} of {_whence(function)} is registered already, by {_whence(taken.function)}")
        _registered[name] = Rule(name, function, tuple(signals), needs_payload, dict(parameters or {}))
        return function

    return register


def registered() -> Mapping[str, Rule]:
    """Every rule registered so far, by name, in order of name."""
    return dict(sorted(_registered.items()))


def choose(text: str) -> ChosenRule:
    """The rule that "NAME" or "NAME:KEY=VALUE,KEY=VALUE" chooses, among those registered so far.

    Raises:
      RuleError: no rule has this name, it has no such parameter, or a value is no finite number.
    """
    name, colon, assignments = text.partition(":")
    if name not in _registered:
        raise RuleError(f"unknown rule {name!r}; known are {', '.join(sorted(_registered)) or 'none'}")
    chosen = _registered[name]
    given: dict[str, float | None] = dict(chosen.parameters)
    for assignment in assignments.split(",") if colon else ():
        key, equals, value = assignment.partition("=")
        if not equals or key not in chosen.parameters:
            known = ", ".join(f"{key}=NUMBER" for key in chosen.parameters) or "none"
            raise RuleError(f"rule {name!r} has no parameter {assignment!r}; its parameters are: {known}")
        given[key] = _number(name, key, value)
    return ChosenRule(chosen, given)


def _number(name: str, key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise RuleError(f"rule {name!r}: {key} = {text!r} is not a finite number")
    return value


def _whence(function: RuleFunction) -> str:
    return f"{function.__module__}.{function.__qualname__}"
