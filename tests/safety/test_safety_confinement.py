"""The evaluator's process, confined for real: environments that try to get out, and others that must still work."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.config import EnvironmentConfig
from policies.artifact import Artifact, artifact_digest
from policies.testing import make_artifact, make_spec
from safety.config import SafetyConfig
from safety.confinement import confine as confining
from safety.confinement import landlock
from safety.confinement.confine import Confinement, confinement_from_header
from safety.evaluation.episodes import EpisodeOutcomes
from safety.evaluation.evaluator import EvaluationFailed, Evaluator
from safety.suites.manifest import draw_seeds
from safety.suites.spec import DEFAULT_SLICE, suite_from_settings
from safety.testing import constant_artifact
from tests.safety.nosy_environments import ATTEMPTS, LEFT_BEHIND, SECRET, SOCKET, VARIABLE

WHOLE = landlock.abi_version() >= landlock.SCOPE_ABI
SEEDS = draw_seeds(bytes(32), DEFAULT_SLICE, 4)
CONFIG = SafetyConfig(evaluation_s_max=30.0, worker_memory_bytes_max=2**30)

pytestmark = [
    pytest.mark.robustness,
    pytest.mark.skipif(not WHOLE, reason="this kernel has no Landlock, or an old one: see `temper doctor`"),
]


class Service:
    """A directory such as the safety service's, with an evaluator that has its log there."""

    def __init__(self, directory: Path, environment: str) -> None:
        self.directory = directory
        for name in (SECRET, "ledger.jsonl"):
            (directory / name).write_bytes(b"secret")
            (directory / name).chmod(0o600)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(directory / SOCKET))
        self.listener.listen()
        self.evaluator = Evaluator(
            suite_from_settings(CONFIG, EnvironmentConfig(name=environment)), CONFIG, directory / "evaluator.log"
        )

    def evaluate(self, artifact: Artifact) -> EpisodeOutcomes:
        data = artifact.to_bytes()
        deadline = time.monotonic() + CONFIG.evaluation_s_max
        return self.evaluator.evaluate(
            data, artifact_digest(data), 0, SEEDS, deadline=deadline, on_progress=lambda ended: None
        )

    def files(self) -> dict[str, tuple[bytes, int]]:
        paths = [path for path in self.directory.iterdir() if path.is_file() and path.name != "evaluator.log"]
        return {path.name: (path.read_bytes(), path.stat().st_mode) for path in paths}

    def close(self) -> None:
        self.evaluator.close()
        self.evaluator.release()
        self.listener.close()


@pytest.fixture
def service(socket_directory: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    (socket_directory / "safety").mkdir()
    service = Service(socket_directory / "safety", request.param)
    try:
        yield service
    finally:
        service.close()


def nosy(attempt: str) -> str:
    return f"gym:tests.safety.nosy_environments:{attempt}-v0"


@pytest.mark.parametrize(
    ("service", "reason"),
    [
        (nosy("everything"), f"{len(ATTEMPTS)} refused, got out: none"),
        (nosy("reads_the_secret"), f"PermissionError: .*Permission denied: .*{SECRET}"),
        (nosy("asks_the_service"), "PermissionError: .*Operation not permitted"),
        (nosy("kills_the_service"), "PermissionError: .*Operation not permitted"),
        (nosy("fills_the_disk"), "OSError: .*File too large"),
    ],
    indirect=["service"],
)
def test_an_environment_does_not_get_out_and_the_evaluation_says_that_it_tried(
    service: Service, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "swordfish")
    before = service.files()
    assert (service.evaluate(constant_artifact(0)).returns == 5).all()
    with pytest.raises(EvaluationFailed, match=reason):
        service.evaluate(constant_artifact(1))
    assert service.files() == before
    assert not (Path(__file__).parent / "nosy_left.py").exists()
    assert not Path(LEFT_BEHIND).exists()


@pytest.mark.parametrize(
    ("service", "shape", "actions", "dtype"),
    [
        ("cartpole", (4,), 2, "<f4"),
        ("minatar:breakout", (10, 10, 4), 6, "|b1"),
    ],
    indirect=["service"],
)
def test_environments_work_confined(service: Service, shape: tuple[int, ...], actions: int, dtype: str) -> None:
    assert (service.evaluate(make_artifact(make_spec(shape, actions, dtype))).lengths > 0).all()


@pytest.mark.parametrize("service", ["catch"], indirect=True)
def test_catch_works_confined(service: Service) -> None:
    service.evaluator.start()
    described = service.evaluator.environments[DEFAULT_SLICE]
    spec = make_spec(described.observation.shape, described.action.sizes[0], described.observation.dtype.str)
    assert (service.evaluate(make_artifact(spec)).lengths > 0).all()


def run(program: str, *arguments: object, **variables: str) -> str:
    """What a program prints that runs in a process of its own, with `confine` imported."""
    head = "import json, os, sys, threading\nfrom pathlib import Path\nfrom safety.confinement import landlock\n"
    head += "from safety.confinement.confine import confine\n"
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-P", "-c", head + program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": paths, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_says_what_is_in_force() -> None:
    command = [sys.executable, "-P", "-m", "safety.confinement.confine"]
    paths = os.pathsep.join(path for path in sys.path if path)
    out = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, check=True).stdout
    confinement = confinement_from_header(json.loads(out))
    assert confinement.is_whole
    assert confinement.describe().startswith("restricted: files, TCP, signals, system calls (Landlock")
    assert confinement_from_header(json.loads(json.dumps(dataclasses.asdict(confinement)))) == confinement


