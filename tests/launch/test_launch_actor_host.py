"""What becomes of the actors' errors on the way to an exit status; the actors themselves are tested in tests/actors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.config import ActorConfig
from actors.host import ActorJob, ActorsKeepFailing
from actors.process import JobError
from launch import actor_host
from launch.config_file import config_digest, write_config
from launch.process import GAVE_UP, source_revision
from launch.recipes import make_recipe
from policies.signing import SigningKey


@pytest.fixture
def argument(tmp_path: Path) -> str:
    """What `temper actor` hands to the host."""
    write_config(make_recipe("catch"), tmp_path / "config.toml")
    SigningKey.generate().verify_key.save(tmp_path / "key.pem")
    return json.dumps(
        {
            "config": str(tmp_path / "config.toml"),
            "replay_address": "h:1",
            "policy_address": "h:2",
            "inference_address": None,
            "trust": str(tmp_path / "key.pem"),
            "run_id": "run",
            "processes": 3,
            "actor_prefix": "rack7",
        }
    )


def test_the_job_is_that_of_the_config_file(argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[ActorJob] = []

    def run(job: ActorJob) -> int:
        jobs.append(job)
        return 0

    monkeypatch.setattr(actor_host, "run_actors", run)
    assert actor_host.main(argument) == 0
    (job,) = jobs
    assert job.environment.name == "catch"
    assert isinstance(job.actor, ActorConfig)
    assert (job.processes, job.actor_prefix, job.run_id) == (3, "rack7", "run")
    assert job.config_digest == config_digest(tmp_path / "config.toml")
    assert job.source_revision == source_revision()


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ActorsKeepFailing("rack7-0001 failed 6 times"), GAVE_UP, "temper: rack7-0001 failed 6 times\n"),
        (JobError("too many\nlanes"), 2, "temper: too many lanes\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_become_one_line_and_a_status(
    argument: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    said: str,
) -> None:
    def fail(_: ActorJob) -> int:
        raise error

    monkeypatch.setattr(actor_host, "run_actors", fail)
    assert actor_host.main(argument) == status
    assert capsys.readouterr().err == said


def test_a_fault_of_the_program_is_not_hidden(argument: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: ActorJob) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(actor_host, "run_actors", fail)
    with pytest.raises(ZeroDivisionError):
        actor_host.main(argument)
