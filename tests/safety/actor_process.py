"""A real actor, host and forked process, for tests that watch what it does; its output goes to a file."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from actors.config import ActorConfig, EnvironmentConfig
from actors.host import ActorJob, run_actors
from replay.config import ReplayConfig

WAIT_S = 60.0


class ActorProcess:
    """The host and its one actor."""

    def __init__(self, directory: Path, **job: str) -> None:
        self._output = directory / "actor.out"
        with self._output.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, __file__, json.dumps(job)],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )

    def wait_for(self, text: str) -> str:
        """What it has printed by the time that `text` is in it."""
        deadline = time.monotonic() + WAIT_S
        while text not in (output := self._output.read_text()):
            assert self._process.poll() is None, output
            assert time.monotonic() < deadline, f"{text!r} is not in:\n{output}"
            time.sleep(0.02)
        return output

    def stop(self) -> int:
        """Its exit status after SIGTERM."""
        self._process.terminate()
        return self._process.wait(WAIT_S)

    def end(self) -> None:
        """Whatever it takes; the actor dies with its host."""
        self._process.kill()
        self._process.wait(WAIT_S)


@contextlib.contextmanager
def acting(directory: Path, **job: str) -> Iterator[ActorProcess]:
    """An actor of CartPole.

    Args:
      directory: takes its output.
      job: run_id, replay_address, policy_address and trust_key_path of the `ActorJob`.
    """
    actor = ActorProcess(directory, **job)
    try:
        yield actor
    finally:
        actor.end()


def _main(job: dict[str, str]) -> int:
    return run_actors(
        ActorJob(
            actor=ActorConfig(lanes=4, unroll_length=5, window_records=16),
            environment=EnvironmentConfig(name="cartpole"),
            replay=ReplayConfig(),
            seed=1,
            run_id=job["run_id"],
            config_digest=bytes(32),
            replay_address=job["replay_address"],
            policy_address=job["policy_address"],
            inference_address=None,
            trust_key_path=Path(job["trust_key_path"]),
            actor_prefix="actor",
            processes=1,
        )
    )


if __name__ == "__main__":
    sys.exit(_main(json.loads(sys.argv[1])))
