"""Trains CartPole-v1 with Sample Factory until it solves it, and says how long that took: one run, one JSON report.

Runs inside the peer's own environment and imports nothing of Temper's. Sample Factory itself is not changed: an
observer, of the kind that its documentation describes, reads the clock and ends the run.

"Seconds to an evaluation return of 475" is the time from the start of the process to the earliest of three moments, so
that the peer pays for no evaluation at all:
  - the mean return of its last 100 training episodes reaches the target (its own running average), which also ends
    the run;
  - it wrote the first checkpoint whose policy has a mean return of at least the target over 100 episodes when it acts
    greedily;
  - the same when it samples its actions. Checkpoints are evaluated after the run and off the clock.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch  # type: ignore[import-not-found, unused-ignore]  # in the peer's environment only, as the next ones
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from numpy.typing import NDArray
from sample_factory.algo.runners.runner import AlgoObserver  # type: ignore[import-not-found]
from sample_factory.algo.utils.action_distributions import argmax_actions  # type: ignore[import-not-found]
from sample_factory.algo.utils.misc import EPISODIC, ExperimentStatus  # type: ignore[import-not-found]
from sample_factory.algo.utils.rl_utils import prepare_and_normalize_obs  # type: ignore[import-not-found]
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args  # type: ignore[import-not-found]
from sample_factory.envs.env_utils import register_env  # type: ignore[import-not-found]
from sample_factory.model.actor_critic import create_actor_critic  # type: ignore[import-not-found]
from sample_factory.train import make_runner  # type: ignore[import-not-found]

EPISODES = 100
CHECKPOINT_PERIOD_S = 0.5
EVALUATION_SEED = 20_011
ENVIRONMENT = "CartPole-v1"


@dataclass(frozen=True)
class Report:
    """What one run came to; seconds are since the start of the process.

    Attributes:
      env_steps: environment steps that were trained on.
      env_steps_per_s: over the time between the first and the last training step.
      env_steps_per_s_with_start_up: over all the time to the last training step.
      start_up_s: to the end of the first training step.
      seconds_to_target: None where the target was not reached.
      reached_by: which of the moments in the module's docstring came first.
      moments: all of them that came.
      training_return_mean: of the last 100 training episodes, at the end.
    """

    env_steps: int
    env_steps_per_s: float
    env_steps_per_s_with_start_up: float
    start_up_s: float
    seconds_to_target: float | None
    reached_by: str | None
    moments: dict[str, float]
    training_return_mean: float


class BatchedCartPole(gymnasium.Env[NDArray[np.float32], NDArray[np.int64]]):
    """Gymnasium's vectorised CartPole in the shape that Sample Factory's batched sampling takes: agents of one world.

    An ended lane starts its next episode in the same step, as Sample Factory expects.
    """

    is_multiagent = True

    def __init__(self, lanes: int) -> None:
        self._batch = CartPoleVectorEnv(num_envs=lanes)
        self.num_agents = lanes
        self.observation_space = self._batch.single_observation_space
        self.action_space = self._batch.single_action_space
        self._infos: list[dict[str, Any]] = [{} for _ in range(lanes)]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Starts every lane; returns observations [lanes, 4] and an empty info per lane."""
        observation, _ = self._batch.reset(seed=seed, options=options)
        return observation.astype(np.float32), self._infos

    def step(self, action: NDArray[np.int64]) -> Any:
        """Steps every lane by its action [lanes]."""
        observation, reward, terminated, truncated, _ = self._batch.step(np.asarray(action, np.int64))
        return observation.astype(np.float32), reward, terminated, truncated, self._infos


def make_environment(
    name: str, cfg: Any = None, env_config: Any = None, render_mode: str | None = None
) -> gymnasium.Env[Any, Any]:
    """The environment as Sample Factory asks for it, in each of its processes; `env_lanes` is this script's option."""
    del env_config
    return BatchedCartPole(cfg.env_lanes) if cfg.env_lanes else gymnasium.make(name, render_mode=render_mode)


