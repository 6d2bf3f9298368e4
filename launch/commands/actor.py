"""`temper actor`: checks its arguments, then becomes the actor host.

Actors are many, and forked from their host, so the host must hold nothing that acting does not need: after parsing,
this process replaces itself by one that never loads the command line's packages.
"""

from __future__ import annotations

import json
import os
import sys

from launch.arguments import Actor
from launch.config_file import read_config
from launch.errors import BadInput
from launch.process import ONE_THREAD, import_path
from launch.securing import secure_process
from protos.transport import check_address
from replay.sharding import check_addresses


def run(arguments: Actor) -> int:
    """Does not return but by an error; the process id and the parent stay what they were."""
    config = read_config(arguments.config)
    if config.actor.inference == "served" and not arguments.inference_address:
        raise BadInput("actor.inference = 'served' needs --inference-address: where does the inference service listen?")
    if arguments.processes < 0:
        raise BadInput(f"--processes {arguments.processes} is negative: write how many actor processes to run here")
    host = {
        "config": str(arguments.config),
        "replay_address": ",".join(check_addresses(arguments.replay)),
        "policy_address": check_address(arguments.policy),
        "inference_address": check_address(arguments.inference_address) if arguments.inference_address else None,
        "trust": str(arguments.trust),
        "run_id": arguments.run_id,
        "processes": arguments.processes or config.actor.processes,
        "actor_prefix": arguments.actor_prefix,
    }
    # The certificates go on in the environment.
    addresses = (arguments.replay, arguments.policy, arguments.inference_address)
    secure_process(config.transport, arguments.certificates, *addresses)
    sys.stdout.flush()
    sys.stderr.flush()
    command = [sys.executable, "-P", "-m", "launch.actor_host", json.dumps(host)]
    os.execve(sys.executable, command, {**os.environ, **ONE_THREAD, "PYTHONPATH": import_path()})  # noqa: S606
