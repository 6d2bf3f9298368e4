"""Version 1 of `temper.common`: generated from common.proto, see `protos.generate`."""