class Stopwatch(AlgoObserver):  # type: ignore[misc]  # its base is unknown outside of the peer's environment
    """Times training steps, and ends the run at the target or when its time is up.

    Args:
      started_time_s: when the process was started, on the clock of `time.time`.
      target_return: mean return over EPISODES training episodes that ends the run.
      seconds_max: it is ended after this time. Sample Factory's own `train_for_seconds` has no effect in 2.1.1.
    """

    def __init__(self, started_time_s: float, target_return: float, seconds_max: float) -> None:
        self._started_time_s = started_time_s
        self._target_return = target_return
        self._seconds_max = seconds_max
        self._returns: collections.deque[float] = collections.deque(maxlen=EPISODES)
        self.first: tuple[float, int] | None = None
        self.last: tuple[float, int] | None = None
        self.reached_s: float | None = None

    @property
    def return_mean(self) -> float:
        """Of the last training episodes; 0 before the first has ended."""
        return float(np.mean(self._returns)) if self._returns else 0.0

    def on_training_step(self, runner: Any, training_iteration_since_resume: int) -> None:
        """Called by the runner after each iteration of training."""
        del training_iteration_since_resume
        elapsed_s, env_steps = time.time() - self._started_time_s, int(runner.env_steps.get(0, 0))
        if env_steps > 0:
            self.first = self.first or (elapsed_s, env_steps)
            self.last = (elapsed_s, env_steps)
        if elapsed_s > self._seconds_max:
            _stop(runner)

    def on_episodes(self, runner: Any, message: dict[str, Any], policy: int) -> None:
        """Called by the runner with the returns of episodes that ended: one, or an array of them."""
        del policy
        self._returns.extend(float(value) for value in np.atleast_1d(message[EPISODIC]["reward"]))
        if self.reached_s is None and len(self._returns) == EPISODES and self.return_mean >= self._target_return:
            self.reached_s = time.time() - self._started_time_s
            _stop(runner)


def _stop(runner: Any) -> None:
    runner._stop_training()  # the runner has no public way to end a run at a return


def train(options: argparse.Namespace, peer_arguments: list[str]) -> tuple[Any, Stopwatch]:
    """Runs the training to its end; returns the peer's configuration and the times.

    Raises:
      SystemExit: Sample Factory reports a failure.
    """
    register_env(ENVIRONMENT, make_environment)
    arguments = [
        "--algo=APPO",
        f"--env={ENVIRONMENT}",
        "--experiment=cartpole",
        f"--train_dir={options.run_dir}",
        "--device=cpu",
        "--use_rnn=False",
        "--num_policies=1",
        "--keep_checkpoints=1000000",
        "--save_best_after=1000000000",  # else checkpoints come to hold a NumPy scalar, which torch.load refuses
        f"--num_workers={len(os.sched_getaffinity(0))}",  # its default counts the machine's cores, allowed or not
        *peer_arguments,
    ]
    parser, _ = parse_sf_args(arguments)
    parser.add_argument("--env_lanes", type=int, default=options.lanes)
    cfg = parse_full_cfg(parser, arguments)
    cfg.save_every_sec = CHECKPOINT_PERIOD_S  # its parser takes whole seconds only; its timer does not care
    cfg, runner = make_runner(cfg)
    stopwatch = Stopwatch(options.started, options.target, options.seconds_max)
    runner.register_observer(stopwatch)
    runner.register_episodic_stats_handler(stopwatch.on_episodes)
    if runner.init() != ExperimentStatus.SUCCESS or runner.run() != ExperimentStatus.SUCCESS:
        raise SystemExit("Sample Factory reports a failure")
    return cfg, stopwatch


