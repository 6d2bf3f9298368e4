"""Gymnasium environments that try to get out of the evaluator's process, as soon as a policy chooses action 1.

With action 0 each is a harmless episode of five steps. What an attempt raises goes through; one that succeeds raises
RuntimeError("got out"). "everything" makes all attempts, and says how many were refused and which were not. Loaded by
name, "gym:tests.safety.nosy_environments:ID". They find the service's directory as an attacker would: by where their
own log lies.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

EPISODE_STEPS = 5
SECRET = "evaluation_secret"
SOCKET = "safety.sock"
LEFT_BEHIND = "/tmp/temper-nosy"  # noqa: S108 - where everybody may write
VARIABLE = "TEMPER_TEST_PASSWORD"


def service_directory() -> Path:
    return Path("/proc/self/fd/2").readlink().parent


def _reads_the_secret() -> None:
    (service_directory() / SECRET).read_bytes()


def _appends_to_the_ledger() -> None:
    with (service_directory() / "ledger.jsonl").open("ab") as file:
        file.write(b"{}\n")


def _removes_the_ledger() -> None:
    (service_directory() / "ledger.jsonl").unlink()


def _asks_the_service() -> None:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(service_directory() / SOCKET))


def _calls_out() -> None:
    socket.create_connection(("127.0.0.1", 9), 1.0)


def _sends_a_datagram() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"the seeds", ("127.0.0.1", 9))


def _listens() -> None:
    socket.create_server(("127.0.0.1", 0)).close()


def _traces_the_service() -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.ptrace(16, os.getppid(), None, None) != 0:
        raise PermissionError(ctypes.get_errno(), "ptrace")


def _reads_by_a_child() -> None:
    subprocess.run(["/bin/cat", service_directory() / SECRET], check=True, capture_output=True)


def _raises_its_limits() -> None:
    try:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except ValueError as error:
        raise PermissionError(1, str(error)) from error


def _fills_the_disk() -> None:
    line = 2**20 * b"x"
    for _ in range(1024):
        os.write(2, line)


def _reads_the_variables() -> None:
    found = Path("/proc/self/environ").read_bytes()
    if VARIABLE.encode() not in found and VARIABLE not in os.environ:
        raise PermissionError(1, "the password is not in the environment")


REFUSALS = (OSError, subprocess.CalledProcessError)

ATTEMPTS: dict[str, Callable[[], object]] = {
    "reads_the_secret": _reads_the_secret,
    "reads_it_by_a_child": _reads_by_a_child,
    "lists_the_service": lambda: list(service_directory().iterdir()),
    "lists_the_run": lambda: list(service_directory().parent.iterdir()),
    "lists_the_root": lambda: list(Path("/").iterdir()),
    "lists_the_homes": lambda: list(Path("/home").iterdir()),
    "reads_passwords": lambda: Path("/etc/shadow").read_bytes(),
    "reads_the_variables": _reads_the_variables,
    "reads_the_services_variables": lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
    "reads_the_services_memory": lambda: Path(f"/proc/{os.getppid()}/mem").read_bytes(),
    "reads_its_log": lambda: Path("/proc/self/fd/2").read_bytes(),
    "writes_beside_the_log": lambda: (service_directory() / "verdict").write_bytes(b"approved"),
    "writes_to_tmp": lambda: Path(LEFT_BEHIND).write_bytes(b"it was an evaluation"),
    "writes_a_module": lambda: (Path(__file__).parent / "nosy_left.py").write_text("approved = True\n"),
    "appends_to_the_ledger": _appends_to_the_ledger,
    "removes_the_ledger": _removes_the_ledger,
    "renames_the_ledger": lambda: (service_directory() / "ledger.jsonl").rename(service_directory() / "ledger.old"),
    "truncates_the_ledger": lambda: os.truncate(service_directory() / "ledger.jsonl", 0),
    "links_the_secret": lambda: os.link(service_directory() / SECRET, service_directory() / "open"),
    "shows_the_secret": lambda: (service_directory() / SECRET).chmod(0o644),
    "takes_the_secret": lambda: os.chown(service_directory() / SECRET, 1, 1),
    "traces_the_service": _traces_the_service,
    "asks_the_service": _asks_the_service,
    "calls_out": _calls_out,
    "sends_a_datagram": _sends_a_datagram,
    "listens": _listens,
    "kills_the_service": lambda: os.kill(os.getppid(), signal.SIGKILL),
    "stops_the_service": lambda: os.kill(os.getppid(), signal.SIGSTOP),
    "starves_the_service": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (0, 0)),
    "raises_its_limits": _raises_its_limits,
    "fills_the_disk": _fills_the_disk,
}


def _try_everything() -> None:
    got_out, refused = [], 0
    for name, attempt in ATTEMPTS.items():
        try:
            attempt()
            got_out.append(name)
        except REFUSALS as error:
            refused += 1
            if isinstance(error, OSError) and error.errno not in (errno.EPERM, errno.EACCES, errno.EFBIG):
                got_out.append(f"{name}: {error}")
    raise RuntimeError(f"{refused} refused, got out: {', '.join(got_out) or 'none'}")


class Nosy(gymnasium.Env[np.ndarray[Any, np.dtype[np.float32]], np.int64]):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, **kwargs: Any) -> None:
        self.attempt: str = kwargs["attempt"]
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.int64) -> Any:
        self.steps += 1
        if action == 1 and self.attempt == "everything":
            _try_everything()
        elif action == 1:
            ATTEMPTS[self.attempt]()
            raise RuntimeError(f"got out: {self.attempt}")
        return np.zeros(1, np.float32), 1.0, self.steps >= EPISODE_STEPS, False, {"cost": 0.0}


for name in (*ATTEMPTS, "everything"):
    gymnasium.register(f"{name}-v0", Nosy, kwargs={"attempt": name})
