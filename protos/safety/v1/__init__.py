"""Version 1 of `temper.safety`: generated from safety.proto, see `protos.generate`."""
