"""A policy's bytes: safetensors with the specification in its metadata, addressed by the SHA-256 of the whole.

Nothing in an artifact is executed when it is read, and nothing of it is believed: names, shapes and types of the
tensors must be those that its specification implies. Who made it, and who let it out, is not its business: see
trust.py.

Exceptions: ArtifactError (a ValueError) and, below it, DigestError and NotFiniteError.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from policies.architecture import parameter_shapes
from policies.spaces import SpecError
from policies.spec import PARAMETERS_MAX, PolicySpec

HEADER_BYTES_MAX = 1 << 20
ARTIFACT_BYTES_MAX = 4 * PARAMETERS_MAX + HEADER_BYTES_MAX
"""Nobody accepts a larger artifact."""

DIGEST_BYTES = 32

_RANK_MAX = 4
"""No parameter has more dimensions: see `policies.architecture.parameter_shapes`."""


class ArtifactError(ValueError):
    """Bytes that are no artifact, or parameters that do not fit their specification."""


class DigestError(ArtifactError):
    """The bytes are not the ones that the digest names."""


class NotFiniteError(ArtifactError):
    """A parameter is NaN or infinite."""


def artifact_digest(data: bytes) -> bytes:
    """The address of an artifact: the SHA-256 of its bytes (32 bytes)."""
    return hashlib.sha256(data).digest()


@dataclasses.dataclass(frozen=True, eq=False)
class Artifact:
    """A specification and all of its parameters; checked against each other when it is made.

    Attributes:
      spec: what the policy is.
      parameters: name -> float32 array, exactly those of `policies.architecture.parameter_shapes`.

    Raises:
      ArtifactError: a parameter is missing, unknown, or of another shape or type.
    """

    spec: PolicySpec
    parameters: dict[str, NDArray[np.float32]]

    def __post_init__(self) -> None:
        shapes = parameter_shapes(self.spec)
        if set(self.parameters) != set(shapes):
            missing, unknown = sorted(set(shapes) - set(self.parameters)), sorted(set(self.parameters) - set(shapes))
            raise ArtifactError(f"parameters do not fit the specification: missing {missing}, unknown {unknown}")
        for name, shape in shapes.items():
            array = self.parameters[name]
            if array.dtype != np.float32 or array.shape != shape:
                has, wanted = f"{array.dtype.str} {list(array.shape)}", f"<f4 {list(shape)}"
                raise ArtifactError(f"parameter {name} is {has}, the specification wants {wanted}")

    def check_finite(self) -> Artifact:
        """Returns itself; raises NotFiniteError when any parameter is NaN or infinite."""
        for name, array in self.parameters.items():
            # A sum is finite only if every term is: one pass without a temporary. Overflow of finite terms is told
            # apart by looking again.
            with np.errstate(over="ignore", invalid="ignore"):
                suspicious = not np.isfinite(array.sum())
            if suspicious and not np.isfinite(array).all():
                raise NotFiniteError(f"parameter {name} has a value that is not finite: the policy cannot be used")
        return self

    def to_bytes(self) -> bytes:
        """The artifact's bytes; equal artifacts give equal bytes."""
        contiguous = {name: np.ascontiguousarray(array) for name, array in self.parameters.items()}
        return safetensors.numpy.save(contiguous, metadata={"spec": self.spec.to_json()})

    @classmethod
    def from_bytes(cls, data: bytes, expected_digest: bytes | None) -> Artifact:
        """Reads an artifact.

        Args:
          data: all of its bytes.
          expected_digest: the digest they must have (32 bytes); None only where the caller made the bytes itself.

        Raises:
          DigestError: the bytes are not those that `expected_digest` names; nothing of them was looked at.
          ArtifactError: they are too many, no safetensors, or do not fit their own specification.
        """
        if len(data) > ARTIFACT_BYTES_MAX:
            raise ArtifactError(f"the artifact has {len(data)} bytes, the limit is {ARTIFACT_BYTES_MAX}")
        if expected_digest is not None and not hmac.compare_digest(artifact_digest(data), expected_digest):
            raise DigestError(f"the artifact's digest is {artifact_digest(data).hex()}, not {expected_digest.hex()}")
        try:
            spec = PolicySpec.from_json(_metadata(data))
            tensors = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
        except SpecError as error:
            raise ArtifactError(f"the artifact's specification is not valid: {error}") from error
        except safetensors.SafetensorError as error:
            raise ArtifactError(f"the artifact is not valid safetensors: {error}") from error
        return cls(spec, {name: _array(name, tensor) for name, tensor in tensors})


def _metadata(data: bytes) -> str:
    """The value of the one metadata key "spec", which the safetensors package does not hand out for bytes."""
    header_bytes = int.from_bytes(data[:8], "little")
    if len(data) < 8 or header_bytes > min(HEADER_BYTES_MAX, len(data) - 8):
        raise ArtifactError(f"the artifact's header claims {header_bytes} of {len(data)} bytes")
    try:
        header = json.loads(data[8 : 8 + header_bytes], object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"the artifact's header is not JSON: {error}") from error
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or set(metadata) != {"spec"} or not isinstance(metadata["spec"], str):
        raise ArtifactError("the artifact's metadata is not exactly one text named 'spec'")
    return metadata["spec"]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Two readers may choose differently between two values of one key, and so see two policies in one artifact.
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise ArtifactError("the artifact's header has a key twice")
    return tree


def _array(name: str, tensor: dict[str, Any]) -> NDArray[np.float32]:
    if tensor["dtype"] != "F32":
        raise ArtifactError(f"parameter {name!r} has type {tensor['dtype']}, only F32 is accepted")
    if len(tensor["shape"]) > _RANK_MAX:
        # NumPy has a limit of its own, and an error that is not ours.
        raise ArtifactError(f"parameter {name!r} has {len(tensor['shape'])} dimensions, the limit is {_RANK_MAX}")
    array = np.frombuffer(tensor["data"], np.dtype("<f4")).reshape(tensor["shape"])
    array.flags.writeable = False
    return array
