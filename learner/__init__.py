"""How a policy improves: V-trace, the IMPALA loss, the update step, checkpoints, publishing and promotion."""
