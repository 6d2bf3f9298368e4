"""Artifacts: determinism, and that nothing in the bytes is believed."""

import json

import hypothesis
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import strategies as st

from policies import artifact as artifact_module
from policies.artifact import Artifact, ArtifactError, DigestError, NotFiniteError, artifact_digest
from policies.testing import make_artifact, make_spec

DATA = make_artifact().to_bytes()


def _with_header(change: dict[str, object]) -> bytes:
    """DATA with keys of its header replaced."""
    length = int.from_bytes(DATA[:8], "little")
    header = json.dumps(json.loads(DATA[8 : 8 + length]) | change).encode()
    return len(header).to_bytes(8, "little") + header + DATA[8 + length :]


def _of_rank(dimensions: int) -> bytes:
    """DATA with more dimensions, all of size 1, given to one parameter."""
    length = int.from_bytes(DATA[:8], "little")
    tensor = json.loads(DATA[8 : 8 + length])["value/bias"]
    return _with_header({"value/bias": tensor | {"shape": [1] * dimensions}})


def _saved(**change: np.ndarray) -> bytes:
    """DATA with parameters replaced ("__" for "/") but for those that are None, under the same specification."""
    artifact = make_artifact()
    tensors = dict(artifact.parameters) | {name.replace("__", "/"): array for name, array in change.items()}
    present = {name: array for name, array in tensors.items() if array is not None}
    return safetensors.numpy.save(present, metadata={"spec": artifact.spec.to_json()})


@pytest.mark.parametrize("spec", [make_spec(), make_spec((6, 6, 2), kind="conv"), make_spec((), hidden_sizes=())])
def test_round_trip(spec: object) -> None:
    artifact = make_artifact(spec)  # type: ignore[arg-type]
    read = Artifact.from_bytes(artifact.to_bytes(), artifact_digest(artifact.to_bytes()))
    assert read.spec == artifact.spec
    assert set(read.parameters) == set(artifact.parameters)
    for name, array in artifact.parameters.items():
        np.testing.assert_array_equal(read.parameters[name], array)
        assert not read.parameters[name].flags.writeable


def test_bytes_do_not_depend_on_order_or_memory_layout() -> None:
    artifact = make_artifact()
    shuffled = {name: np.asfortranarray(array) for name, array in reversed(artifact.parameters.items())}
    assert Artifact(artifact.spec, shuffled).to_bytes() == DATA
    assert make_artifact(seed=1).to_bytes() != DATA


def test_the_digest_comes_before_everything() -> None:
    with pytest.raises(DigestError):
        Artifact.from_bytes(b"not an artifact at all", artifact_digest(DATA))


@hypothesis.given(st.integers(0, len(DATA) - 1), st.integers(0, 7))
def test_one_flipped_bit_is_found_by_the_digest(position: int, bit: int) -> None:
    altered = bytearray(DATA)
    altered[position] ^= 1 << bit
    with pytest.raises(DigestError):
        Artifact.from_bytes(bytes(altered), artifact_digest(DATA))


@hypothesis.given(st.integers(0, len(DATA) - 1), st.binary(max_size=3), st.integers(0, 3))
def test_damaged_bytes_without_a_digest_are_an_artifact_or_an_artifact_error(
    position: int, put: bytes, cut: int
) -> None:
    data = DATA[:position] + put + DATA[position + cut :]
    try:
        artifact = Artifact.from_bytes(data, None)
    except ArtifactError:
        return
    assert Artifact.from_bytes(artifact.to_bytes(), None).spec == artifact.spec


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "header claims"),
        (DATA[:7], "header claims"),
        (DATA[:50], "header claims"),
        (DATA[:-1], "not valid safetensors"),
        (DATA + b"\0", "not valid safetensors"),
        ((1 << 60).to_bytes(8, "little") + DATA[8:], "header claims"),
        (_with_header({"__metadata__": {"spec": make_spec().to_json(), "note": "x"}}), "exactly one text"),
        (_with_header({"__metadata__": {"spec": "{}"}}), "specification is not valid"),
        (_with_header({"__metadata__": {"spec": make_spec((5,)).to_json()}}), "torso/0/kernel"),
        (_saved(policy__bias=np.zeros(3, np.float32)), "policy/bias is <f4 [3]"),
        (_saved(policy__bias=np.zeros(2, np.float64)), "only F32"),
        (_saved(extra=np.zeros(2, np.float32)), "unknown ['extra']"),
        (_of_rank(5), "5 dimensions, the limit is 4"),
        (_of_rank(65), "65 dimensions, the limit is 4"),  # NumPy itself raises beyond 64
        (_saved(policy__bias=None), "missing ['policy/bias']"),  # type: ignore[arg-type]
    ],
)
def test_misfits_are_refused(data: bytes, said: str) -> None:
    with pytest.raises(ArtifactError) as refused:
        Artifact.from_bytes(data, artifact_digest(data))
    assert said in str(refused.value)


def test_a_key_that_comes_twice_is_refused() -> None:
    length = int.from_bytes(DATA[:8], "little")
    header = DATA[8 : 8 + length].rstrip().removesuffix(b"}") + b',"__metadata__":{"spec":"{}"}}'
    data = len(header).to_bytes(8, "little") + header + DATA[8 + length :]
    with pytest.raises(ArtifactError, match="a key twice"):
        Artifact.from_bytes(data, artifact_digest(data))


def test_too_large_is_refused_before_it_is_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact_module, "ARTIFACT_BYTES_MAX", len(DATA) - 1)
    with pytest.raises(ArtifactError, match="the limit is"):
        Artifact.from_bytes(DATA, b"\0" * 32)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_found(value: float) -> None:
    artifact = make_artifact()
    artifact.parameters["torso/1/kernel"][3, 4] = value
    with pytest.raises(NotFiniteError, match="torso/1/kernel"):
        artifact.check_finite()


def test_large_finite_values_are_finite() -> None:
    artifact = make_artifact()
    artifact.parameters["torso/0/kernel"][:] = np.finfo(np.float32).max
    assert artifact.check_finite() is artifact
