"""What a table is told: checks of a TableSpec, and its one-line form for configurations and the command line.

    fresh queue error_buffer=256
    uniform old samples_per_insert=4 min_size=1000
    prioritised per exponent=0.6 signal=td_error payload_bytes_max=2GiB
    stratified by-task by=task_id
    curated good filter='signals.success == 1 and not quarantined' records_max=100000

KIND and NAME, then settings in any order, quoted as in a shell. The meaning of each is in replay.proto (TableSpec);
what a table makes of them is in replay/tables.

Exceptions: TableSpecError (a ValueError) for what no table can be told.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable
from typing import NamedTuple

from protos.replay.v1 import replay_pb2
from replay.filters import FilterError, field_reader, parse_filter
from replay.limiter import LimiterError, RateLimiter, min_size_limiter, queue_limiter, ratio_limiter

KINDS = ("fresh", "uniform", "prioritised", "stratified", "curated")
SAMPLES_PER_INSERT_MIN = 1e-6
SIGNAL_CHARACTERS_MAX = 256

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_BYTES = re.compile(r"(\d+)([KMGT]i?)?B?")
_UNITS: dict[str | None, int] = {
    None: 1,
    **{unit: 1000**power for power, unit in enumerate("KMGT", 1)},
    **{unit + "i": 1024**power for power, unit in enumerate("KMGT", 1)},
}


class TableSpecError(ValueError):
    """No table can be told this; the message names the value, the bound and what follows, or the known names."""


def _bytes(value: str) -> int:
    match = _BYTES.fullmatch(value)
    if not match:
        raise ValueError
    return int(match[1]) * _UNITS[match[2]]


class _Setting(NamedTuple):
    field: str
    """Of TableSpec."""
    read: Callable[[str], str | int | float]
    meaning: str
    kinds: tuple[str, ...] = KINDS
    high: float = math.inf
    """Up to which arithmetic with it stays finite and exact enough."""


_SETTINGS = {
    "samples_per_insert": _Setting("samples_per_insert", float, "a number", KINDS[1:], 1e6),
    "min_size": _Setting("min_size", int, "a whole number", KINDS[1:], 1e12),
    "error_buffer": _Setting("error_buffer", float, "a number", high=1e12),
    "records_max": _Setting("records_max", int, "a whole number"),
    "payload_bytes_max": _Setting("payload_bytes_max", _bytes, "a number of bytes, such as 100MB or 4GiB"),
    "age_s_max": _Setting("age_s_max", float, "a number of seconds", high=1e9),
    "exponent": _Setting("priority_exponent", float, "a number", ("prioritised",), 4.0),
    "signal": _Setting("priority_signal", str, "a name", ("prioritised",)),
    "by": _Setting("stratify_by", str, "a field", ("stratified",)),
    "filter": _Setting("filter", str, "a filter", ("curated",)),
}


def _defaults(kind: str, name: str) -> replay_pb2.TableSpec:
    return replay_pb2.TableSpec(
        kind=kind,
        name=name,
        min_size=1,
        error_buffer=128.0 if kind == "fresh" else 1024.0,
        priority_exponent=0.6 if kind == "prioritised" else 0.0,
    )


def parse_spec(text: str) -> replay_pb2.TableSpec:
    """Reads the one-line form, and checks what it says. What is not said: min_size=1, error_buffer=1024 (fresh: 128),
    exponent=0.6 (of Schaul et al. 2016), all else none. Raises TableSpecError.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise TableSpecError(f"table {text!r} cannot be read: {error}") from None
    if len(words) < 2 or "=" in words[0] or "=" in words[1]:
        raise TableSpecError(f"table {text!r} must be KIND NAME key=value ...; kinds are {', '.join(KINDS)}")
    spec = _defaults(words[0], words[1])
    seen: set[str] = set()
    for word in words[2:]:
        key, equals, value = word.partition("=")
        setting = _SETTINGS.get(key)
        if setting is None or not equals or key in seen:
            wrong = "stands twice" if key in seen else "is none of its settings" if equals else "is no key=value"
            raise TableSpecError(f"table {text!r}: {word!r} {wrong}; settings are {', '.join(_SETTINGS)}")
        seen.add(key)
        try:
            setattr(spec, setting.field, setting.read(value))
        except (ValueError, OverflowError):
            raise TableSpecError(f"table {spec.name!r}: {key} = {value!r} is not {setting.meaning}") from None
    check_spec(spec)
    return spec


