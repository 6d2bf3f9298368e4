"""The fields of a record that a filter can name, what kind of value each has, and how it is read.

They come from header, origin and marks alone: no payload is opened for them. The language around them is in filters.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from protos.common.v1 import common_pb2
from replay.record import LoggedRecord

Value = str | float | int | bool | None
"""What an expression gives for one record; None where it is missing."""

Read = Callable[[LoggedRecord], Value]

NUMBER, TEXT, TRUTH = "number", "text", "truth value"


class Field(NamedTuple):
    """A field: NUMBER, TEXT or TRUTH, and how to read it from a record."""

    kind: str
    read: Read


def signal(name: str) -> Field:
    """The field of a signal; None where the record has none of that name."""
    return Field(NUMBER, lambda record: record.signals.get(name))


def _first_policy(record: LoggedRecord) -> common_pb2.PolicySpan | None:
    return record.header.policies[0] if record.header.policies else None


def _policy_version(record: LoggedRecord) -> Value:
    span = _first_policy(record)
    return None if span is None else span.version


def _policy_digest(record: LoggedRecord) -> Value:
    span = _first_policy(record)
    return None if span is None else span.digest.hex()


def _encoding(record: LoggedRecord) -> Value:
    try:
        name = common_pb2.PayloadEncoding.Name(record.header.encoding)
    except ValueError:  # of a later version
        return str(record.header.encoding)
    return name.removeprefix("PAYLOAD_ENCODING_").lower()


FIELDS: dict[str, Field] = {
    "position": Field(NUMBER, lambda record: record.position),
    "actor_id": Field(TEXT, lambda record: record.origin.actor_id),
    "run_id": Field(TEXT, lambda record: record.origin.run_id),
    "environment": Field(TEXT, lambda record: record.origin.environment.id),
    "environment_version": Field(TEXT, lambda record: record.origin.environment.version),
    "environment_digest": Field(TEXT, lambda record: record.origin.environment.code_digest.hex()),
    "task_id": Field(TEXT, lambda record: record.header.task_id),
    "lane": Field(NUMBER, lambda record: record.header.lane),
    "sequence": Field(NUMBER, lambda record: record.header.sequence),
    "steps": Field(NUMBER, lambda record: record.header.steps),
    "episode": Field(NUMBER, lambda record: record.header.episode),
    "seed": Field(NUMBER, lambda record: record.header.environment_seed),
    "policy_version": Field(NUMBER, _policy_version),
    "policy_version_max": Field(
        NUMBER, lambda record: max((span.version for span in record.header.policies), default=None)
    ),
    "policy_digest": Field(TEXT, _policy_digest),
    "config_digest": Field(TEXT, lambda record: record.origin.config_digest.hex()),
    "source_revision": Field(TEXT, lambda record: record.origin.source_revision),
    "start_time": Field(NUMBER, lambda record: record.header.start_time_ns / 1e9),
    "end_time": Field(NUMBER, lambda record: record.header.end_time_ns / 1e9),
    "transformation": Field(TEXT, lambda record: record.header.transformation),
    "parents": Field(NUMBER, lambda record: len(record.header.parents)),
    "encoding": Field(TEXT, _encoding),
    "quarantined": Field(TRUTH, lambda record: record.quarantined),
}
"""By name. Digests are lower-case hexadecimal, times seconds since the Unix epoch, `parents` is how many there are."""
