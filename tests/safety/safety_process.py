"""A safety service for tests: as a thread of the test, or as a process of its own that can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actors.config import EnvironmentConfig
from safety.client import SafetyClient
from safety.config import SafetyConfig
from safety.service import serve

RUN = "run-1"
CONFIG = SafetyConfig(episodes=100, evaluation_s_max=60.0)
CARTPOLE = EnvironmentConfig(name="cartpole")
START_S_MAX = 60.0


async def serve_with(parameters: dict[str, Any], stop: asyncio.Event, on_ready: Any) -> None:
    await serve(
        SafetyConfig(**{**parameters["config"], "readable": tuple(parameters["config"]["readable"])}),
        EnvironmentConfig(**parameters["environment"]),
        Path(parameters["directory"]),
        parameters["address"],
        run_id=RUN,
        replay_address=parameters["replay_address"],
        on_ready=on_ready,
        stop=stop,
        keys=Path(parameters["keys"]) if "keys" in parameters else None,
    )


def parameters_of(
    directory: Path, config: SafetyConfig, environment: EnvironmentConfig, replay_address: str | None
) -> dict[str, Any]:
    return {
        "config": dataclasses.asdict(config),
        "environment": dataclasses.asdict(environment),
        "directory": str(directory / "safety"),
        "address": f"unix:{directory / 'safety.sock'}",
        "replay_address": replay_address,
    }


class ServiceThread:
    """The service in a thread of this process; `failure` is what serve raised."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self.failure: BaseException | None = None
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(parameters,))
        self._thread.start()
        self._ready.wait(START_S_MAX)

    def _run(self, parameters: dict[str, Any]) -> None:
        try:
            self._loop.run_until_complete(serve_with(parameters, self._stop, lambda address: self._ready.set()))
        except Exception as error:  # noqa: BLE001 - whatever keeps it from serving is what a test wants to see
            self.failure = error
        finally:
            self._ready.set()

    def stop(self) -> None:
        if not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop.set)
            self.wait()

    def wait(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()
        self._loop.close()


class ServiceProcess:
    """The service in a process of its own."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(parameters)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().decode().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)
        if self.process.stdout is not None:
            self.process.stdout.close()


@contextlib.contextmanager
def running(
    directory: Path,
    config: SafetyConfig = CONFIG,
    environment: EnvironmentConfig = CARTPOLE,
    replay_address: str | None = None,
) -> Iterator[SafetyClient]:
    parameters = parameters_of(directory, config, environment, replay_address)
    service, client = ServiceThread(parameters), SafetyClient(parameters["address"])
    try:
        if service.failure is not None:
            raise service.failure
        yield client
    finally:
        client.close()
        service.stop()


@contextlib.contextmanager
def own_process(
    directory: Path, config: SafetyConfig = CONFIG, dies: tuple[str, str, str, int] | None = None
) -> Iterator[tuple[ServiceProcess, SafetyClient]]:
    """The service in a process; `dies` says when it kills itself: ("before" or "after", module, function, call)."""
    parameters = parameters_of(directory, config, CARTPOLE, None) | {"dies": dies}
    service = ServiceProcess(parameters)
    try:
        with SafetyClient(parameters["address"]) as client:
            yield service, client
    finally:
        service.kill()


async def _serve_forever(parameters: dict[str, Any]) -> None:
    def ready(address: str) -> None:
        if parameters.get("dies"):
            _die(*parameters["dies"])
        print(address, flush=True)

    await serve_with(parameters, asyncio.Event(), ready)


def _die(when: str, module: str, name: str, call: int) -> None:
    """Makes this process kill itself before or after a call, from 1, of a function, "function" or "Class.method"."""
    *owner, name = name.split(".")
    held: Any = importlib.import_module(module)
    for part in owner:
        held = getattr(held, part)
    original = getattr(held, name)

    calls = itertools.count(1)

    def deadly(*arguments: Any, **named: Any) -> Any:
        last = next(calls) == call
        if last and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **named)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(held, name, deadly)


if __name__ == "__main__":
    asyncio.run(_serve_forever(json.loads(sys.argv[1])))
