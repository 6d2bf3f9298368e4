"""What `temper actor` becomes: the host of the actor processes, and nothing of the command line.

Started by launch.commands.actor with one argument, a JSON object of checked values; not a command of its own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from actors.host import ActorJob, ActorsKeepFailing, run_actors
from launch.config import lockstep_unrolls
from launch.config_file import config_digest, read_config
from launch.errors import bad_input_types
from launch.logs import configure_logging
from launch.process import GAVE_UP, TRUST_WAIT_S_MAX, die_with_supervisor, source_revision, wait_for_file
from launch.securing import secure_process


def main(argument: str) -> int:
    """Runs the actors until a signal comes; returns the exit status."""
    die_with_supervisor()
    configure_logging()
    given = json.loads(argument)
    config_path = Path(given["config"])
    try:
        config = read_config(config_path)
        secure_process(config.transport)
        job = ActorJob(
            actor=config.actor,
            environment=config.environment,
            replay=config.replay,
            seed=config.seed,
            run_id=given["run_id"],
            config_digest=config_digest(config_path),
            replay_address=given["replay_address"],
            policy_address=given["policy_address"],
            inference_address=given["inference_address"],
            trust_key_path=wait_for_file(Path(given["trust"]), TRUST_WAIT_S_MAX),
            actor_prefix=given["actor_prefix"],
            processes=given["processes"],
            source_revision=source_revision(),
            lockstep_unrolls=lockstep_unrolls(config),
        )
        return run_actors(job)
    except KeyboardInterrupt:
        return 130
    except ActorsKeepFailing as error:
        print(f"temper: {error}", file=sys.stderr)
        return GAVE_UP
    except Exception as error:
        # The bad-input types live in modules that must not be imported just to be named in an except clause.
        if not isinstance(error, bad_input_types()):
            raise
        print(f"temper: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
