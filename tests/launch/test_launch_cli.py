"""The command as a user sees it: real processes, exit statuses, one line for bad input, quick help."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from launch.config_file import write_config
from launch.recipes import make_recipe
from launch.run_directory import holder_of
from launch.run_paths import RunPaths
from launch.topology import Addresses, Limits, processes_of
from policies.signing import SigningKey
from tests.launch import made_up_run

REPOSITORY = Path(__file__).resolve().parents[2]


def temper(*arguments: str, cwd: Path, code: str = "") -> subprocess.CompletedProcess[str]:
    """Runs the command in `cwd`; `code` is executed in the process before."""
    start = f"{code}\nimport sys\nfrom launch.cli import main\nsys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", start, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A directory with a config file, a file that is none, and a run of another recipe."""
    write_config(make_recipe("catch"), tmp_path / "config.toml")
    (tmp_path / "broken.toml").write_text("recipe = catch")
    (tmp_path / "other").mkdir()
    write_config(make_recipe("cartpole"), tmp_path / "other" / "config.toml")
    (tmp_path / "other" / "run_id").write_text("0" * 32)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("not a run")
    return tmp_path


ACTOR = ("actor", "--config", "config.toml", "--trust", "key.pem", "--run-id", "r")
SAFETY = ("safety", "serve", "--config", "config.toml", "--directory", "s", "--run-id", "r")
REPLAY = ("replay", "serve", "--config", "config.toml", "--directory", "d")

BAD_INPUT = {
    "no command": (
        (),
        "Expected one of {train, sweep, distill, actor, learner, replay, safety, policy, keys, status, doctor}",
    ),
    "unknown command": (("trian", "catch"), "Unrecognized options: trian"),
    "unknown subcommand": (("replay", "serv"), "Unrecognized options: serv"),
    "missing argument": (("status",), "missing: RUN_DIR (The run directory)"),
    "unknown option": (("train", "catch", "--sed", "1"), "--sed"),
    "mistyped option": (("train", "catch", "--max-seconds", "soon"), "--max-seconds 'soon' is not a number"),
    "negative limit": (("train", "catch", "--max-env-steps", "-1"), "--max-env-steps -1 is negative"),
    "unknown recipe": (
        ("train", "cartpol"),
        "known: cartpole, cartpole-cost, catch, catch-memory, minatar-breakout, minatar-asterix, "
        "minatar-cost-space-invaders, distill, gym:ID",
    ),
    "unknown key": (("train", "catch", "--set", "learner.lerning_rate=1"), "did you mean 'learner.learning_rate'?"),
    "mistyped key": (("train", "catch", "--set", "seed"), "'seed' is not of the form key=value"),
    "mistyped value": (("train", "catch", "--set", "seed=one"), "seed = 'one' is not an integer"),
    "out of range": (("train", "catch", "--set", "learner.discount=2"), "must be in [0.0, 1.0]"),
    "standstill": (("train", "catch", "--set", "replay.fresh_unconsumed_max=1"), "the run would stand still"),
    "standstill of the uniform table": (
        ("train", "catch", "--set", "replay.uniform_samples_per_insert=1"),
        "draws 0.0 for each insert: the run would stand still",
    ),
    "more lanes than the window holds": (
        ("train", "catch", "--set", "actor.lanes=2000"),
        "actor.lanes = 2000 exceeds actor.window_records",
    ),
    "limit that is no number": (("train", "catch", "--max-seconds", "nan"), "--max-seconds nan is not a number"),
    "network misfit": (("train", "cartpole", "--set", "network.kind=conv"), "temper: "),
    "unknown environment": (("train", "gym:NoSuchThing-v0"), "NoSuchThing"),
    "unsupported action space": (
        ("train", "gym:tests.actors.unsupported_environments:SpokenActions-v0"),
        "action space Text",
    ),
    "config file missing": (("train", "none.toml"), "none.toml cannot be read: No such file or directory"),
    "config file broken": (("train", "broken.toml"), "broken.toml is not TOML"),
    "resume without a run": (("train", "catch", "--resume"), "--resume needs --run-dir"),
    "resume of nothing": (("train", "catch", "--resume", "--run-dir", "new"), "holds no run to resume"),
    "resume of another recipe": (
        ("train", "catch", "--resume", "--run-dir", "other"),
        "of recipe 'cartpole', not 'catch'",
    ),
    "resume with another network": (
        ("train", "cartpole", "--resume", "--run-dir", "other", "--set", "network.hidden_sizes=8"),
        "the network.* settings differ",
    ),
    "resume with another length of unroll": (
        ("train", "cartpole", "--resume", "--run-dir", "other", "--set", "actor.unroll_length=7"),
        "a run keeps its unroll_length",
    ),
    "run of another recipe": (("train", "catch", "--run-dir", "other"), "of recipe 'cartpole', not 'catch'"),
    "existing run": (("train", "cartpole", "--run-dir", "other"), "holds an unfinished run: continue it with --resume"),
    "directory of something else": (("train", "catch", "--run-dir", "notes"), "is not empty and holds no run"),
    "run directory is a file": (("train", "catch", "--run-dir", "config.toml"), "cannot be used: File exists"),
    "status of no run": (("status", "notes"), "is not a run directory"),
    "policies of no run": (("policy", "list", "notes"), "is not a run directory"),
    "no such release": (
        ("policy", "show", "other", "--release", "3"),
        "no release 3 in other; releases there are: none",
    ),
    "malformed address": ((*REPLAY, "--listen", "7000"), "address '7000' is neither unix:PATH nor HOST:PORT"),
    "socket path too long": ((*SAFETY, "--listen", "unix:/" + "x" * 120), "has 121 bytes, the limit is 107"),
    "a shard of no number": ((*REPLAY, "--listen", "h:1", "--shard", "-1"), "--shard -1 must be 0 to 65535"),
    "actor without inference address": (
        (*ACTOR, "--replay", "h:1", "--policy", "h:1", "--config", "served.toml"),
        "needs --inference-address",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT, ids=lambda case: case.replace(" ", "-"))
def test_bad_input_is_one_line_and_status_two(workplace: Path, case: str) -> None:
    (workplace / "served.toml").write_text('recipe = "catch"\n[actor]\ninference = "served"\n')
    arguments, said = BAD_INPUT[case]
    before = sorted(workplace.rglob("*"))
    done = temper(*arguments, cwd=workplace)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("temper: ")
    assert said in done.stderr
    assert done.stdout == ""
    left = {path.name for path in set(workplace.rglob("*")) - set(before)}
    # A run that was there before keeps its lock file; nothing else is ever left behind.
    assert left <= ({"lock"} if "other" in arguments else set())


@pytest.mark.parametrize("service", [REPLAY, SAFETY], ids=["replay", "safety"])
def test_an_address_that_is_taken(workplace: Path, socket_directory: Path, service: tuple[str, ...]) -> None:
    path = socket_directory / "taken.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        done = temper(*service, "--listen", f"unix:{path}", cwd=workplace)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"temper: address unix:{path} is already bound by a running server; stop it or choose another"
    ]


