"""The wire contract: `{common,replay,policy,safety}/v1/*.proto` and the code generated from them, committed.

Nothing here is written by hand but the .proto files and `generate.py`; regenerate with `python -m protos.generate`.
"""
