"""`temper replay serve`: the trajectory store as a process."""

from __future__ import annotations

from launch.arguments import ReplayServe
from launch.config_file import read_config
from launch.errors import BadInput
from launch.securing import secure_process
from launch.serving import announce, serve_until_signal
from protos.transport import check_address
from replay.large_buffers import keep_large_buffers
from replay.service import serve
from replay.sharding import SHARDS_MAX


def run(arguments: ReplayServe) -> int:
    """Serves until SIGTERM or SIGINT."""
    config = read_config(arguments.config)
    address = check_address(arguments.listen)
    if not 0 <= arguments.shard < SHARDS_MAX:
        raise BadInput(f"--shard {arguments.shard} must be 0 to {SHARDS_MAX - 1}")
    secure_process(config.transport, arguments.certificates, address)
    keep_large_buffers()
    return serve_until_signal(
        lambda stop: serve(
            config.replay,
            arguments.directory,
            address,
            on_ready=announce("replay"),
            stop=stop,
            shard=arguments.shard,
        )
    )