def test_an_actor_s_name_that_replay_would_refuse(workplace: Path) -> None:
    """Said by the host that `temper actor` becomes."""
    SigningKey.generate().verify_key.save(workplace / "key.pem")
    done = temper(
        *ACTOR, "--replay", "localhost:1", "--policy", "localhost:1", "--actor-prefix", "rack 7", cwd=workplace
    )
    assert done.returncode == 2
    assert done.stderr.startswith("temper: actor_prefix 'rack 7' must be")
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("name", ["launch", "learner", "safety"])
def test_the_working_directory_hides_none_of_our_packages(workplace: Path, name: str, socket_directory: Path) -> None:
    """A service as the supervisor starts it, where a folder of somebody's experiments has the name of a package."""
    (workplace / name).mkdir()
    (workplace / name / "__init__.py").write_text("raise SystemExit('imported from the working directory')")
    specs = processes_of(
        *(make_recipe("catch"), RunPaths(workplace / "run"), Addresses.in_directory(socket_directory), "r", Limits()),
        resume=False,
    )
    (spec,) = (spec for spec in specs if spec.name == "replay")
    done = subprocess.run(list(spec.command), cwd=workplace, capture_output=True, text=True, check=False, timeout=60)
    # It comes as far as to miss the config file of a run that does not exist.
    assert done.stderr.splitlines() == [
        f"temper: config file {workplace}/run/config.toml cannot be read: No such file or directory"
    ]


def test_a_replay_directory_of_another_format(workplace: Path, socket_directory: Path) -> None:
    (workplace / "d").mkdir()
    (workplace / "d" / "format.json").write_text('{"format": "somebody else"}')
    done = temper(*REPLAY, "--listen", f"unix:{socket_directory}/r.sock", cwd=workplace)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_a_run_whose_replay_is_of_another_format_ends_at_once(workplace: Path) -> None:
    """What one process of the run says of its input is what the user is told, and the others are stopped."""
    paths = made_up_run.begin(workplace / "a run")
    paths.replay.mkdir()
    (paths.replay / "format.json").write_text('{"format": "somebody else"}')
    done = temper("train", "catch", "--resume", "--run-dir", "a run", cwd=workplace)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"temper: replay directory {paths.replay} was written in format somebody else")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not paths.processes.exists()
    assert holder_of(paths) is None


