"""Running figures against those over all data in float64; PopArt's step against the algorithm of the paper."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learner.config import LearnerConfig
from learner.moments import Moments, joined, moments_of, no_moments
from learner.normalizer import VARIANCE_MIN, next_normalizer, normalizing_figures
from learner.popart import SCALE_MAX, SCALE_MIN, Scaling, moved_gradients, next_moments, preserved, scaling
from learner.train_state import initial_state, state_of_artifact
from policies.spaces import discrete, record_space
from policies.spec import PolicySpec
from policies.testing import make_spec

PARTS = {"speed": ((2,), "<f4"), "height": ((3,), "<f2"), "image": ((2,), "|u1")}
SPEC = PolicySpec(
    replace(make_spec(hidden_sizes=(4,)).network, normalize_observations=True), record_space(PARTS), discrete(2)
)
T, B = 4, 6


def observed(rng: np.random.Generator) -> dict[str, Any]:
    """Numbers whose mean is large beside their spread; steps that are none, and records that come again."""
    mask = rng.random((T, B)) > 0.2
    return {
        "observation/speed": rng.normal(1000.0, 0.5, size=(T + 1, B, 2)).astype(np.float32),
        "observation/height": rng.normal(size=(T + 1, B, 3)).astype(np.float16),
        "observation/image": rng.integers(255, size=(T + 1, B, 2)).astype(np.uint8),
        "mask": mask,
        "replayed": np.arange(B) == 1,
    }


def counted(batches: list[dict[str, Any]], name: str) -> Any:
    rows = [batch[name][:-1][batch["mask"] & ~batch["replayed"]] for batch in batches]
    return np.concatenate(rows).astype(np.float64)


@pytest.mark.parametrize("x64,tolerance", [(True, 1e-10), (False, 2e-3)])
def test_normalizer_has_mean_and_variance_of_all_data(x64: bool, tolerance: float) -> None:
    rng = np.random.default_rng(0)
    batches = [observed(rng) for _ in range(20)]
    with jax.enable_x64(x64):
        wide = np.float64 if x64 else np.float32
        normalizer: Any = {f"normalizer/{name}": no_moments(PARTS[name][0]) for name in ("speed", "height")}
        step = jax.jit(lambda held, batch: next_normalizer(held, batch, SPEC, LearnerConfig(), jnp.asarray(0)))
        for batch in batches:
            columns = {k: v.astype(wide) if v.dtype.kind == "f" else v for k, v in batch.items()}
            normalizer = step(normalizer, columns)
        figures = normalizing_figures(normalizer)
        for name in ("speed", "height"):
            data, moments = counted(batches, f"observation/{name}"), normalizer[f"normalizer/{name}"]
            assert float(moments.weight) == len(data)
            np.testing.assert_allclose(moments.mean, data.mean(0), rtol=min(tolerance, 1e-6), atol=1e-6)
            np.testing.assert_allclose(moments.variance, data.var(0), rtol=tolerance)
            scale = 1 / np.sqrt(data.var(0) + VARIANCE_MIN)
            np.testing.assert_allclose(figures[f"normalizer/{name}/scale"], scale, rtol=tolerance)


def test_nothing_counted_changes_nothing_and_the_empty_set_normalizes_nothing() -> None:
    empty = no_moments((2,))
    nothing = moments_of(jnp.ones((3, 2, 2)), jnp.zeros((3, 2), bool))
    some = Moments(jnp.asarray(4.0), jnp.asarray([1.0, 2.0]), jnp.asarray([3.0, 4.0]))
    for before in (empty, some):
        for one, other in zip(joined(before, nothing), before, strict=True):
            np.testing.assert_array_equal(one, other)
    figures = normalizing_figures({"normalizer": empty})
    np.testing.assert_array_equal(figures["normalizer/mean"], [0.0, 0.0])
    np.testing.assert_array_equal(figures["normalizer/scale"], [1.0, 1.0])


def test_where_only_an_artifact_is_left_its_figures_go_on() -> None:
    first = initial_state(SPEC, LearnerConfig(target_updates=3), seed=0)
    assert first.auxiliary.normalizer is not None
    known = Moments(jnp.asarray(9.0), jnp.asarray([1.0, 2.0]), jnp.asarray([3.0, 4.0]))
    parameters = first.parameters | normalizing_figures({"normalizer/speed": known})
    state = state_of_artifact(parameters, 7, first)
    assert state.auxiliary.normalizer is not None
    again = normalizing_figures(state.auxiliary.normalizer)
    for name in ("normalizer/speed/mean", "normalizer/speed/scale"):
        np.testing.assert_allclose(again[name], parameters[name], rtol=1e-6)
    assert int(state.updates) == 7
    assert state.auxiliary.target is not None
    np.testing.assert_array_equal(state.auxiliary.target["policy/kernel"], parameters["policy/kernel"])


def head(seed: int = 0) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {"value/kernel": jnp.asarray(rng.normal(size=(5, 1))), "value/bias": jnp.asarray(rng.normal(size=1))}


def test_popart_preserves_every_value_when_the_figures_jump() -> None:
    hidden: Any = np.random.default_rng(1).normal(size=(50, 5)).astype(np.float32)
    old, new = Scaling(jnp.asarray(-3.0), jnp.asarray(0.01)), Scaling(jnp.asarray(700.0), jnp.asarray(1e3))
    before = head()
    after = preserved(before, old, new)

    def values(parameters: dict[str, jax.Array], figures: Scaling) -> Any:
        return np.asarray(figures.value(hidden @ parameters["value/kernel"] + parameters["value/bias"]))

    # Within float32's rounding of numbers as large as the mean that is added and taken away.
    np.testing.assert_allclose(values(after, new), values(before, old), atol=700 * 4 * 2.0**-23)
    with jax.enable_x64(True):
        wide = {name: jnp.asarray(np.asarray(array), jnp.float64) for name, array in before.items()}
        old, new = Scaling(jnp.asarray(-3.0), jnp.asarray(0.01)), Scaling(jnp.asarray(700.0), jnp.asarray(1e3))
        np.testing.assert_allclose(values(preserved(wide, old, new), new), values(wide, old), rtol=1e-9)


def test_popart_moves_gradients_to_those_of_the_moved_head() -> None:
    """Algorithm 1 takes the gradient of (n - (G - mean) / scale)^2 / 2 after the head was moved; we, before."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(2)
        hidden, targets = rng.normal(size=(20, 5)), rng.normal(5.0, 3.0, size=20)
        old, new = Scaling(jnp.asarray(0.5), jnp.asarray(2.0)), Scaling(jnp.asarray(4.0), jnp.asarray(3.0))

        def output(parameters: dict[str, jax.Array]) -> Any:
            return (hidden @ parameters["value/kernel"])[:, 0] + parameters["value/bias"]

        def of_the_paper(parameters: dict[str, jax.Array]) -> Any:
            return 0.5 * jnp.square(output(parameters) - (targets - new.mean) / new.scale).mean()

        def ours(parameters: dict[str, jax.Array]) -> Any:
            return 0.5 * jnp.square((targets - old.value(output(parameters))) / new.scale).mean()

        before = head()
        expected = jax.grad(of_the_paper)(preserved(before, old, new))
        actual = moved_gradients(jax.grad(ours)(before), old, new)
        for name in expected:
            np.testing.assert_allclose(actual[name], expected[name], rtol=1e-10)


