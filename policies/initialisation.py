"""The first parameters of a policy: orthogonal kernels and zero biases, in NumPy, the same on every machine.

Gain sqrt(2) in the torso, 0.01 in the policy head (a nearly uniform first policy), 1 in value heads and core; after
Andrychowicz et al., "What Matters in On-Policy Reinforcement Learning?", arXiv 2006.05990. NumPy, because compiling an
initialiser takes a learner longer than all of its first updates.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from policies.architecture import parameter_shapes
from policies.spec import PolicySpec

_HEAD_GAINS = {"policy": 0.01, "value": 1.0, "cost_value": 1.0, "core": 1.0}
_TORSO_GAIN = math.sqrt(2)


def initial_parameters(spec: PolicySpec, seed: int) -> dict[str, NDArray[np.float32]]:
    """Parameters by name, as an artifact takes them; equal seeds give equal parameters."""
    generator = np.random.Generator(np.random.PCG64(seed))
    parameters = {}
    for name, shape in parameter_shapes(spec).items():
        if name.endswith(("/bias", "/mean")):
            parameters[name] = np.zeros(shape, np.float32)
        elif name.endswith("/scale"):
            parameters[name] = np.ones(shape, np.float32)
        else:
            gain = _HEAD_GAINS.get(name.partition("/")[0], _TORSO_GAIN)
            parameters[name] = _orthogonal(generator, shape, gain)
    return parameters


def _orthogonal(generator: np.random.Generator, shape: tuple[int, ...], gain: float) -> NDArray[np.float32]:
    """A kernel whose columns, or whose rows where those are fewer, are orthonormal times `gain` (Saxe et al. 2013)."""
    inputs, outputs = math.prod(shape[:-1]), shape[-1]
    normal = generator.standard_normal((max(inputs, outputs), min(inputs, outputs)))
    q, r = np.linalg.qr(normal)
    # QR leaves the signs to the library; this choice makes the distribution uniform over orthogonal matrices.
    q *= np.sign(np.diagonal(r))
    kernel = q if inputs >= outputs else q.T
    return np.ascontiguousarray(gain * kernel.reshape(shape), np.float32)
