"""`temper replay auditor`: verifies a sample of a running service's records as they arrive, as a process."""

from __future__ import annotations

from actors.auditor import AuditorJob, run_auditor
from actors.verification import check_fraction
from launch.arguments_replay import ReplayAuditor
from launch.config_file import read_config
from launch.errors import LaunchError
from launch.logs import configure_logging
from launch.securing import secure_process
from launch.serving import check_shard
from protos.transport import check_address
from replay.client_errors import ReplayRefused


def run(arguments: ReplayAuditor) -> int:
    """Audits until SIGTERM or SIGINT."""
    config = read_config(arguments.config)
    check_shard(arguments.shard)
    job = AuditorJob(
        environment=config.environment,
        replay_address=check_address(arguments.replay),
        fraction=arguments.fraction,
        # Which records are looked at, an actor must not be able to work out.
        seed=arguments.seed or None,
        shard=arguments.shard,
    )
    secure_process(config.transport, arguments.certificates, job.replay_address)
    check_fraction(job.fraction)
    configure_logging()
    try:
        return run_auditor(job)
    except ReplayRefused as error:
        raise LaunchError(str(error)) from None
