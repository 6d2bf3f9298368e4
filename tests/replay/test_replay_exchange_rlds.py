"""Episode exports: the semantics of RLDS, episodes that run through several records, and what is missing of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from replay.exchange import rlds
from replay.exchange.errors import ExportRefused
from replay.exchange.rlds import export_rlds
from replay.record import LoggedRecord
from tests.replay.exchanged_records import Arrays, MadeEpisode, any_record, lane_records, left_in, logged, made_episodes

EPISODES = made_episodes([5, 3, 1, 8, 4, 6, 2])
OTHERS = made_episodes([2, 9, 5, 8, 5], 1)


def made() -> list[LoggedRecord]:
    """Two lanes of a run, in turn."""
    return logged(chain(*zip(lane_records(EPISODES, 4), lane_records(OTHERS, 4, lane=1), strict=False)))


def exported(records: list[LoggedRecord], directory: Path) -> list[dict[str, Any]]:
    export_rlds(records, directory)
    rows: list[dict[str, Any]] = pq.read_table(directory / "episodes.parquet").to_pylist()
    return rows


def values(steps: list[dict[str, Any]], name: str) -> list[Any]:
    return [step[name] for step in steps]


def assert_is(row: dict[str, Any], episode: MadeEpisode) -> None:
    """That a row is all of an episode, in RLDS's terms."""
    steps, k = row["steps"], episode.steps
    assert len(steps) == k + 1
    assert values(steps[:k], "observation") == episode.observation[:k].tolist()
    assert values(steps[:k], "action") == episode.action.tolist()
    assert values(steps[:k], "reward") == episode.reward.tolist()
    assert values(steps[:k], "discount") == [1.0] * (k - 1) + [0.0 if episode.terminated else 1.0]
    assert values(steps, "is_first") == [True] + [False] * k
    assert values(steps, "is_last") == [False] * k + [True]
    assert values(steps, "is_terminal") == [False] * k + [episode.terminated]
    last = steps[k]
    assert (last["action"], last["reward"], last["discount"], last["policy_version"]) == (0, 0.0, 0.0, 0)
    # A record keeps no state that has no future.
    assert last["observation"] == ([0.0, 0.0] if episode.terminated else episode.observation[k].tolist())
    assert row["final_observation"] is not episode.terminated
    assert (row["length"], row["seed"], row["complete"]) == (k, episode.seed, True)
    assert row["return"] == pytest.approx(float(episode.reward.sum(dtype=np.float64)))
    assert row["ending"] == ("terminated" if episode.terminated else "truncated")


def test_whole_episodes_are_what_happened(tmp_path: Path) -> None:
    rows = exported(made(), tmp_path / "out")
    complete = [row for row in rows if row["complete"]]
    assert {(row["lane"], row["episode"]) for row in complete} == {
        *((0, number) for number in range(5)),
        *((1, number) for number in range(4)),
    }
    for row in complete:
        assert_is(row, (EPISODES, OTHERS)[row["lane"]][row["episode"]])
    assert [row["episode_id"] for row in complete if row["episode"] == 2] == ["actor-0/run-0/0/2", "actor-0/run-0/1/2"]


def test_episodes_say_which_records_they_run_through(tmp_path: Path) -> None:
    rows = {row["episode"]: row for row in exported(logged(lane_records(EPISODES, 4)), tmp_path / "out")}
    assert rows[0]["positions"] == [0, 1]
    assert rows[3]["positions"] == [2, 3, 4]
    assert values(rows[0]["steps"], "policy_version") == [0, 0, 1, 1, 4, 0]


def test_what_the_end_of_the_records_cuts_is_incomplete(tmp_path: Path) -> None:
    row = next(row for row in exported(made()[:1], tmp_path / "out") if row["episode"] == 0)
    assert (row["length"], row["ending"], row["complete"], row["final_observation"]) == (4, "incomplete", False, True)
    last = row["steps"][-1]
    assert last["observation"] == EPISODES[0].observation[4].tolist()
    assert (last["is_last"], last["is_terminal"]) == (True, False)


