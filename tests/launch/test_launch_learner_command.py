"""`temper learner`: what becomes of its arguments and the config file; the learner is tested in tests/learner."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import learner.process
from launch.arguments import Learner
from launch.commands import learner as command
from launch.config_file import write_config
from launch.errors import BadInput
from launch.recipes import make_recipe
from learner.job import LearnerJob
from protos.transport import AddressError


@pytest.fixture
def arguments(tmp_path: Path) -> Learner:
    """Of a run whose own limits are 1000 steps and 60 s."""
    config = make_recipe("catch")
    config = replace(config, seed=5, stop=replace(config.stop, env_steps_max=1000, seconds_max=60.0))
    write_config(config, tmp_path / "config.toml")
    return Learner(
        tmp_path / "config.toml", tmp_path, "127.0.0.1:1", "127.0.0.1:2", "unix:/p", tmp_path / "key.pem", "run"
    )


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[LearnerJob]:
    """What the learner was asked to do."""
    found: list[LearnerJob] = []

    def run(job: LearnerJob) -> int:
        found.append(job)
        return 0

    monkeypatch.setattr(learner.process, "run_learner", run)
    return found


def test_the_job_is_that_of_the_config_file(arguments: Learner, jobs: list[LearnerJob]) -> None:
    assert command.run(arguments) == 0
    (job,) = jobs
    config = make_recipe("catch")
    assert (job.learner, job.network, job.environment) == (config.learner, config.network, config.environment)
    assert (job.unroll_length, job.seed, job.target_return) == (config.actor.unroll_length, 5, 0.95)
    assert (job.replay_address, job.safety_address, job.listen_address) == ("127.0.0.1:1", "127.0.0.1:2", "unix:/p")
    assert (job.env_steps_max, job.seconds_max, job.resume) == (1000, 60.0, False)


def test_limits_given_here_take_the_place_of_those_in_the_file(arguments: Learner, jobs: list[LearnerJob]) -> None:
    command.run(replace(arguments, max_env_steps=5000, max_seconds=1.5, resume=True))
    (job,) = jobs
    assert (job.env_steps_max, job.seconds_max, job.resume) == (5000, 1.5, True)


@pytest.mark.parametrize(
    ("change", "error"), [({"max_env_steps": -1}, BadInput), ({"listen": "nowhere"}, AddressError)]
)
def test_bad_arguments_start_nothing(
    arguments: Learner, jobs: list[LearnerJob], change: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        command.run(replace(arguments, **change))  # type: ignore[arg-type]
    assert jobs == []
