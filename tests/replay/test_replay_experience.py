"""Records taken apart into steps and put together into episodes, against streams written down by hand and at random."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from protos.common.v1 import common_pb2
from replay.episode_pieces import Piece, RowsContradictory, pieces_of, seeds_of
from replay.experience import EpisodeExperience, episodes, experiences
from replay.record import LoggedRecord
from replay.schema import PayloadLayout, SchemaError, schema_of
from tests.replay.listed_source import record_of, unroll_columns

TERMINATED, TRUNCATED = True, False


def stream(
    plan: list[tuple[int, bool]], length: int, *, lane: int = 0, first_position: int = 0, stride: int = 1
) -> list[LoggedRecord]:
    """One lane: episodes of so many steps that terminate or are truncated, cut into records of `length` rows.

    Step s of episode e has the observation [e, s], the action 100 * e + s, and the reward s + 1.
    """
    rows: list[dict[str, Any]] = []
    for episode, (steps, terminated) in enumerate(plan):
        for step in range(steps):
            last = step == steps - 1
            rows.append(
                {
                    "observation": [episode, step],
                    "action": 100 * episode + step,
                    "reward": step + 1.0,
                    "discount": 0.0 if last and terminated else 1.0,
                    "mask": True,
                    "at": (episode, step),
                }
            )
        if not terminated:
            boundary = {"observation": [episode, steps], "action": 0, "reward": 0.0, "discount": 0.0, "mask": False}
            rows.append({**boundary, "at": (episode, steps)})
    records: list[LoggedRecord] = []
    for start in range(0, len(rows) - length, length):
        here, beyond = rows[start : start + length], rows[start : start + length + 1]
        columns: dict[str, NDArray[Any]] = {
            "observation": np.array([row["observation"] for row in beyond], np.float32),
            "action": np.array([row["action"] for row in here], np.int32),
            "reward": np.array([row["reward"] for row in here], np.float32),
            "discount": np.array([row["discount"] for row in here], np.float32),
            "mask": np.array([row["mask"] for row in here], np.bool_),
        }
        episode, step = here[0]["at"]
        records.append(
            record_of(
                columns,
                position=first_position + stride * len(records),
                lane=lane,
                environment_seed=1000 + episode,
                episode=episode,
                episode_step=step,
                episode_seeds=[1000 + row["at"][0] for row in here[1:] if row["at"][1] == 0],
            )
        )
    return records


def test_the_pieces_of_a_record_with_every_ending() -> None:
    mask = np.array([0, 1, 1, 1, 0, 1, 1, 1], np.bool_)
    discount = np.array([0, 1, 0, 1, 0, 0, 1, 1], np.float32)
    assert pieces_of(mask, discount, continues=True) == [
        Piece(0, 0, "truncated", 0, True),
        Piece(1, 2, "terminated", 1, False),
        Piece(3, 1, "truncated", 2, False),
        Piece(5, 1, "terminated", 3, False),
        Piece(6, 2, "open", 4, False),
    ]


@pytest.mark.parametrize(
    ("mask", "discount", "continues", "row"),
    [([0, 1], [0, 1], False, 0), ([1, 0, 0, 1], [1, 0, 0, 1], True, 2), ([1, 1, 0], [1, 0, 0], True, 2)],
)
def test_boundary_rows_where_none_can_be(mask: list[int], discount: list[int], continues: bool, row: int) -> None:
    with pytest.raises(RowsContradictory) as caught:
        pieces_of(np.array(mask, np.bool_), np.array(discount, np.float32), continues)
    assert caught.value.row == row


def test_seeds_go_to_the_pieces_that_begin_inside() -> None:
    pieces = pieces_of(np.ones(6, np.bool_), np.array([1, 0, 1, 0, 1, 0], np.float32), True)
    assert seeds_of(7, [8, 9], pieces) == [7, 8, 9]
    assert seeds_of(7, [8], pieces) == [7, 8, None]


def test_steps_of_a_record() -> None:
    """Five rows: the last step of episode 0, its boundary row, episode 1 with two steps, and a step of episode 2."""
    (first, second, *_) = stream([(6, TRUNCATED), (2, TERMINATED), (9, TERMINATED)], 5)
    assert second.header.episode_step == 5
    steps = list(experiences(second))
    assert [(step.row, step.episode, step.episode_step) for step in steps] == [
        (0, 0, 5),
        (2, 1, 0),
        (3, 1, 1),
        (4, 2, 0),
    ]
    assert [np.asarray(step.state).tolist() for step in steps] == [[0, 5], [1, 0], [1, 1], [2, 0]]
    assert [int(step.action) for step in steps] == [5, 100, 101, 200]
    assert [step.reward for step in steps] == [6.0, 1.0, 2.0, 1.0]
    assert [(step.terminated, step.truncated) for step in steps] == [
        (False, True),
        (False, False),
        (True, False),
        (False, False),
    ]
    following = [None if step.next_state is None else np.asarray(step.next_state).tolist() for step in steps]
    assert following == [[0, 6], [1, 1], None, [2, 1]]
    assert [step.discount for step in steps] == [1.0, 1.0, 0.0, 1.0]
    assert [(step.cost, step.log_prob, step.tools) for step in steps] == [(0.0, None, {})] * 4
    assert len(list(experiences(first))) == 5


def test_policies_probabilities_costs_tools_and_signals() -> None:
    columns = unroll_columns(4)
    columns["cost"][2] = 0.5
    columns["tool/id"] = np.array([-1, 3, -1, 2], np.int32)
    spans = [common_pb2.PolicySpan(first_step=2, version=9, digest=bytes(32))]
    record = record_of(columns, signals={"tool/errors": 1.0}, marks={"success": 1.0}, policies=spans)
    steps = list(experiences(record))
    assert [step.policy_version for step in steps] == [0, 0, 9, 9]
    assert [step.log_prob for step in steps] == columns["log_prob"].tolist()
    assert [step.cost for step in steps] == [0.0, 0.0, 0.5, 0.0]
    assert [int(step.tools["id"]) for step in steps] == [-1, 3, -1, 2]
    assert dict(steps[0].record.signals) == {"tool/errors": 1.0, "success": 1.0}
    (episode,) = episodes([record])
    assert episode.tools["id"].tolist() == [-1, 3, -1, 2]
    assert episode.signals == {"tool/errors": 1.0, "success": 1.0}


def test_observations_in_a_tree() -> None:
    columns = {
        "observation/position": np.arange(6, dtype=np.float32).reshape(3, 2),
        "observation/text": np.arange(3, dtype=np.int32),
        "action": np.array([0, 1], np.int32),
        "reward": np.zeros(2, np.float32),
    }
    first, second = experiences(record_of(columns))
    assert isinstance(first.state, dict)
    assert {name: value.tolist() for name, value in first.state.items()} == {"position": [0, 1], "text": 0}
    assert isinstance(second.next_state, dict)
    assert second.next_state["position"].tolist() == [4, 5]


def test_a_record_without_a_row_beyond_its_steps_has_no_last_next_state() -> None:
    columns = unroll_columns(3)
    columns["observation"] = columns["observation"][:3]
    *_, last = experiences(record_of(columns))
    assert last.next_state is None
    assert not last.terminated


def check_episode(episode: EpisodeExperience, plan: list[tuple[int, bool]]) -> None:
    steps, terminated = plan[episode.episode]
    first, count = episode.first_step, episode.steps
    assert episode.seed == 1000 + episode.episode
    assert episode.columns["action"].tolist() == [100 * episode.episode + first + step for step in range(count)]
    assert episode.episode_return == sum(first + step + 1 for step in range(count))
    states = episode.columns["observation"].tolist()
    beyond = 0 if episode.ending == "terminated" else 1
    assert states == [[episode.episode, first + step] for step in range(count + beyond)]
    if episode.ending != "incomplete":
        assert first + count == steps
        assert episode.ending == ("terminated" if terminated else "truncated")


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(plan=st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=12), length=st.integers(1, 7))
def test_any_episodes_cut_into_records_of_any_length(plan: list[tuple[int, bool]], length: int) -> None:
    records = stream(plan, length)
    found = list(episodes(records))
    for episode in found:
        check_episode(episode, plan)
        assert episode.first_step == 0
    assert [episode.episode for episode in found] == list(range(len(found)))
    assert all(episode.complete for episode in found[:-1])
    assert sum(episode.steps for episode in found) == sum(len(list(experiences(record))) for record in records)
    for episode in found:
        steps = [step for record in records for step in experiences(record) if step.episode == episode.episode]
        positions = list(dict.fromkeys(step.record.position for step in steps))
        # Its boundary row may be in one record more.
        assert list(episode.positions[: len(positions)]) == positions


def test_lanes_come_side_by_side() -> None:
    plans = [[(3, TERMINATED)] * 10, [(4, TRUNCATED)] * 8, [(50, TERMINATED)]]
    lanes = [stream(plan, 5, lane=lane, first_position=lane, stride=3) for lane, plan in enumerate(plans)]
    log = sorted((record for lane in lanes for record in lane), key=lambda record: record.position)
    found = list(episodes(log))
    for episode in found:
        check_episode(episode, plans[episode.lane])
    assert [sum(each.lane == lane and each.complete for each in found) for lane in range(3)] == [8, 7, 0]


def test_a_gap_ends_an_episode_as_incomplete() -> None:
    plan = [(12, TERMINATED), (4, TERMINATED)]
    records = stream(plan, 3)
    found = list(episodes([records[0], *records[2:]]))
    assert [(each.episode, each.first_step, each.steps, each.ending) for each in found] == [
        (0, 0, 3, "incomplete"),
        (0, 6, 6, "terminated"),
        (1, 0, 3, "incomplete"),
    ]
    for episode in found:
        check_episode(episode, plan)
    assert not found[1].complete


def test_another_run_of_the_same_actor_is_another_lane() -> None:
    records = stream([(12, TERMINATED)], 3)
    origin = common_pb2.Origin.FromString(records[1].origin.SerializeToString())
    origin.run_id = "run-1"
    records[1] = LoggedRecord(1, records[1].header, origin, records[1].payload)
    assert [each.ending for each in episodes(records)] == ["incomplete"] * 3


def test_memory_is_bounded() -> None:
    """Of an episode longer than what may be held, the parts come one after another."""
    plan = [(100, TERMINATED), (1, TERMINATED), (1, TERMINATED)]
    found = list(episodes(stream(plan, 5), steps_max=12))
    parts = [each for each in found if each.episode == 0]
    assert [each.steps for each in parts] == [15] * 6 + [10]
    assert [each.first_step for each in parts] == [0, 15, 30, 45, 60, 75, 90]
    for episode in found:
        check_episode(episode, plan)


def test_the_lane_idle_for_longest_is_given_up_first() -> None:
    lanes = [stream([(50, TERMINATED)], 5, lane=lane) for lane in range(3)]
    log = [lanes[0][0], lanes[1][0], lanes[0][1], lanes[2][0]]
    found = list(episodes(log, steps_max=15))
    assert [(each.lane, each.steps) for each in found] == [(1, 5), (0, 10), (2, 5)]


def test_arrays_cannot_be_written_to_where_they_are_the_record_itself() -> None:
    (record,) = [record_of(unroll_columns(3))]
    state = next(iter(experiences(record))).state
    assert isinstance(state, np.ndarray)
    with pytest.raises(ValueError, match="read-only"):
        state[0] = 1.0
    digest = hashlib.sha256(PayloadLayout(schema_of(record.columns, 3)).encode(record.columns)).digest()
    assert digest == record.header.payload_digest


@pytest.mark.parametrize("name", ["action", "reward"])
def test_a_record_that_holds_no_experiences_is_said(name: str) -> None:
    columns = unroll_columns(3)
    del columns[name]
    with pytest.raises(SchemaError, match=f"position 7 has no column '{name}'"):
        next(experiences(record_of(columns, position=7, steps=3)))
