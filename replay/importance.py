"""Importance weights: what undoes the bias of drawing some records more often than others.

For whoever trains on draws of a table that does not draw uniformly; a table itself knows nothing of it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def importance_weights(probabilities: NDArray[np.float64], available: int, beta: float) -> NDArray[np.float64]:
    """Weights [B] for the losses of a batch drawn with `probabilities` [B] out of `available` records, N.

        w_i = (N P(i))^-beta / max_j w_j

    At beta = 1 the expected gradient is that of uniform draws up to a factor, at 0 nothing is undone. The largest
    weight of the batch is 1, so updates are only ever scaled down; those of different batches are on different scales.
    (Schaul et al. 2016, arXiv:1511.05952, section 3.4, which raises beta to 1 towards the end of training.)

    Raises ValueError for a beta outside [0, 1], or a probability that is not above 0.
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta = {beta} must be in [0, 1]: it is how much of the bias is undone")
    if len(probabilities) and not float(np.min(probabilities)) > 0.0:
        raise ValueError(f"a probability of {np.min(probabilities)} must be above 0: the record was drawn with it")
    weights = (available * np.asarray(probabilities, np.float64)) ** -beta
    return weights / weights.max(initial=0.0) if len(weights) else weights