def format_spec(spec: replay_pb2.TableSpec) -> str:
    """The one-line form that `parse_spec` reads back to `spec`, without what it says anyway."""
    defaults = _defaults(spec.kind, spec.name)
    words = [spec.kind, spec.name]
    for key, setting in _SETTINGS.items():
        value = getattr(spec, setting.field)
        if value != getattr(defaults, setting.field):
            text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
            words.append(f"{key}={shlex.quote(text)}")
    return " ".join(words)


def check_spec(spec: replay_pb2.TableSpec) -> None:
    """Checks all that a table is told. Raises TableSpecError."""
    if spec.kind not in KINDS:
        raise TableSpecError(f"table {spec.name!r} is of kind {spec.kind!r}; kinds are {', '.join(KINDS)}")
    if not _NAME.fullmatch(spec.name):
        raise TableSpecError(f"table name {spec.name!r} must match {_NAME.pattern}: it could not be asked for")
    unset = replay_pb2.TableSpec()
    for key, setting in _SETTINGS.items():
        value = getattr(spec, setting.field)
        if isinstance(value, float | int) and not (0 <= value < math.inf and value <= setting.high):
            raise _error(spec, key, f"must be finite, not negative, and at most {setting.high:g}")
        # 1 is what fresh does; min_size 0 says nothing
        neutral = (getattr(unset, setting.field), 1) if key in ("min_size", "samples_per_insert") else ("", 0)
        if spec.kind not in setting.kinds and value not in neutral:
            raise _error(spec, key, f"means nothing to it: only {', '.join(setting.kinds)} tables have it")
    _check_limits(spec)
    _check_choice(spec)


def _check_limits(spec: replay_pb2.TableSpec) -> None:
    if spec.kind == "fresh":
        if spec.error_buffer < 1:
            raise _error(spec, "error_buffer", "must be at least 1: no record could ever be appended")
        if spec.records_max and spec.error_buffer > spec.records_max:
            raise _error(
                spec, "error_buffer", f"exceeds records_max = {spec.records_max}: records would go before their turn"
            )
    else:
        if spec.min_size < 1:
            raise _error(spec, "min_size", "must be at least 1: nothing can be drawn from an empty table")
        if spec.records_max and spec.min_size > spec.records_max:
            raise _error(spec, "min_size", f"exceeds records_max = {spec.records_max}: nothing would ever be drawn")
        if 0 < spec.samples_per_insert < SAMPLES_PER_INSERT_MIN:
            raise _error(spec, "samples_per_insert", f"must be 0 (no limit) or at least {SAMPLES_PER_INSERT_MIN:g}")
    try:
        limiter_of(spec)
    except LimiterError as error:
        raise TableSpecError(f"table {spec.name!r}: {error}") from None


def _check_choice(spec: replay_pb2.TableSpec) -> None:
    if len(spec.priority_signal) > SIGNAL_CHARACTERS_MAX:
        raise _error(spec, "signal", f"has more than {SIGNAL_CHARACTERS_MAX} characters: no signal is called so")
    if spec.kind == "stratified" and not spec.stratify_by:
        raise _error(spec, "by", "names no field: without one there are no strata")
    if spec.kind == "curated" and not spec.filter.strip():
        raise _error(spec, "filter", "is empty: a table of every record is a uniform one")
    try:
        if spec.kind == "stratified":
            field_reader(spec.stratify_by)
        elif spec.kind == "curated":
            parse_filter(spec.filter)
    except FilterError as error:
        raise TableSpecError(f"table {spec.name!r}: {error}") from None


def limiter_of(spec: replay_pb2.TableSpec) -> RateLimiter:
    """The limiter that a table is told to keep to. Raises LimiterError."""
    if spec.kind == "fresh":
        return queue_limiter(int(spec.error_buffer))
    if spec.samples_per_insert:
        return ratio_limiter(spec.samples_per_insert, spec.min_size, spec.error_buffer)
    return min_size_limiter(spec.min_size)


def _error(spec: replay_pb2.TableSpec, key: str, consequence: str) -> TableSpecError:
    value = getattr(spec, _SETTINGS[key].field)
    return TableSpecError(f"table {spec.name!r} ({spec.kind}): {key} = {value!r} {consequence}")
