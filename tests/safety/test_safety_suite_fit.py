"""Suites against the run's environment: which slice does not fit, by what, and what the run has."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import psutil
import pytest

from actors.config import EnvironmentConfig
from actors.environment import EnvironmentSpec, EnvironmentUnsupported
from policies.spaces import array_space, discrete, record_space
from safety.config import SafetyConfig
from safety.suite_fit import check_fit, check_slices
from tests.safety.suites import CARTPOLE, slice_of, suite_of

SPEC = EnvironmentSpec("cartpole", "1", bytes(32), array_space((4,), "<f4"), discrete(2), 500)
CONFIG = SafetyConfig(worker_memory_bytes_max=768 * 1024**2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"observation": array_space((4, 1), "<f4")},
            r"slice b has observations <f4 \[4, 1\], the run's environment cartpole has <f4 \[4\]: none of its",
        ),
        (
            {"observation": record_space({"speed": ((4,), "<f4")})},
            r"slice b has observations {speed: <f4 \[4\]}, .* has <f4 \[4\]",
        ),
        ({"action": discrete(3)}, r"slice b has 3 actions, the run's environment cartpole has 2 actions: none"),
    ],
)
def test_the_first_slice_that_does_not_fit_is_named(change: dict[str, object], said: str) -> None:
    other = dataclasses.replace(SPEC, **change)  # type: ignore[arg-type]
    with pytest.raises(EnvironmentUnsupported, match=said) as failure:
        check_slices({"a": SPEC, "b": other, "c": other}, SPEC)
    assert "\n" not in str(failure.value)


def test_what_no_policy_sees_may_differ() -> None:
    other = dataclasses.replace(SPEC, id="gym:Other", version="2", code_digest=bytes([1] * 32), episode_steps_max=9)
    check_slices({"a": SPEC, "b": other}, SPEC)


def test_where_a_slice_is_the_runs_environment_nothing_is_started(tmp_path: Path) -> None:
    suite = suite_of(slice_of(name="a"), slice_of(EnvironmentConfig(name="catch"), name="b"))
    check_fit(suite, CARTPOLE, {"a": SPEC, "b": SPEC}, CONFIG, directory=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_else_an_evaluator_describes_it_and_is_gone_afterwards(tmp_path: Path) -> None:
    suite = suite_of(slice_of(name="a"))
    check_fit(suite, EnvironmentConfig(name="cartpole-edge"), {"a": SPEC}, CONFIG, directory=tmp_path)
    with pytest.raises(EnvironmentUnsupported, match=r"slice a has observations <f4 \[4\], .* catch has <f4 \[10, 5\]"):
        check_fit(suite, EnvironmentConfig(name="catch"), {"a": SPEC}, CONFIG, directory=tmp_path)
    with pytest.raises(EnvironmentUnsupported, match="unknown environment 'cartpoll'"):
        check_fit(suite, EnvironmentConfig(name="cartpoll"), {"a": SPEC}, CONFIG, directory=tmp_path)
    assert psutil.Process().children() == []
