"""How commands print JSON, times, and text that came from elsewhere.

Exceptions: none of its own.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import Message

_NS_IN_S = 1_000_000_000
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def json_line(value: Any) -> str:
    """`value` (mappings, sequences, bytes, numbers, text, None) as JSON on one line.

    NaN and the infinities are the strings "NaN", "Infinity" and "-Infinity"; bytes are hexadecimal.
    """
    return json.dumps(_plain(value), allow_nan=False)


def message_json(message: Message) -> dict[str, Any]:
    """Every field of a message by its name, for json_line; those that were not set have their defaults.

    A value of an enum is its name in lower case, without that of the enum; one that this version does not know, the
    number.
    """
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if isinstance(value, Message):
            found[field.name] = message_json(value)
        elif isinstance(value, Mapping):
            found[field.name] = dict(sorted(value.items()))
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            found[field.name] = [
                message_json(each) if isinstance(each, Message) else _scalar(field, each) for each in value
            ]
        else:
            found[field.name] = _scalar(field, value)
    return found


def _scalar(field: Any, value: Any) -> Any:
    # A descriptor's class depends on which implementation of protobuf is installed.
    if field.enum_type is None or value not in field.enum_type.values_by_number:
        return value
    # As the style of protos has it: PayloadEncoding has PAYLOAD_ENCODING_RAW.
    prefix = _WORD_START.sub("_", field.enum_type.name).upper() + "_"
    return str(field.enum_type.values_by_number[value].name).removeprefix(prefix).lower()


def printable(text: str) -> str:
    """Text for a terminal: what could move its cursor, or worse, is escaped."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def iso_time(time_ns: int) -> str:
    """ns since the epoch as ISO 8601 in UTC, to the ns."""
    seconds, rest = divmod(time_ns, _NS_IN_S)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z"


def local_time(time_ns: int) -> str:
    """ns since the epoch as local time to the second, for a person."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_ns / 1e9))


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, bytes | memoryview):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    return value
