"""`temper replay serve`: the trajectory store as a process."""

from __future__ import annotations

from launch.arguments import ReplayServe
from launch.config_file import read_config
from launch.securing import secure_process
from launch.serving import announce, check_shard, serve_until_signal
from protos.transport import check_address
from replay.large_buffers import keep_large_buffers
from replay.service import serve


def run(arguments: ReplayServe) -> int:
    """Serves until SIGTERM or SIGINT."""
    config = read_config(arguments.config)
    address = check_address(arguments.listen)
    check_shard(arguments.shard)
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
