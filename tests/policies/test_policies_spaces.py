"""Spaces: what they refuse, and how records of parts behave as arrays."""

from typing import Any

import numpy as np
import pytest

from policies.spaces import ActionSpace, ObservationSpace, Part, SpecError, array_space, discrete, record_space

RECORD = record_space({"image": ((2, 3), "|u1"), "inner/speed": ((), "<f4")})


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ((), "1 to 64 parts"),
        (tuple(Part(str(index), (), "<f4") for index in range(65)), "1 to 64 parts"),
        ((Part("", (4,), "<U4"),), "'<U4', which is not supported"),
        ((Part("", (4,), "object"),), "not supported"),
        ((Part("", (0,), "<f4"),), "at least 1"),
        ((Part("", (4.0,), "<f4"),), "at least 1"),  # type: ignore[arg-type]
        ((Part("", [4], "<f4"),), "not a tuple"),  # type: ignore[arg-type]
        ((Part("", (1 << 13, 1 << 13), "<f4"),), "the limit is"),
        ((Part("a", (), "<f4"), Part("a", (), "<f4")), "cannot name one part"),
        ((Part("", (), "<f4"), Part("a", (), "<f4")), "cannot name one part"),
        ((Part("a//b", (), "<f4"),), "cannot name one part"),
        ((Part("a b", (), "<f4"),), "cannot name one part"),
    ],
)
def test_what_cannot_be_observed_is_refused(parts: tuple[Part, ...], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        ObservationSpace(parts)


@pytest.mark.parametrize(
    ("kind", "sizes", "said"),
    [
        ("discrete", (0,), "at least 1"),
        ("discrete", (True,), "at least 1"),
        ("discrete", (1 << 21,), "the limit is"),
        ("discrete", (2, 2), "must be one size"),
        ("box", (), "must be one size"),
        ("box", (5_000,), "the limit is 4096"),
        ("tree", (2,), "known are discrete, multi_discrete, box"),
    ],
)
def test_what_cannot_be_done_is_refused(kind: str, sizes: tuple[int, ...], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        ActionSpace(kind, sizes)


def test_a_record_is_one_array() -> None:
    observations = RECORD.zeros(5)
    assert observations.shape == (5,)
    columns = RECORD.columns(observations)
    assert {name: part.shape for name, part in columns.items()} == {
        "observation/image": (5, 2, 3),
        "observation/inner/speed": (5,),
    }
    columns["observation/inner/speed"][2] = 7.0
    assert observations[2]["inner/speed"] == 7.0
    assert RECORD.describe() == "{image: |u1 [2, 3], inner/speed: <f4 []}"
    assert array_space((2,), "<f4").columns(np.ones((3, 2), np.float32)).keys() == {"observation"}


def test_trees_come_back() -> None:
    assert ObservationSpace.from_tree(RECORD.to_tree()) == RECORD
    assert ActionSpace.from_tree(discrete(3).to_tree()) == discrete(3)
    trees: list[Any] = [None, {}, [1], [{"name": ""}]]
    for tree in trees:
        with pytest.raises(SpecError):
            ObservationSpace.from_tree(tree)


def test_actions_that_are_none_are_named() -> None:
    space = ActionSpace("multi_discrete", (2, 3))
    assert space.fault(np.array([[1, 2], [0, 0]], np.int32)) == ""
    assert "[1, 3] is not one of" in space.fault(np.array([[0, 0], [1, 3]], np.int32))
    assert "int32" not in space.fault(np.array([[1, 2]], np.int32))
    assert "<f4" in space.fault(np.array([[1, 2]], np.float32))
    assert "nan" in ActionSpace("box", (2,)).fault(np.array([[0, np.nan]], np.float32))
    assert "5 is not one of 3 actions" in discrete(3).fault(np.array([1, 5], np.int32))
