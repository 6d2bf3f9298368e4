"""The rollout against a slow reference that writes the record format down row by row, as it is defined."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from actors.environment import SequentialVector
from actors.rollout import EPISODE_SEEDS_MAX, NoAuthorisedPolicy, PolicyMismatch, Rollout
from actors.unroll import UnrollBuffer, UnrollFault
from policies.policy import PolicyIdentity
from policies.spaces import discrete
from protos.common.v1 import common_pb2
from replay.schema import PayloadLayout
from tests.actors.recorded_runs import record_run
from tests.actors.scripted import (
    NUM_ACTIONS,
    SPEC,
    CollectingWriter,
    Script,
    ScriptedEnvironment,
    ScriptedPolicy,
    ScriptedSource,
    UnavailableNowAndThen,
    acting,
    choice_of,
    cost_of,
    observation_of,
    reward_of,
)

TERMINATED, TRUNCATED, BOTH = (True, False), (False, True), (True, True)


def seed_of(lane: int, episode: int) -> int:
    return lane * 100 + episode


class Run:
    """A finished rollout: what it wrote, decoded."""

    def __init__(
        self,
        script: Script,
        *,
        lanes: int,
        length: int,
        unrolls: int,
        source: ScriptedSource | None = None,
        writer: CollectingWriter | None = None,
        stop_after_calls: int | None = None,
        policy_wait_s_max: float = 5.0,
    ) -> None:
        self.writer = writer or CollectingWriter()
        self.source = source or ScriptedSource(lambda _call: same)
        same = acting(1)
        environment = SequentialVector(lambda: ScriptedEnvironment(script), lanes)
        buffer = UnrollBuffer(SPEC, lanes, length)

        def stop() -> bool:
            if stop_after_calls is not None:
                return self.source.calls >= stop_after_calls
            return len(self.writer.unrolls) >= unrolls

        self.rollout = Rollout(
            environment,
            buffer,
            self.source,
            self.writer,
            seed_of=seed_of,
            generator=np.random.default_rng(0),
            policy_wait_s_max=policy_wait_s_max,
            stop=stop,
        )
        self.rollout.run()
        layout = PayloadLayout(buffer.schema)
        self.headers = [headers for headers, _ in self.writer.unrolls]
        self.columns = [[layout.decode(payload, length) for payload in payloads] for _, payloads in self.writer.unrolls]

    def stream(self, lane: int, name: str) -> NDArray[Any]:
        """One column of a lane over all unrolls, one after the other (the observation without its row T)."""
        rows = [unroll[lane][name] for unroll in self.columns]
        return np.concatenate([row[:-1] for row in rows] if name == "observation" else rows)


@dataclasses.dataclass
class Row:
    """One row of the format, and the episode that its observation belongs to."""

    observation: NDArray[np.float32]
    action: int
    reward: float
    cost: float
    discount: float
    mask: bool
    log_prob: float
    logits: list[float]
    episode: int
    episode_step: int
    ended: dict[str, float]


def reference_rows(script: Script, lane: int, count: int) -> list[Row]:
    """The first `count` rows of a lane, episode by episode."""
    rows: list[Row] = []
    episode = 0
    while len(rows) < count:
        seed = seed_of(lane, episode)
        length, terminated, _truncated = script(seed)
        total, violated = 0.0, False
        for step in range(length):
            observation = observation_of(seed, step)
            action, log_prob, logits = choice_of(observation)
            reward, cost = reward_of(seed, step + 1, action), cost_of(seed, step + 1)
            total, violated = total + reward, violated or cost > 0
            last = step + 1 == length
            ended: dict[str, float] = {}
            if last:
                ended = {"episodes": 1, "return": total, "episode_steps": length, "violating_episodes": float(violated)}
            discount = 0.0 if last and terminated else 1.0
            rows.append(Row(observation, action, reward, cost, discount, True, log_prob, logits, episode, step, ended))
        if not terminated:
            rows.append(
                Row(
                    observation_of(seed, length), 0, 0.0, 0.0, 0.0, False, 0.0, [0.0] * NUM_ACTIONS, episode, length, {}
                )
            )
        episode += 1
    return rows


def check_against_reference(script: Script, run: Run, lanes: int, length: int, unrolls: int) -> None:
    assert len(run.columns) == unrolls
    for lane in range(lanes):
        rows = reference_rows(script, lane, unrolls * length + 1)
        for index in range(unrolls):
            columns, header = run.columns[index][lane], run.headers[index][lane]
            here = rows[index * length : (index + 1) * length]
            beyond = rows[index * length : (index + 1) * length + 1]
            np.testing.assert_array_equal(columns["observation"], np.stack([row.observation for row in beyond]))
            for name in ("action", "reward", "cost", "discount", "mask", "log_prob", "logits"):
                np.testing.assert_array_equal(columns[name], np.array([getattr(row, name) for row in here]), name)
            first = here[0]
            assert (header.lane, header.steps) == (lane, length)
            assert header.environment_seed == seed_of(lane, first.episode)
            assert (header.episode, header.episode_step) == (first.episode, first.episode_step)
            # An episode begins where its step 0 is; that of row 0 is named by environment_seed, that of row T later.
            begun = [seed_of(lane, row.episode) for row in here[1:] if row.episode_step == 0]
            assert list(header.episode_seeds) == begun
            expected = {"steps": float(sum(row.mask for row in here)), "cost": float(sum(row.cost for row in here))}
            for name in ("episodes", "return", "episode_steps", "violating_episodes"):
                expected[name] = float(sum(row.ended.get(name, 0.0) for row in here))
            assert dict(header.signals) == expected
            if index:
                before = run.columns[index - 1][lane]["observation"][length]
                np.testing.assert_array_equal(columns["observation"][0], before)


@pytest.mark.parametrize("ending", [TERMINATED, TRUNCATED, BOTH])
@pytest.mark.parametrize("episode_length", range(1, 10))
def test_endings_at_every_place_of_the_unroll(episode_length: int, ending: tuple[bool, bool]) -> None:
    """T = 4: episodes of 1 to 9 steps end inside, exactly at the edge, just beyond it, and several in one unroll."""

    def script(_seed: int) -> tuple[int, bool, bool]:
        return (episode_length, *ending)

    check_against_reference(script, Run(script, lanes=2, length=4, unrolls=12), 2, 4, 12)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    episodes=st.lists(st.tuples(st.integers(1, 7), st.sampled_from([TERMINATED, TRUNCATED, BOTH])), min_size=1),
    length=st.integers(1, 6),
    lanes=st.integers(1, 3),
)
def test_any_sequence_of_episodes(episodes: list[tuple[int, tuple[bool, bool]]], length: int, lanes: int) -> None:
    def script(seed: int) -> tuple[int, bool, bool]:
        steps, ending = episodes[seed % len(episodes)]
        return (steps, *ending)

    check_against_reference(script, Run(script, lanes=lanes, length=length, unrolls=8), lanes, length, 8)


def test_a_truncated_step_at_the_edge_keeps_its_bootstrap() -> None:
    """The layout spelled out by hand for T = 3 and an episode of exactly 3 steps."""

    def script(_seed: int) -> tuple[int, bool, bool]:
        return 3, False, True

    run = Run(script, lanes=1, length=3, unrolls=2)
    first, second = run.columns[0][0], run.columns[1][0]
    assert first["discount"].tolist() == [1, 1, 1]
    assert first["observation"][3].tolist() == [0, 3]
    assert second["observation"][:, :].tolist() == [[0, 3], [1, 0], [1, 1], [1, 2]]
    assert second["mask"].tolist() == [False, True, True]
    assert second["discount"].tolist() == [0, 1, 1]
    assert second["logits"][0].tolist() == [0, 0, 0]
    assert list(run.headers[0][0].episode_seeds) == []
    header = run.headers[1][0]
    assert (header.environment_seed, header.episode, header.episode_step) == (0, 0, 3)
    assert list(header.episode_seeds) == [1]
    assert header.signals["steps"] == 2


def test_the_stream_of_a_lane_is_its_episodes_without_a_gap() -> None:
    """Real steps of consecutive unrolls, put together, are whole episodes in order."""

    def script(seed: int) -> tuple[int, bool, bool]:
        return (seed % 5 + 1, *(TERMINATED if seed % 2 else TRUNCATED))

    run = Run(script, lanes=3, length=5, unrolls=10)
    for lane in range(3):
        mask = run.stream(lane, "mask")
        made = run.stream(lane, "observation")[mask].tolist()
        expected = [
            [float(seed_of(lane, episode)), float(step)]
            for episode in range(40)
            for step in range(script(seed_of(lane, episode))[0])
        ]
        assert made == expected[: len(made)]
    assert run.rollout.statistics.env_steps == sum(int(run.stream(lane, "mask").sum()) for lane in range(3))
    assert run.rollout.statistics.records == 30
    ended = sum(header.signals["episodes"] for headers in run.headers for header in headers)
    assert run.rollout.statistics.episodes == ended


def test_a_seed_is_named_once_even_where_its_episode_begins_at_the_edge() -> None:
    """T = 3 and terminated episodes of 3 steps: each begins in the row that two records share."""

    def script(_seed: int) -> tuple[int, bool, bool]:
        return 3, True, False

    headers = [headers[0] for headers in Run(script, lanes=1, length=3, unrolls=3).headers]
    assert [(header.environment_seed, header.episode_step) for header in headers] == [(0, 0), (1, 0), (2, 0)]
    assert [list(header.episode_seeds) for header in headers] == [[], [], []]


def test_seeds_of_very_many_episodes_are_cut_off_so_that_replay_takes_the_header() -> None:
    def script(_seed: int) -> tuple[int, bool, bool]:
        return 1, True, False

    length = EPISODE_SEEDS_MAX + 3
    run = Run(script, lanes=1, length=length, unrolls=1)
    assert list(run.headers[0][0].episode_seeds) == list(range(1, EPISODE_SEEDS_MAX + 1))


def never_ends(_seed: int) -> tuple[int, bool, bool]:
    return 10**9, True, False


def test_policy_changes_in_mid_unroll_are_spans() -> None:
    versions = [1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 1, 1]
    policies = {version: acting(version) for version in set(versions)}
    run = Run(never_ends, lanes=2, length=4, unrolls=3, source=ScriptedSource(lambda call: policies[versions[call]]))
    spans = [[(span.first_step, span.version) for span in headers[0].policies] for headers in run.headers]
    assert spans == [[(0, 1), (2, 2)], [(0, 2), (1, 3)], [(0, 3), (2, 1)]]
    for headers in run.headers:
        assert list(headers[0].policies) == list(headers[1].policies)
        assert all(span.digest == bytes([span.version]) * 32 for span in headers[0].policies)


def test_a_service_says_who_chose() -> None:
    """The identity that comes with the actions goes before what was known when they were asked for."""
    served = ScriptedPolicy(identity=PolicyIdentity(7, b"7" * 32))
    source = ScriptedSource(lambda _call: same)
    same = acting(1, served)
    run = Run(never_ends, lanes=1, length=3, unrolls=1, source=source)
    assert list(run.headers[0][0].policies) == [common_pb2.PolicySpan(first_step=0, version=7, digest=b"7" * 32)]


def test_an_inference_service_that_fails_is_waited_for_and_asked_again() -> None:
    def script(_seed: int) -> tuple[int, bool, bool]:
        return (3, *TRUNCATED)

    policy = UnavailableNowAndThen((0, 3, 4, 9))
    source = ScriptedSource(lambda _call: same)
    same = acting(1, policy)
    run = Run(script, lanes=2, length=4, unrolls=3, source=source)
    assert (policy.calls, source.waits) == (16, 4)
    check_against_reference(script, run, 2, 4, 3)


def test_episodes_are_counted_by_the_right_under_which_policies_acted() -> None:
    """T = 4, episodes of 3 steps; those of the seeds 1 to 3 violate."""

    def script(_seed: int) -> tuple[int, bool, bool]:
        return (3, *TERMINATED)

    tags = ["release.1"] * 3 + ["lease.1"] * 2 + ["release.1"] * 2 + ["lease.2"] * 3 + [""] * 5
    policies = {tag: dataclasses.replace(acting(1), tag=tag) for tag in set(tags)}
    run = Run(script, lanes=1, length=4, unrolls=3, source=ScriptedSource(lambda call: policies[tags[call]]))
    # Steps 0-2 by the release; 3-5 by a snapshot and the release; 6-8 by the release and a snapshot; 9-11 by a snapshot
    # of the same epoch, and a served policy.
    expected = ["release.1", "lease.1", "lease.2", "lease.2"]
    violating = [any(cost_of(seed, step) for step in range(1, 4)) for seed in range(4)]
    assert violating == [False, True, True, True]
    found: list[dict[str, float]] = [
        {name: value for name, value in headers[0].signals.items() if "." in name} for headers in run.headers
    ]
    assert found == [
        {f"{expected[0]}.episodes": 1.0},
        {f"{expected[1]}.episodes": 1.0, f"{expected[1]}.violating_episodes": 1.0},
        {f"{expected[2]}.episodes": 2.0, f"{expected[2]}.violating_episodes": 2.0},
    ]


def test_it_waits_without_an_authorised_policy_and_goes_on_where_it_was() -> None:
    answers = [acting(1), acting(1), None, None, None, acting(2)]

    def script(seed: int) -> tuple[int, bool, bool]:
        return (seed % 3 + 1, *TRUNCATED)

    source = ScriptedSource(lambda call: answers[min(call, 5)])
    run = Run(script, lanes=2, length=4, unrolls=3, source=source)
    assert source.waits == 3
    assert [(span.first_step, span.version) for span in run.headers[0][0].policies] == [(0, 1), (2, 2)]
    check_against_reference(script, run, 2, 4, 3)


def test_it_never_acts_without_a_policy_and_gives_up_in_the_end() -> None:
    source = ScriptedSource(lambda _call: None)
    with pytest.raises(NoAuthorisedPolicy, match="does not act without one"):
        Run(never_ends, lanes=1, length=4, unrolls=1, source=source, policy_wait_s_max=0.05)


def test_a_policy_for_another_environment_is_not_used() -> None:
    other = ScriptedPolicy(dataclasses.replace(SPEC, action=discrete(5)))
    with pytest.raises(PolicyMismatch, match=r"version 9 has 5 actions, the environment has 3 actions"):
        Run(never_ends, lanes=1, length=4, unrolls=1, source=ScriptedSource(lambda _call: acting(9, other)))


def test_a_stop_in_mid_unroll_sends_nothing_of_it() -> None:
    run = Run(never_ends, lanes=2, length=4, unrolls=0, stop_after_calls=6)
    assert len(run.columns) == 1
    assert run.source.calls == 6


def test_a_stop_ends_the_wait_for_a_policy() -> None:
    source = ScriptedSource(lambda _call: None)
    run = Run(never_ends, lanes=1, length=4, unrolls=0, source=source, stop_after_calls=5)
    assert run.columns == []
    assert run.rollout.statistics.policy_wait_s > 0


def test_records_are_offered_again_until_replay_takes_them() -> None:
    def script(_seed: int) -> tuple[int, bool, bool]:
        return (3, *TRUNCATED)

    writer = CollectingWriter(unavailable=(0, 1, 3))
    run = Run(script, lanes=2, length=4, unrolls=3, writer=writer)
    assert writer.calls == 6
    check_against_reference(script, run, 2, 4, 3)


def test_records_that_replay_does_not_take_before_a_stop_are_counted() -> None:
    writer = CollectingWriter(unavailable=range(1, 1000))
    run = Run(never_ends, lanes=2, length=4, unrolls=0, writer=writer, stop_after_calls=8)
    assert run.rollout.statistics.records == 2
    assert run.rollout.statistics.dropped_records == 2


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("reward", np.nan, "reward = nan in row 2 of lane 1"),
        ("logits", np.inf, "logits = inf in row 2 of lane 1"),
        ("observation", -np.inf, "observation = -inf in row 2 of lane 1"),
        ("cost", -1.0, "cost = -1.0 in row 2 of lane 1: it must be finite and not negative"),
    ],
)
def test_numbers_that_no_learner_could_use_are_not_sent(column: str, value: float, text: str) -> None:
    buffer = UnrollBuffer(SPEC, 3, 4)
    getattr(buffer, column)[2, 1] = value
    with pytest.raises(UnrollFault, match=text):
        buffer.payloads()


def test_times_are_those_of_the_first_and_the_last_step() -> None:
    run = Run(never_ends, lanes=1, length=4, unrolls=2)
    first, second = run.headers[0][0], run.headers[1][0]
    assert 0 < first.start_time_ns <= first.end_time_ns <= second.start_time_ns <= second.end_time_ns


@pytest.mark.parametrize(
    ("config", "length", "expected"),
    [
        # Episodes of 3 steps that are truncated: 3 rows and a boundary row, which keeps what the policy has by then.
        (EnvironmentConfig("catch", episode_steps_max=3), 1, [0, 1, 2, 3, 0, 1, 2, 3, 0]),
        (EnvironmentConfig("catch", episode_steps_max=3), 3, [0, 3, 2, 1, 0, 3]),
        # Episodes of 9 steps that terminate.
        (EnvironmentConfig("catch"), 4, [0, 4, 8, 3, 7, 2, 6, 1]),
    ],
)
def test_a_record_keeps_the_state_before_its_first_row(
    config: EnvironmentConfig, length: int, expected: list[int]
) -> None:
    """Of a policy that counts its steps: as many as it has made in the episode, in each lane."""
    records = record_run(config, lanes=2, length=length, unrolls=len(expected), state_size=3)
    for lane in range(2):
        states = [record.columns["state"] for record in records if record.header.lane == lane]
        assert [state.shape for state in states] == [(1, 3)] * len(expected)
        assert [state[0].tolist() for state in states] == [[float(steps)] * 3 for steps in expected]