def checkpoints_at_target(cfg: Any, target_return: float) -> dict[str, float]:
    """When (time.time) the first checkpoint was written that reaches the target, by how its policy acts."""
    pattern = re.compile(r"checkpoint_\d+_\d+\.pth")  # not "checkpoint_temp", which an unlucky stop can leave
    directory = Path(cfg.train_dir) / cfg.experiment / "checkpoint_p0"
    lanes = CartPoleVectorEnv(num_envs=EPISODES)
    space = gymnasium.spaces.Dict({"obs": lanes.single_observation_space})
    model = create_actor_critic(cfg, space, lanes.single_action_space)
    model.eval()
    found: dict[str, float] = {}
    for path in sorted(path for path in directory.iterdir() if pattern.fullmatch(path.name)):
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["model"])
        for acting in ("greedy", "sampling"):
            if acting not in found and evaluate(model, greedy=acting == "greedy") >= target_return:
                found[acting] = path.stat().st_mtime
    return found


def evaluate(model: Any, *, greedy: bool) -> float:
    """Mean return of a policy over EPISODES episodes: the first of each lane, so that short ones do not count twice."""
    lanes = CartPoleVectorEnv(num_envs=EPISODES)
    observation, _ = lanes.reset(seed=EVALUATION_SEED)
    running, returns = np.ones(EPISODES, bool), np.zeros(EPISODES)
    state = torch.zeros(EPISODES, 1)
    with torch.inference_mode():
        while running.any():
            inputs = prepare_and_normalize_obs(model, {"obs": torch.tensor(observation, dtype=torch.float32)})
            action = model(inputs, state)["actions"]
            if greedy:
                action = argmax_actions(model.action_distribution())
            observation, reward, terminated, truncated, _ = lanes.step(action.reshape(-1).numpy().astype(np.int64))
            returns += reward * running
            running &= ~(terminated | truncated)
    return float(returns.mean())


def report_of(cfg: Any, stopwatch: Stopwatch, started_time_s: float, target_return: float) -> Report:
    """Evaluates the checkpoints and composes the report.

    Raises:
      SystemExit: the run was over before its second training step, so that no speed can be told.
    """
    if stopwatch.first is None or stopwatch.last is None or stopwatch.first == stopwatch.last:
        raise SystemExit("the run ended before its second training step")
    (first_s, first_steps), (last_s, last_steps) = stopwatch.first, stopwatch.last
    moments = {} if stopwatch.reached_s is None else {"training episodes": stopwatch.reached_s}
    for acting, time_s in checkpoints_at_target(cfg, target_return).items():
        moments[f"checkpoint, {acting}"] = time_s - started_time_s
    reached_by = min(moments, key=moments.__getitem__, default=None)
    return Report(
        env_steps=last_steps,
        env_steps_per_s=(last_steps - first_steps) / (last_s - first_s),
        env_steps_per_s_with_start_up=last_steps / last_s,
        start_up_s=first_s,
        seconds_to_target=None if reached_by is None else moments[reached_by],
        reached_by=reached_by,
        moments=moments,
        training_return_mean=stopwatch.return_mean,
    )


def main() -> None:
    """Reads the command line: this script's options, then "--" and Sample Factory's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True, help="takes Sample Factory's files; must not exist")
    parser.add_argument("--report", type=Path, required=True, help="takes the report, as JSON")
    parser.add_argument("--started", type=float, required=True, help="start of this process, in s since the epoch")
    parser.add_argument("--lanes", type=int, required=True, help="environments in one batch; 0: gymnasium.make each")
    parser.add_argument("--target", type=float, required=True, help="mean return to reach")
    parser.add_argument("--seconds-max", type=float, required=True, help="the training ends after this time")
    split = sys.argv.index("--")
    options = parser.parse_args(sys.argv[1:split])
    cfg, stopwatch = train(options, sys.argv[split + 1 :])
    report = report_of(cfg, stopwatch, options.started, options.target)
    options.report.write_text(json.dumps(asdict(report)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
