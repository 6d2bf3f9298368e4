"""One candidate before the gate: which tests are made, at which level, and what comes of them."""
