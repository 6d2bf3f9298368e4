"""Evidence about the mean of a bounded loss, as the wealth of a gambler who bets that the mean is below a limit.

Losses x are scaled to [0, 1]. Under the null hypothesis each loss has, given all before it, a mean of at least m. Then

    E_n = sum_j w_j prod_{i <= n} (1 + lambda_j (m - x_i)),    0 < lambda_j < 1 / (1 - m),

never is negative, starts at 1 and is not expected to grow, and so P(ever E_n >= 1 / alpha) <= alpha (Ville 1939): the
test may be looked at after every episode. Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
betting", JRSS B 2024, section 4; Shafer, "Testing by betting", JRSS A 2021. The bets are a fixed mixture instead of
learnt ones: nothing is predicted, the order of the losses does not matter, and for losses of 0 and 1 each bet is the
likelihood ratio of one rate below m to m itself.

Nothing is decided here; see `safety.statistics.sequential`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BETS = 16
_LOGIT_MAX = 4.0


def _make_bets() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares of the greatest bet, spaced by their logits, and the logarithms of their weights.

    Great bets are best where there is next to no loss, small ones where losses vary much more than the mean lies below
    the limit. The former is the common case and weighs more.
    """
    shares = 1.0 / (1.0 + np.exp(-np.linspace(-_LOGIT_MAX, _LOGIT_MAX, _BETS)))
    weights = np.sqrt(shares)
    return shares, np.log(weights / np.sum(weights))


SHARES, LOG_WEIGHTS = _make_bets()
"""lambda_j as a share of its bound 1 / (1 - m) [J], and log w_j [J]."""


def log_factors(losses: NDArray[np.float64], null_mean: float) -> NDArray[np.float64]:
    """log(1 + lambda_j (m - x)) for losses [N] in [0, 1] and every bet, [N, J]; `null_mean` m in (0, 1)."""
    gain = (null_mean - losses[:, np.newaxis]) / (1.0 - null_mean)
    logarithms: NDArray[np.float64] = np.log1p(SHARES * gain)
    return logarithms


def log_evidence(log_wealth: NDArray[np.float64]) -> NDArray[np.float64]:
    """log E from the logarithms of what every bet has made of 1, [..., J] to [...]."""
    weighted = LOG_WEIGHTS + log_wealth
    greatest = np.max(weighted, axis=-1, keepdims=True)
    evidence: NDArray[np.float64] = np.log(np.sum(np.exp(weighted - greatest), axis=-1)) + greatest[..., 0]
    return evidence
