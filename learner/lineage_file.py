"""What one policy learnt from, as a file. Reads and writes bytes; which files are kept is learner.lineage_archive's.

Format, version 1. In this order, each of the first three a line of UTF-8 that ends in a line feed:

    temper.lineage.v1
    {"version": update count, "run_id": text, "env_steps": int, "time_ns": when it was written (ns since the epoch),
     "checkpoint": whether a checkpoint was written of it, "artifact_digest": hex of the candidate's artifact or "",
     "records": how many it learnt from, "bitmap_bytes": size of the bitmap,
     "teachers": releases of other runs that it was distilled from, each RUN_ID@NUMBER:DIGEST; left out where none}
    {"streams": [...], "others": [...], "behaviours": [...], "transformations": {...}}   (learner.lineage_provenance)
    bitmap_bytes bytes: the positions in the replay log, as a 64-bit roaring bitmap in its portable serialization
    the SHA-256 of everything before it (32 bytes)

So `head -3` shows it to a person. The provenance is bounded (some 200 KB at most, usually a few), and the bitmap takes
a few bytes for each run of positions, however long.

Exceptions: LineageError (learner.lineage).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from learner.lineage import ConsumedRecords, LineageError
from learner.lineage_provenance import ConsumedProvenance
from safety.canonical_json import canonical_json

MAGIC = b"temper.lineage.v1\n"

CHECKPOINT = "checkpoint"
CANDIDATE = "candidate"

_DIGEST_BYTES = 32
_HEAD_BYTES_MAX = 65_536


@dataclasses.dataclass(frozen=True)
class LineageHead:
    """What a lineage is about.

    Attributes:
      version: learner update count.
      run_id: training run.
      env_steps: environment steps learnt from.
      time_ns: when it was written, ns since the epoch.
      checkpoint: whether a checkpoint was written of it.
      artifact_digest: artifact that was offered of it as a candidate (32 bytes); b"" where none was.
      teachers: releases of other runs that it was distilled from, each RUN_ID@NUMBER:DIGEST.
    """

    version: int
    run_id: str
    env_steps: int
    time_ns: int
    checkpoint: bool = False
    artifact_digest: bytes = b""
    teachers: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """What it is the lineage of."""
        return ((CHECKPOINT,) if self.checkpoint else ()) + ((CANDIDATE,) if self.artifact_digest else ())


@dataclasses.dataclass(frozen=True)
class Lineage:
    """What one policy learnt from. Not to be changed once it is made."""

    head: LineageHead
    consumed: ConsumedRecords
    provenance: ConsumedProvenance


def encode_lineage(lineage: Lineage) -> bytes:
    """The bytes of the file."""
    bitmap = lineage.consumed.to_bytes()
    head = dataclasses.asdict(lineage.head) | {
        "artifact_digest": lineage.head.artifact_digest.hex(),
        "records": len(lineage.consumed),
        "bitmap_bytes": len(bitmap),
    }
    if not head["teachers"]:
        del head["teachers"]
    data = b"".join((MAGIC, _line(head), _line(lineage.provenance.to_json()), bitmap))
    return data + hashlib.sha256(data).digest()


def lineage_digest(lineage: Lineage) -> bytes:
    """SHA-256 of what a candidate learnt from (32 bytes), for its verdict to bind.

    Of its update count, run, environment steps, artifact, teachers, records and where these came from; not of when the
    file was written, nor of whether a checkpoint was kept, so that it stays the same when the lineages of both become
    one.
    """
    provenance = {
        name: sorted(value, key=repr) if isinstance(value, list) else value
        for name, value in lineage.provenance.to_json().items()
    }
    about = {
        "version": lineage.head.version,
        "run_id": lineage.head.run_id,
        "env_steps": lineage.head.env_steps,
        "artifact_digest": lineage.head.artifact_digest.hex(),
        "provenance": provenance,
    } | ({"teachers": list(lineage.head.teachers)} if lineage.head.teachers else {})
    return hashlib.sha256(
        b"temper.lineage-digest.v1\n" + canonical_json(about) + b"\n" + lineage.consumed.to_bytes()
    ).digest()


def decode_lineage(data: bytes, name: str) -> Lineage:
    """What the bytes of the file `name` say. Raises LineageError unless they are those that were written."""
    if not data.startswith(MAGIC):
        raise LineageError(f"{name} does not begin with {MAGIC.decode().strip()}: it is no lineage of this version")
    body, checksum = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != checksum:
        raise LineageError(f"{name} is not what was written: its checksum differs")
    lines = body.split(b"\n", 3)
    try:
        plain, provenance, bitmap = json.loads(lines[1]), json.loads(lines[2]), lines[3]
        head = _head(plain)
        if len(bitmap) != plain["bitmap_bytes"]:
            raise LineageError(f"the bitmap has {len(bitmap)} bytes, {plain['bitmap_bytes']} were written")
        consumed = ConsumedRecords.from_bytes(bitmap)
        return Lineage(head, consumed, ConsumedProvenance.from_json(provenance))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise LineageError(f"{name} cannot be read: {error}") from error


def read_lineage(path: Path) -> Lineage:
    """The lineage in a file. Raises LineageError, also where the file cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LineageError(f"{path} cannot be read: {error.strerror}") from error
    return decode_lineage(data, str(path))


def read_lineage_head(path: Path) -> LineageHead:
    """What a file is about, without the rest, which is not checked. Raises LineageError."""
    try:
        with path.open("rb") as file:
            magic, line = file.readline(len(MAGIC)), file.readline(_HEAD_BYTES_MAX)
    except OSError as error:
        raise LineageError(f"{path} cannot be read: {error.strerror}") from error
    if magic != MAGIC:
        raise LineageError(f"{path} does not begin with {MAGIC.decode().strip()}: it is no lineage of this version")
    try:
        return _head(json.loads(line))
    except (ValueError, KeyError, TypeError) as error:
        raise LineageError(f"{path} cannot be read: {error}") from error


def _head(plain: dict[str, Any]) -> LineageHead:
    return LineageHead(
        version=int(plain["version"]),
        run_id=str(plain["run_id"]),
        env_steps=int(plain["env_steps"]),
        time_ns=int(plain["time_ns"]),
        checkpoint=bool(plain["checkpoint"]),
        artifact_digest=bytes.fromhex(plain["artifact_digest"]),
        teachers=tuple(str(each) for each in plain.get("teachers", ())),
    )


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