def test_popart_forgets_at_its_rate_and_takes_the_first_batch_alone() -> None:
    with jax.enable_x64(True):
        rng, moments = np.random.default_rng(3), no_moments()
        batches, rate = [rng.normal(50.0, 2.0 + k, size=(6, 2)) for k in range(5)], 0.3
        for batch in batches:
            moments = next_moments(moments, moments_of(jnp.asarray(batch), jnp.ones((6, 2), bool)), rate)
            if batch is batches[0]:
                np.testing.assert_allclose(scaling(moments), (batch.mean(), batch.std()), rtol=1e-10)
        shares = np.array([rate * (1 - rate) ** (4 - k) for k in range(5)])
        shares /= shares.sum()
        mean = sum(share * batch.mean() for share, batch in zip(shares, batches, strict=True))
        square = sum(share * (batch**2).mean() for share, batch in zip(shares, batches, strict=True))
        np.testing.assert_allclose(scaling(moments), (mean, np.sqrt(square - mean**2)), rtol=1e-10)
        skipped = next_moments(moments, moments_of(jnp.ones((6, 2)), jnp.zeros((6, 2), bool)), rate)
        np.testing.assert_allclose(skipped, moments, rtol=1e-12)


def test_the_scale_is_one_before_any_batch_and_within_bounds_after() -> None:
    assert tuple(map(float, scaling(None))) == (0.0, 1.0)
    assert tuple(map(float, scaling(no_moments()))) == (0.0, 1.0)
    for variance, expected in ((0.0, SCALE_MIN), (1e20, SCALE_MAX)):
        moments = Moments(jnp.asarray(0.5), jnp.asarray(1.0), jnp.asarray(variance))
        np.testing.assert_allclose(scaling(moments).scale, expected, rtol=1e-6)
