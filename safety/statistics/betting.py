"""Evidence about the mean of a bounded loss, as the wealth of a gambler who bets that the mean is below a limit.

Losses x are scaled to [0, 1]. Under the null hypothesis each loss has, given all before it, a mean of at least m. Then

    E_n = sum_j w_j prod_{i <= n} (1 + lambda_j (m - x_i)),    0 < lambda_j < 1 / (1 - m),

never is negative, starts at 1 and is not expected to grow, and so P(ever E_n >= 1 / alpha) <= alpha (Ville 1939): the
test may be looked at after every episode. Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
betting", JRSS B 2024, section 4; Shafer, "Testing by betting", JRSS A 2021. The bets are a fixed mixture instead of
learnt ones: nothing is predicted, the order of the losses does not matter, and for losses of 0 and 1 each bet is the
likelihood ratio of one rate below m to m itself: of m (1 - share), where the share is that of the greatest bet.

Which mixture changes how fast evidence grows, and never the guarantee. It pays log(1 / w_j) once for the bet that turns
out best. So most weight lies where evidence grows slowest and still suffices, half way to the limit; and enough on the
greatest bets for candidates that next to never lose, which grow it fastest. Against a candidate, the bets are on gains
1 - x, and those on a rate somewhat above the acceptable one are small: of 0.05 where it is 5% and the alternative 10%.

Nothing is decided here; see `safety.statistics.sequential`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SHARES: NDArray[np.float64] = np.array([0.05, 0.15, 0.3, 0.5, 0.75, 0.98])
"""lambda_j as a share of its bound 1 / (1 - m) [J]. None is 1: one loss would end all it has."""

LOG_WEIGHTS_FOR: NDArray[np.float64] = np.log([0.01, 0.02, 0.04, 0.63, 0.15, 0.15])
"""log w_j of the bets for a candidate [J]."""

LOG_WEIGHTS_AGAINST: NDArray[np.float64] = np.log([0.45, 0.15, 0.1, 0.15, 0.05, 0.1])
"""The same of those against it [J]; small ones for rates, great ones for differences between two policies."""


def log_factors(losses: NDArray[np.float64], null_mean: float) -> NDArray[np.float64]:
    """log(1 + lambda_j (m - x)) for losses [N] in [0, 1] and every bet, [N, J]; `null_mean` m in (0, 1)."""
    gain = (null_mean - losses[:, np.newaxis]) / (1.0 - null_mean)
    logarithms: NDArray[np.float64] = np.log1p(SHARES * gain)
    return logarithms


def log_evidence(log_wealth: NDArray[np.float64], log_weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """log E from the logarithms of what every bet has made of 1, [..., J] to [...]; `log_weights` [J] as above."""
    weighted = log_weights + log_wealth
    greatest = np.max(weighted, axis=-1, keepdims=True)
    evidence: NDArray[np.float64] = np.log(np.sum(np.exp(weighted - greatest), axis=-1)) + greatest[..., 0]
    return evidence
