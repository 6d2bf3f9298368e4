"""E-values as people read them. What they are evidence of, and how they are had, is in safety.statistics.sequential."""

from __future__ import annotations

import math
from decimal import Decimal

_EXPONENT_MAX = 700.0
"""Of e in a float."""


def e_value_text(log_evidence: float) -> str:
    """The e-value with this logarithm, to four digits, however great it is."""
    if log_evidence < _EXPONENT_MAX:
        return f"{math.exp(log_evidence):.4g}"
    return f"{Decimal(log_evidence).exp():.4g}".lower()
