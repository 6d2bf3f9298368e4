"""The loop of an actor: act in N environments at once, cut the experience into unrolls, hand them to the writer.

It never acts without an authorised policy: before every step it asks the policy source for the policy that may act at
this moment, and waits where there is none. What an unroll looks like is in `actors.unroll`; where policies come from
and how records travel is not known here.

Exceptions: RolloutError and, below it, NoAuthorisedPolicy (waited too long) and PolicyMismatch (the policy is not one
for this environment).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from actors.environment import VectorEnvironment
from actors.episodes import Episodes, SeedOf
from actors.unroll import UnrollBuffer
from policies.client import ActingPolicy
from policies.policy import ActionBatch, PolicyIdentity
from policies.served import InferenceUnavailable
from policies.spec import mismatch
from protos.common.v1 import common_pb2
from replay.client import ReplayUnavailable

_WAIT_SLICE_S = 0.5
"""Longest time between two looks at the stop signal while waiting for somebody else."""

EPISODE_SEEDS_MAX = 4096
"""Most episode seeds in one header, whose size is bounded. Where more episodes begin in a record, the first ones are
named; the others cannot be re-executed."""


class RolloutError(RuntimeError):
    """The rollout cannot go on."""


class NoAuthorisedPolicy(RolloutError):
    """There was no policy that may act for as long as the actor is willing to wait."""


class PolicyMismatch(RolloutError):
    """The policy that may act is not one for this environment."""


class PolicySource(Protocol):
    """Where the rollout gets its policy; `policies.client.PolicyClient` is one."""

    def current(self) -> ActingPolicy | None:
        """The policy that may act at this moment. Cheap: asked before every step."""

    def wait(self, timeout_s: float) -> ActingPolicy | None:
        """The same, after waiting for one for at most `timeout_s`."""


class RecordWriter(Protocol):
    """Where the rollout puts its records; `replay.client.ReplayWriter` is one."""

    def append(self, headers: Sequence[common_pb2.RecordHeader], payloads: Sequence[bytes], timeout_s: float) -> None:
        """Takes all of the records, or raises ReplayUnavailable after `timeout_s` and takes none."""


def first_policy(policies: PolicySource, wait_s_max: float, stop: Callable[[], bool]) -> ActingPolicy | None:
    """The policy that may act, waited for at most so long; None when told to stop. Raises NoAuthorisedPolicy."""
    start_s = time.monotonic()
    acting = None
    while acting is None and not stop():
        left_s = wait_s_max - (time.monotonic() - start_s)
        if left_s <= 0:
            raise NoAuthorisedPolicy(f"no authorised policy for {wait_s_max:.1f} s; an actor does not act without one")
        acting = policies.wait(min(_WAIT_SLICE_S, left_s))
    return acting


@dataclasses.dataclass(frozen=True)
class RolloutStatistics:
    """What a rollout has done so far.

    Attributes:
      env_steps: environment steps, all lanes together.
      episodes: ended episodes.
      records: records handed to the writer.
      dropped_records: records that the writer had not taken when the rollout was stopped.
      policy_wait_s: time without an authorised policy.
    """

    env_steps: int = 0
    episodes: int = 0
    records: int = 0
    dropped_records: int = 0
    policy_wait_s: float = 0.0


class Rollout:
    """Runs N lanes until it is told to stop.

    Args:
      environment: N lanes; the rollout resets them and leaves closing to its owner.
      buffer: for as many lanes; its length is T.
      policies: asked before every step.
      writer: takes N records per unroll, one per lane, laid out by `buffer.schema`.
      seed_of: the seed of an episode, by lane and number.
      generator: draws the actions.
      policy_wait_s_max: longest time to wait for an authorised policy.
      stop: True once the rollout should end; asked before every step.
    """

    def __init__(
        self,
        environment: VectorEnvironment,
        buffer: UnrollBuffer,
        policies: PolicySource,
        writer: RecordWriter,
        *,
        seed_of: SeedOf,
        generator: np.random.Generator,
        policy_wait_s_max: float,
        stop: Callable[[], bool],
    ) -> None:
        lanes = environment.lanes
        self._environment = environment
        self._buffer = buffer
        self._policies = policies
        self._writer = writer
        self._generator = generator
        self._policy_wait_s_max = policy_wait_s_max
        self._stop = stop
        self._episodes = Episodes(lanes, seed_of)
        self._begun: list[list[int]] = [[] for _ in range(lanes)]
        self._boundary = np.zeros(lanes, np.bool_)
        self._acting: ActingPolicy | None = None
        self._state = np.zeros((lanes, buffer.state.shape[2]), np.float32)
        self.statistics = RolloutStatistics()
        everywhere = np.arange(lanes)
        buffer.observation[buffer.length] = environment.reset(everywhere, self._episodes.start(everywhere))

    def run(self) -> None:
        """Acts and writes until `stop` is True; the unroll in progress then is lost. For one call only.

        Raises:
          NoAuthorisedPolicy, PolicyMismatch: see there.
          UnrollFault: the environment or the policy yields numbers that are not finite.
          ReplayRefused, InferenceRefused: a service refuses this actor for good.
        """
        while not self._stop():
            records = self._collect()
            if records is not None:
                self._deliver(*records)

    def _collect(self) -> tuple[list[common_pb2.RecordHeader], list[bytes]] | None:
        """One unroll of all lanes as records; None when told to stop in its midst."""
        buffer, episodes = self._buffer, self._episodes
        buffer.begin_next(self._state)
        start = (list(episodes.seed), list(episodes.episode), episodes.step.tolist())
        self._begun = [[] for _ in self._begun]
        spans: list[common_pb2.PolicySpan] = []
        behaviour: PolicyIdentity | None = None
        start_time_ns = end_time_ns = 0
        for row in range(buffer.length):
            chosen = self._choose(buffer.observation[row])
            if chosen is None:
                return None
            choice, chosen_by = chosen
            if chosen_by != behaviour:
                behaviour = chosen_by
                spans.append(common_pb2.PolicySpan(first_step=row, version=chosen_by.version, digest=chosen_by.digest))
            end_time_ns = time.time_ns()
            start_time_ns = start_time_ns or end_time_ns
            self._step(row, choice)
        payloads = buffer.payloads()
        return self._headers(start, spans, start_time_ns, end_time_ns), payloads

    def _choose(self, observation: NDArray[Any]) -> tuple[ActionBatch, PolicyIdentity] | None:
        """Actions for all lanes by the policy that may act now, and which one that was; None when told to stop."""
        acting = self._authorised()
        while acting is not None:
            try:
                choice = acting.policy.act(observation, self._generator, self._state)
            except InferenceUnavailable:
                acting = self._authorised() if self._wait_for_policy() is not None else None
            else:
                # A service may have changed its policy since it was last heard of; it says who chose.
                return choice, choice.identity or PolicyIdentity(acting.version, acting.digest)
        return None

    def _authorised(self) -> ActingPolicy | None:
        """The policy that may act now, waited for if need be; None when told to stop."""
        if self._stop():
            return None
        acting = self._policies.current()
        if acting is None:
            acting = self._wait_for_policy()
        if acting is not self._acting and acting is not None:
            reason = mismatch(acting.policy.spec, self._environment.spec)
            if not reason and acting.policy.state_size != self._state.shape[1]:
                reason = f"a state of {acting.policy.state_size} numbers, the policy before had {self._state.shape[1]}"
            if reason:
                raise PolicyMismatch(f"policy version {acting.version} has {reason}")
            self._acting = acting
            self._episodes.act_by(acting.tag)
        return acting

    def _wait_for_policy(self) -> ActingPolicy | None:
        start_s = time.monotonic()
        try:
            return first_policy(self._policies, self._policy_wait_s_max, self._stop)
        finally:
            self._count(policy_wait_s=time.monotonic() - start_s)

    def _step(self, row: int, choice: ActionBatch) -> None:
        """One step of every lane that is not at a boundary; fills `row`, and the observation of the next one."""
        buffer, boundary = self._buffer, self._boundary
        active = ~boundary
        step = self._environment.step(choice.action, active)
        buffer.action[row] = choice.action
        buffer.log_prob[row] = choice.log_prob
        buffer.logits[row] = choice.logits
        if choice.state is not None:
            self._state[active] = choice.state[active]
        buffer.reward[row] = step.reward
        buffer.cost[row] = step.cost
        np.logical_not(step.terminated, out=buffer.discount[row], casting="unsafe")
        buffer.mask[row] = active
        buffer.observation[row + 1] = step.observation
        ended = (step.terminated | step.truncated) & active
        if boundary.any():
            buffer.clear_boundary(row, boundary)
        self._episodes.advance(active, buffer.reward[row], buffer.cost[row])
        if ended.any():
            self._episodes.finish(np.flatnonzero(ended))
        restart = np.flatnonzero((ended & step.terminated) | boundary)
        if restart.size:
            self._begin(row + 1, restart)
        self._boundary = ended & ~step.terminated

    def _begin(self, row: int, lanes: NDArray[np.intp]) -> None:
        """The next episode of `lanes` [K] begins in `row`.

        Row T belongs to the next record as its row 0: that record's environment_seed names the seed, not this one.
        """
        seeds = self._episodes.start(lanes)
        self._state[lanes] = 0
        self._buffer.observation[row, lanes] = self._environment.reset(lanes, seeds)
        if row < self._buffer.length:
            for lane, seed in zip(lanes.tolist(), seeds, strict=True):
                self._begun[lane].append(seed)

    def _headers(
        self,
        start: tuple[list[int], list[int], list[int]],
        spans: list[common_pb2.PolicySpan],
        start_time_ns: int,
        end_time_ns: int,
    ) -> list[common_pb2.RecordHeader]:
        """One header per lane. Provenance of the start is that of observation row 0.

        `episode_seeds` are of the episodes whose first observation is in one of the rows 1 to T - 1.
        """
        signals = self._episodes.take_ended()
        signals["steps"] = np.count_nonzero(self._buffer.mask, axis=0).tolist()
        signals["cost"] = self._buffer.cost.sum(axis=0, dtype=np.float64).tolist()
        names, tagged = tuple(signals), self._episodes.take_ended_tagged()
        self._count(env_steps=int(sum(signals["steps"])), episodes=int(sum(signals["episodes"])))
        return [
            common_pb2.RecordHeader(
                steps=self._buffer.length,
                lane=lane,
                environment_seed=seed,
                episode=episode,
                episode_step=episode_step,
                policies=spans,
                start_time_ns=start_time_ns,
                end_time_ns=end_time_ns,
                signals=dict(zip(names, values, strict=True)) | ended_tagged,
                episode_seeds=begun[:EPISODE_SEEDS_MAX],
                encoding=self._buffer.encoding,
            )
            for lane, (seed, episode, episode_step, values, ended_tagged, begun) in enumerate(
                zip(*start, zip(*signals.values(), strict=True), tagged, self._begun, strict=True)
            )
        ]

    def _deliver(self, headers: list[common_pb2.RecordHeader], payloads: list[bytes]) -> None:
        """Hands the records over, however long replay holds them back, unless told to stop."""
        while True:
            try:
                self._writer.append(headers, payloads, _WAIT_SLICE_S)
            except ReplayUnavailable:
                if self._stop():
                    self._count(dropped_records=len(headers))
                    return
            else:
                self._count(records=len(headers))
                return

    def _count(self, **more: float) -> None:
        values = {name: getattr(self.statistics, name) + value for name, value in more.items()}
        self.statistics = dataclasses.replace(self.statistics, **values)
