"""Version 1 of `temper.replay`: generated from replay.proto, see `protos.generate`."""