def test_a_gap_ends_an_episode_and_the_rest_is_a_row_of_its_own(tmp_path: Path) -> None:
    records = logged(lane_records([made_episodes([12])[0], *EPISODES], 4))
    assert [(record.header.episode, record.header.episode_step) for record in records[:3]] == [(0, 0), (0, 4), (0, 8)]
    rows = exported([records[0], records[2]], tmp_path / "out")
    assert [row["episode_id"] for row in rows] == ["actor-0/run-0/0/0", "actor-0/run-0/0/0+8"]
    assert [(row["length"], row["first_step"], row["ending"]) for row in rows] == [
        (4, 0, "incomplete"),
        (4, 8, "terminated"),
    ]
    assert values(rows[1]["steps"], "is_first") == [False] * 5
    assert [row["complete"] for row in rows] == [False, False]


def test_trees_are_structs_and_other_columns_come_along(tmp_path: Path) -> None:
    columns: Arrays = {
        "observation/image": np.arange(3 * 2 * 2, dtype=np.uint8).reshape(3, 2, 2),
        "observation/goal": np.arange(3, dtype=np.int64),
        "action/move": np.array([1, 2], np.int32),
        "reward": np.array([1.0, 2.0], np.float32),
        "tool/id": np.array([7, 8], np.int32),
        "is_first": np.array([5, 6], np.int32),
    }
    (row,) = exported([any_record(columns, 2)], tmp_path / "out")
    assert row["steps"] == [
        {
            "observation": {"image": columns["observation/image"][step].reshape(-1).tolist(), "goal": step},
            "action": {"move": (1, 2, 0)[step]},
            "reward": (1.0, 2.0, 0.0)[step],
            "tool/id": (7, 8, 0)[step],
            "column/is_first": (5, 6, 0)[step],
            "discount": (1.0, 1.0, 0.0)[step],
            "policy_version": (3, 3, 0)[step],
            "is_first": step == 0,
            "is_last": step == 2,
            "is_terminal": False,
        }
        for step in range(3)
    ]


@pytest.mark.parametrize("missing", ["observation", "action", "reward"])
def test_a_schema_without_what_a_step_needs_is_refused(tmp_path: Path, missing: str) -> None:
    columns = {name: np.zeros(2, np.float32) for name in ("observation", "action", "reward") if name != missing}
    with pytest.raises(ExportRefused, match=f"no column '{missing}'"):
        export_rlds([any_record(columns, 2)], tmp_path / "out")
    assert left_in(tmp_path) == []


def test_two_schemas_are_refused(tmp_path: Path) -> None:
    columns = {name: np.zeros(2, np.float32) for name in ("observation", "action", "reward")}
    records = [any_record(columns, 2), any_record({**columns, "extra": np.zeros(2, np.float32)}, 2, position=1)]
    with pytest.raises(ExportRefused, match="record 1 of Test-v0 has another schema"):
        export_rlds(records, tmp_path / "out")
    assert left_in(tmp_path) == []


def test_groups_are_bounded_and_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = exported(made(), tmp_path / "one")
    monkeypatch.setattr(rlds, "GROUP_BYTES_MAX", 100)
    assert exported(made(), tmp_path / "many") == one
    with pq.ParquetFile(tmp_path / "many" / "episodes.parquet") as many:
        assert many.num_row_groups > 2


def test_episodes_in_progress_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given up goes on in a row of its own: no step is lost, none is told twice."""
    records = [
        record
        for lane in range(6)
        for record in logged(lane_records([made_episodes([40])[0]], 4, lane=lane), first_position=100 * lane)
    ]
    records.sort(key=lambda record: record.header.episode_step)
    monkeypatch.setattr(rlds, "HELD_BYTES_MAX", 400)
    rows = exported(records, tmp_path / "out")
    assert len(rows) > 6
    for lane in range(6):
        parts = sorted((row["first_step"], row["length"]) for row in rows if row["lane"] == lane)
        assert [first for first, _ in parts] == [0, *np.cumsum([length for _, length in parts])[:-1]]


def test_no_record_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(ExportRefused, match="no record"):
        export_rlds([], tmp_path / "out")
    assert left_in(tmp_path) == []


def test_what_is_there_is_said_before_anything_is_read(tmp_path: Path) -> None:
    def records() -> Iterator[LoggedRecord]:
        yield from made()
        read.append(True)

    read: list[bool] = []
    (tmp_path / "out").mkdir()
    with pytest.raises(ExportRefused, match="exists already"):
        export_rlds(records(), tmp_path / "out")
    assert read == []
