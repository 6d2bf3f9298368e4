"""A catch run made up for tests whose release catches every ball, made by hand and not learnt. Not a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from actors.environments.catch import COLUMNS, ROWS
from launch.run_paths import RunPaths
from policies.architecture import parameter_shapes
from policies.artifact import Artifact, artifact_digest
from policies.config import NetworkConfig
from policies.registry import PolicyRegistry
from policies.signing import SigningKey
from policies.spaces import array_space, discrete
from policies.spec import PolicySpec
from policies.testing import signed_verdict
from policies.trust import TrustPolicy
from tests.launch import made_up_run

CATCH = PolicySpec(NetworkConfig(), array_space((ROWS, COLUMNS), "<f4"), discrete(3))
"""The network of the recipe, 64 wide."""


def catching(spec: PolicySpec = CATCH) -> Artifact:
    """Moves the paddle towards the ball's column; two units of each layer do it, all others are idle."""
    parameters = {name: np.zeros(shape, np.float32) for name, shape in parameter_shapes(spec).items()}
    columns = np.arange(COLUMNS, dtype=np.float32)
    # How far the ball is to the right of the paddle, which is in the bottom row.
    distance = np.tile(columns, ROWS)
    distance[-COLUMNS:] *= -1
    for unit, sign in enumerate((1.0, -1.0)):
        parameters["torso/0/kernel"][:, unit] = 8 * sign * distance
        parameters["torso/0/bias"][unit] = -4.0
        parameters["torso/1/kernel"][unit, unit] = 4.0
    # Right where the one is on, left where the other is, else to stay.
    parameters["policy/kernel"][0], parameters["policy/kernel"][1] = (0, 0, 9), (9, 0, 0)
    return Artifact(spec, parameters)


def add_release(paths: RunPaths, artifact: Artifact, **fields: Any) -> SigningKey:
    """Releases an artifact in a run that has none, with a return of 1; returns the key that signed it."""
    key = SigningKey.generate()
    paths.safety.mkdir(exist_ok=True)
    key.verify_key.save(paths.verify_key)
    run_id = paths.run_id.read_text().strip()
    data = artifact.to_bytes()
    verdict = {"run_id": run_id, "return_mean": 1.0, "verdict_id": f"{1:032x}"} | fields
    registry = PolicyRegistry(paths.policies, TrustPolicy(key.verify_key, run_id))
    registry.promote(data, signed_verdict(key, artifact_digest(data), **verdict))
    return key


def begin(root: Path) -> RunPaths:
    """A run with one release, which catches."""
    paths = made_up_run.begin(root)
    add_release(paths, catching())
    return paths
