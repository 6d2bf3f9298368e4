"""A thin actor's share of this package loads no framework, and neither does acting with it."""

import subprocess
import sys
from pathlib import Path

THIN = """
import sys
import numpy as np
import policies.config, policies.spec, policies.artifact, policies.policy, policies.inference_numpy, policies.inference
import policies.signing, policies.trust, policies.client, policies.served, policies.registry, policies.distribution
import policies.batching, policies.service, policies.testing
import policies.revocation, policies.release_client, policies.release_keeper
artifact = policies.testing.make_artifact()
policy = policies.inference.make_policy(artifact, "numpy")
policy.act(np.zeros((2, 4), np.float32), np.random.default_rng(0))
heavy = {"jax", "jaxlib", "flax", "optax", "orbax", "lmdb", "tyro", "rich", "gymnasium", "scipy", "pytest", "torch"}
print(sorted(heavy & set(sys.modules)))
"""


def test_no_framework_is_loaded() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", THIN], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
