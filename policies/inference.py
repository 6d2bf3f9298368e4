"""Turns an artifact into a policy that acts, by the backend asked for. Loads a framework only when that needs it."""

from __future__ import annotations

from collections.abc import Callable

from policies.artifact import Artifact
from policies.config import Backend
from policies.inference_numpy import NumpyPolicy
from policies.policy import Policy

BACKENDS: tuple[Backend, ...] = ("numpy", "jax")


class BackendError(ValueError):
    """An unknown backend, or one whose packages are not installed; the message says what to do."""


def load_backend(backend: Backend) -> Callable[[Artifact], Policy]:
    """What makes policies of artifacts with `backend`, its packages loaded; raises BackendError."""
    if backend == "numpy":
        return NumpyPolicy
    if backend != "jax":
        raise BackendError(f"inference backend {backend!r} is unknown; known are {', '.join(BACKENDS)}")
    try:
        from policies.inference_jax import JaxPolicy  # noqa: PLC0415 - a thin actor must not load jax
    except ModuleNotFoundError as error:
        raise BackendError(
            f"inference backend 'jax' needs the package {error.name}: pip install 'temper[learner]'"
        ) from error
    return JaxPolicy


def make_policy(artifact: Artifact, backend: Backend) -> Policy:
    """A policy of `artifact` computed by `backend`; raises BackendError."""
    return load_backend(backend)(artifact)
