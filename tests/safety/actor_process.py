"""Real actors, their host and its forked processes, for tests that watch what they do; their output goes to a file."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from actors.config import ActorConfig, EnvironmentConfig
from actors.host import ActorJob, run_actors
from replay.config import ReplayConfig

WAIT_S = 60.0


class ActorProcess:
    """The host and its actors."""

    def __init__(self, directory: Path, variables: Mapping[str, str], job: Mapping[str, Any]) -> None:
        self._output = directory / "actor.out"
        with self._output.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, __file__, json.dumps(job)],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **variables, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )

    def wait_for(self, text: str) -> str:
        """What it has printed by the time that `text` is in it."""
        deadline = time.monotonic() + WAIT_S
        while text not in (output := self._output.read_text()):
            assert self._process.poll() is None, output
            assert time.monotonic() < deadline, f"{text!r} is not in:\n{output}"
            time.sleep(0.02)
        return output

    def pid_of(self, actor_id: str) -> int:
        """Process id of an actor's newest start."""
        return int(self._started(actor_id)[-1])

    def starts_of(self, actor_id: str) -> int:
        """How often an actor was started."""
        return len(self._started(actor_id))

    def _started(self, actor_id: str) -> list[str]:
        return re.findall(rf"{re.escape(actor_id)} started: pid (\d+),", self._output.read_text())

    def stop(self) -> int:
        """Its exit status after SIGTERM."""
        self._process.terminate()
        return self._process.wait(WAIT_S)

    def end(self) -> None:
        """Whatever it takes; the actors die with their host."""
        self._process.kill()
        self._process.wait(WAIT_S)


@contextlib.contextmanager
def acting(
    directory: Path, *, variables: Mapping[str, str] = MappingProxyType({}), **job: str | int
) -> Iterator[ActorProcess]:
    """Actors, called actor-0000 and so on; one, of CartPole, unless the job says otherwise.

    Args:
      directory: takes their output.
      variables: environment variables that they have besides.
      job: run_id, replay_address, policy_address and trust_key_path of the `ActorJob`; environment, by its name, and
        processes.
    """
    actor = ActorProcess(directory, variables, job)
    try:
        yield actor
    finally:
        actor.end()


def _main(job: dict[str, Any]) -> int:
    return run_actors(
        ActorJob(
            actor=ActorConfig(lanes=4, unroll_length=5, window_records=16),
            environment=EnvironmentConfig(name=job.get("environment", "cartpole")),
            replay=ReplayConfig(),
            seed=1,
            run_id=job["run_id"],
            config_digest=bytes(32),
            replay_address=job["replay_address"],
            policy_address=job["policy_address"],
            inference_address=None,
            trust_key_path=Path(job["trust_key_path"]),
            actor_prefix="actor",
            processes=job.get("processes", 1),
        )
    )


if __name__ == "__main__":
    sys.exit(_main(json.loads(sys.argv[1])))
