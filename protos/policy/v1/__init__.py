"""Version 1 of `temper.policy`: generated from policy.proto, see `protos.generate`."""
