"""The gate's statistics: pure functions from counts and arrays to findings, each with the error rate it guarantees."""