@pytest.mark.parametrize(
    ("hidden", "recipe", "extra"),
    [("jax", "catch", "learner"), ("lmdb", "catch", "replay"), ("minatar", "minatar-breakout", "minatar")],
)
def test_a_missing_extra_comes_with_its_install_command(workplace: Path, hidden: str, recipe: str, extra: str) -> None:
    hide = f"""
import importlib.abc, importlib.util, sys
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == {hidden!r} else real(name, package)
sys.meta_path.insert(0, Hide())
"""
    done = temper("train", recipe, cwd=workplace, code=hide)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert f"pip install 'temper[{extra}]'" in done.stderr
    assert not (workplace / "runs").exists()


def test_a_foreign_safety_package_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "safety").mkdir()
    (tmp_path / "safety" / "__init__.py").write_text("raise SystemExit('imported')")
    done = temper("train", "catch", cwd=tmp_path, code=f"import sys; sys.path.insert(0, {str(tmp_path)!r})")
    assert done.returncode == 2
    assert "package 'safety' is found at" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    """`temper train --help | head -1` ends quietly, with the status of a process that a broken pipe ended."""
    command = [sys.executable, "-m", "launch.cli", "train", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


def test_started_without_standard_streams(workplace: Path) -> None:
    """As by `temper train RECIPE >&-`: no file that is opened later may become standard output by accident."""
    code = (
        "import sys; from launch.cli import main; status = main(['status', 'other']);"
        "file = open('file', 'w'); print('x' * 9); print('y' * 9, file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -c "$1" >&- 2>&-', sys.executable, code],
        cwd=workplace,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        check=False,
        timeout=60,
    )
    assert done.returncode == 0
    assert (workplace / "file").read_text() == ""


def test_help_lists_every_command_and_is_quick(tmp_path: Path) -> None:
    # The best of three: the machine may be busy with something else.
    times = []
    for _ in range(3):
        started_at = time.perf_counter()
        done = temper("--help", cwd=tmp_path)
        times.append(time.perf_counter() - started_at)
        assert done.returncode == 0
    assert all(f" {name} " in done.stdout for name in ("train", "actor", "learner", "replay", "status", "doctor"))
    assert min(times) < 3.0


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    report = """
import atexit, sys
atexit.register(lambda: print(*sorted({name.partition(".")[0] for name in sys.modules})))
"""
    loaded = temper("--help", cwd=tmp_path, code=report).stdout.splitlines()[-1].split()
    assert "launch" in loaded
    assert not {"jax", "lmdb", "grpc", "gymnasium", "rich", "numpy"} & set(loaded)


def test_help_of_train_shows_every_setting_with_the_recipes_default(tmp_path: Path) -> None:
    done = temper("train", "cartpole", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "  stop.target_return=475.0\n" in done.stdout
    assert "  network.kind=mlp\n" in done.stdout
    assert "one of mlp, conv" in done.stdout
    assert all(f"  {name} " in done.stdout for name in ("cartpole", "catch", "minatar-breakout", "gym:ID"))


def test_version(tmp_path: Path) -> None:
    done = temper("--version", cwd=tmp_path)
    try:
        version = metadata.version("temper")
    except metadata.PackageNotFoundError:
        version = "(not installed)"
    assert (done.returncode, done.stdout) == (0, f"temper {version}\n")


def test_an_unexpected_error_is_not_hidden(workplace: Path) -> None:
    broken = "import launch.status; launch.status.gather = lambda root: 1 / 0"
    done = temper("status", "other", cwd=workplace, code=broken)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_an_actor_loads_nothing_of_the_command_line(workplace: Path) -> None:
    """The host that `temper actor` becomes: seen when it has imported all and finds that its key is no key."""
    (workplace / "key.pem").write_text("no key")
    code = (
        "import atexit, sys; atexit.register(lambda: print(*sorted({name.partition('.')[0] for name in sys.modules})));"
        "from launch.actor_host import main; sys.exit(main(sys.argv[1]))"
    )
    host = (
        '{"config": "config.toml", "replay_address": "h:1", "policy_address": "h:1", "inference_address": null, '
        '"trust": "key.pem", "run_id": "r", "processes": 1, "actor_prefix": "a"}'
    )
    done = subprocess.run(
        [sys.executable, "-c", code, host],
        cwd=workplace,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    loaded = set(done.stdout.split())
    assert "actors" in loaded
    assert not {"jax", "flax", "optax", "orbax", "lmdb", "tyro", "rich"} & loaded
