"""What the records of an imported data set say about where they come from.

The run id follows from what is imported and how: importing the same data set again in the same way adds nothing. Knows
no data set format.

Exceptions: none of its own; replay.provenance checks what is made here.
"""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

from protos.common.v1 import common_pb2

_RUN = "minari-"
_REVISION = "minari "
_LAYOUT = 1
"""Of imported records; raised when the same data set would become other records, which then are another run."""

_TEXT_MAX = 256
_RUN_ID_CHARACTERS = 40


class Dataset(NamedTuple):
    """A data set, identified by its content."""

    id: str
    digest: bytes
    """SHA-256 over its files (32 bytes)."""
    version: str
    """Of the software that wrote it."""
    environment: common_pb2.EnvironmentIdentity


def origin_of(
    dataset: Dataset, schema: common_pb2.Schema, *, actor_id: str, steps_per_record: int
) -> common_pb2.Origin:
    """The origin of the records that a Minari data set becomes."""
    settings = {
        "layout": _LAYOUT,
        "dataset": dataset.id,
        "digest": dataset.digest.hex(),
        "steps_per_record": steps_per_record,
    }
    config_digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).digest()
    return common_pb2.Origin(
        actor_id=actor_id,
        run_id=f"{_RUN}{config_digest.hex()[:_RUN_ID_CHARACTERS]}",
        environment=dataset.environment,
        schema=schema,
        config_digest=config_digest,
        source_revision=f"{_REVISION}{dataset.version} {dataset.id}"[:_TEXT_MAX],
    )


def is_import(origin: common_pb2.Origin) -> bool:
    """Whether its records were read from a data set; their policy's digest is then that of the data set."""
    return origin.run_id.startswith(_RUN) and origin.source_revision.startswith(_REVISION)


def software_of(origin: common_pb2.Origin) -> str:
    """What made the records: a source revision, or the software that the data set was read with; "" if not known."""
    revision = origin.source_revision
    return " ".join(revision.split(" ")[:2]) if is_import(origin) else revision
