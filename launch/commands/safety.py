"""`temper safety serve`: the gate as a process."""

from __future__ import annotations

from launch.arguments import SafetyServe
from launch.config_file import read_config
from launch.run_paths import key_directory
from launch.securing import secure_process
from launch.serving import announce, serve_until_signal
from protos.transport import check_address
from replay.sharding import check_addresses
from safety.service import serve


def run(arguments: SafetyServe) -> int:
    """Serves until SIGTERM or SIGINT."""
    config = read_config(arguments.config)
    address = check_address(arguments.listen)
    keys = key_directory(arguments.directory, arguments.run_id, arguments.keys)
    replay_address = ",".join(check_addresses(arguments.replay)) if arguments.replay else None
    secure_process(config.transport, arguments.certificates, address, replay_address or "")
    return serve_until_signal(
        lambda stop: serve(
            config.safety,
            config.environment,
            arguments.directory,
            address,
            run_id=arguments.run_id,
            replay_address=replay_address,
            on_ready=announce("safety"),
            stop=stop,
            keys=keys,
        )
    )