def test_without_landlock_it_says_so_and_does_what_it_can() -> None:
    out = run("""
landlock.abi_version = lambda: 0
confinement = confine((), 2**32)
print(confinement.is_whole, confinement.files, confinement.signals, confinement.network, confinement.calls)
print(confinement.describe())
try:
    os.chmod(sys.argv[0] or ".", 0o700)
except PermissionError:
    print("calls are filtered")
""")
    flags, described, filtered = out.splitlines()
    assert flags == "False False False True True"
    assert "no Landlock: files can be read and written" in described
    assert filtered == "calls are filtered"


def test_an_older_landlock_is_used_for_what_it_knows(tmp_path: Path) -> None:
    program = """
abi = landlock.abi_version
landlock.abi_version = lambda: 1
confinement = confine((), 2**32)
os.kill(os.getppid(), 0)
try:
    os.listdir(sys.argv[1])
except PermissionError:
    print(confinement.describe())
"""
    out = run(program, tmp_path)
    assert "restricted: files, TCP, system calls (Landlock 1)" in out
    assert "processes outside can be signalled" in out


def test_what_is_named_can_be_read_and_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "scene").write_text("a scene")
    (tmp_path / "secret").write_text("a secret")
    program = """
directory = Path(sys.argv[1])
assert confine([directory / "assets", directory / "not there"], 2**32).is_whole
print((directory / "assets" / "scene").read_text())
try:
    (directory / "secret").read_text()
except PermissionError:
    print("refused")
"""
    assert run(program, tmp_path) == "a scene\nrefused\n"


def test_what_is_hidden_cannot_be_read_though_it_lies_on_the_path(tmp_path: Path) -> None:
    (tmp_path / "runs" / "one" / "safety").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "safety" / "key").write_text("a key")
    (tmp_path / "runs" / "notes").write_text("notes")
    (tmp_path / "simulator.py").write_text("answer = 42\n")
    (tmp_path / "link").symlink_to(tmp_path / "runs" / "one" / "safety")
    program = """
directory = Path(sys.argv[1])
assert confine((), 2**32, [directory / "link"]).is_whole
import simulator
print(simulator.answer, (directory / "runs" / "notes").read_text())
for path in (directory / "runs" / "one" / "safety" / "key", directory / "link" / "key"):
    try:
        path.read_text()
    except PermissionError:
        print("refused")
"""
    paths = os.pathsep.join([*(path for path in sys.path if path), str(tmp_path)])
    assert run(program, tmp_path, PYTHONPATH=paths) == "42 notes\nrefused\nrefused\n"


def test_the_home_directory_on_the_path_stays_closed(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("private")
    program = """
confinement = confine((), 2**32)
try:
    (Path(sys.argv[1]) / "letter").read_text()
except PermissionError:
    print(confinement.describe())
"""
    paths = os.pathsep.join([*(path for path in sys.path if path), str(tmp_path)])
    assert "on sys.path is not readable: it is, or is above, the home" in run(
        program, tmp_path, PYTHONPATH=paths, HOME=str(tmp_path)
    )


def test_threads_from_before_are_told_of() -> None:
    program = """
ended = threading.Event()
threading.Thread(target=ended.wait).start()
print(confine((), 2**32).gaps)
ended.set()
"""
    assert "threads that were started before it are not confined" in run(program)


def test_a_value_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError):
        confinement_from_header({"files": True})
    assert not Confinement(7, True, True, True, True, ("a gap",)).is_whole


def test_what_is_readable_opens_nothing_that_is_hidden(tmp_path: Path) -> None:
    hidden = tmp_path / "assets" / "keys"
    (hidden / "below").mkdir(parents=True)
    (tmp_path / "assets" / "plain").mkdir()

    def readable(*paths: Path) -> set[Path]:
        rules, _ = confining._rules(paths, (hidden,))
        return {rule.path for rule in rules if rule.path.is_relative_to(tmp_path) and rule.rights == landlock.READ}

    assert readable(tmp_path) == {tmp_path / "assets" / "plain"}
    assert readable(hidden) == readable(hidden / "below") == set()
