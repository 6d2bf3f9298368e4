"""`temper learner`: the learner as a process."""

from __future__ import annotations

import os
import sys

from launch.arguments import Learner
from launch.config_file import read_config
from launch.distillation import locate_teachers
from launch.logs import configure_logging
from launch.process import GAVE_UP
from launch.securing import secure_process
from launch.topology import Limits
from learner.job import LearnerJob
from protos.transport import check_address
from replay.sharding import check_addresses


def run(arguments: Learner) -> int:
    """Learns until the run is over, a limit is reached, or a signal comes; the learner handles its signals itself."""
    limits = Limits(arguments.max_seconds, arguments.max_env_steps)
    config = read_config(arguments.config)
    job = LearnerJob(
        learner=config.learner,
        network=config.network,
        environment=config.environment,
        unroll_length=config.actor.unroll_length,
        seed=config.seed,
        run_id=arguments.run_id,
        run_directory=arguments.run_dir,
        replay_address=",".join(check_addresses(arguments.replay)),
        safety_address=check_address(arguments.safety),
        listen_address=check_address(arguments.listen),
        trust_key_path=arguments.trust,
        target_return=config.stop.target_return,
        env_steps_max=limits.env_steps_max or config.stop.env_steps_max,
        seconds_max=limits.seconds_max or config.stop.seconds_max,
        resume=arguments.resume,
        distillation=config.distillation,
        teachers=locate_teachers(config.distillation),
    )
    secure_process(config.transport, arguments.certificates, job.replay_address, job.safety_address, job.listen_address)
    # Loads jax, which bad input must not wait for.
    from learner.checkpoint import CheckpointFailed  # noqa: PLC0415
    from learner.draw_journal import JournalFailed  # noqa: PLC0415
    from learner.process import run_learner  # noqa: PLC0415
    from learner.train import BreachedTooOften  # noqa: PLC0415

    configure_logging()
    try:
        return run_learner(job)
    except (BreachedTooOften, JournalFailed) as error:
        print(f"temper: {error}", file=sys.stderr)
        return GAVE_UP
    except CheckpointFailed as error:
        print(f"temper: {error}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        # Threads of the storage library's may wait for the failed one, for minutes, and hold up an orderly exit.
        os._exit(GAVE_UP)
