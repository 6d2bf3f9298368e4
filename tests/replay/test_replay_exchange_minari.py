"""Minari data sets as records: what happened in them, where it says it comes from, and that it comes once."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from protos.common.v1 import common_pb2
from replay.exchange import minari as minari_records
from replay.exchange.errors import ImportRefused
from replay.exchange.intake import import_records
from replay.exchange.minari import MinariRecords
from replay.exchange.minari_dataset import MinariDataset
from replay.exchange.sink import StoreSink
from replay.experience import EpisodeExperience, episodes
from replay.memory_store import MemoryStore
from replay.payload_encoding import RAW, ZSTD
from replay.provenance import check_batch, check_origin
from replay.record import LoggedRecord
from replay.store import StoreSettings
from tests.replay.made_dataset import BOX, TREE, made_buffers, made_dataset

LENGTHS = (5, 3, 1, 7, 2, 6)


@pytest.fixture(autouse=True)
def collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty collection of data sets."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def read(path: Path | str, **settings: Any) -> list[LoggedRecord]:
    """The records of a data set, all of which replay would take."""
    records = MinariRecords(MinariDataset(str(path)), actor_id="minari", **settings)
    found = list(records)
    check_batch([each.record for each in found], check_origin(records.origin))
    return [
        LoggedRecord(position, each.record.header, each.origin, each.record.payload)
        for position, each in enumerate(found)
    ]


def assert_is(episode: EpisodeExperience, buffer: Any) -> None:
    """That an episode of the log is one of the data set, with the observations before its end."""
    k = len(buffer.rewards)
    assert episode.steps == k
    assert np.array_equal(episode.columns["observation"][:k], buffer.observations[:k])
    assert np.array_equal(episode.columns["action"], buffer.actions)
    assert np.array_equal(episode.columns["reward"], np.float32(buffer.rewards))
    assert not episode.columns["cost"].any()
    assert episode.ending == ("terminated" if buffer.terminations[-1] else "truncated")
    if episode.ending == "truncated":
        assert np.array_equal(episode.columns["observation"][k], buffer.observations[k])


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
def test_an_episode_is_a_record(data_format: str) -> None:
    buffers = made_buffers(LENGTHS)
    records = read(made_dataset(buffers, data_format=data_format))
    assert [record.header.steps for record in records] == [
        k + (not buffer.terminations[-1]) for k, buffer in zip(LENGTHS, buffers, strict=True)
    ]
    found = list(episodes(records))
    assert len(found) == len(buffers)
    for number, (episode, buffer) in enumerate(zip(found, buffers, strict=True)):
        assert (episode.episode, episode.seed, episode.complete) == (number, buffer.seed, True)
        assert_is(episode, buffer)


def test_the_state_after_a_terminated_step_is_kept_in_the_row_beyond() -> None:
    buffers = made_buffers([4])
    (record,) = read(made_dataset(buffers))
    assert np.array_equal(record.columns["observation"], buffers[0].observations)


@pytest.mark.parametrize("rows", [1, 2, 4, 5, 9])
def test_records_of_equal_length_are_what_an_actor_would_have_sent(rows: int) -> None:
    buffers = made_buffers(LENGTHS)
    path = made_dataset(buffers)
    dataset = MinariRecords(MinariDataset(str(path)), actor_id="minari", steps_per_record=rows)
    records = [LoggedRecord(i, each.record.header, each.origin, each.record.payload) for i, each in enumerate(dataset)]
    assert {record.header.steps for record in records} == {rows}
    found = list(episodes(records))
    assert sum(episode.steps for episode in found) + dataset.left_over == sum(LENGTHS)
    for episode in found:
        if episode.complete:
            assert episode.seed in (buffers[episode.episode].seed, None)
            assert_is(episode, buffers[episode.episode])
    assert sum(episode.complete for episode in found) >= len(buffers) - 2
    # Each row is followed by the next one: that is where its bootstrap comes from.
    for before, after in pairwise(records):
        assert np.array_equal(before.columns["observation"][-1], after.columns["observation"][0])


def test_headers_say_where_in_an_episode_a_record_begins() -> None:
    path = made_dataset(made_buffers([3, 4, 2]))
    headers = [record.header for record in read(path, steps_per_record=2)]
    # Rows: 3 of episode 0, 4 and a boundary of 1, 2 and a boundary of 2, of which the last row fills no record.
    assert [(each.sequence, each.episode, each.episode_step, each.environment_seed) for each in headers] == [
        (0, 0, 0, 10),
        (1, 0, 2, 10),
        (2, 1, 1, 11),
        (3, 1, 3, 11),
        (4, 2, 0, 12),
    ]
    assert [list(each.episode_seeds) for each in headers] == [[], [11], [], [], []]


def test_signals_are_those_of_an_actor() -> None:
    buffers = made_buffers([3, 4, 2])
    path = made_dataset(buffers)
    for rows in (0, 1, 3, 5):
        signals = [dict(record.header.signals) for record in read(path, steps_per_record=rows)]
        assert all(each.keys() == signals[0].keys() for each in signals)
        totals = {name: sum(each[name] for each in signals) for name in signals[0]}
        if rows == 0:
            expected = sum(float(np.float32(buffer.rewards).sum(dtype=np.float64)) for buffer in buffers)
            assert totals == {
                "episodes": 3.0,
                "return": pytest.approx(expected),
                "episode_steps": 9.0,
                "violating_episodes": 0.0,
                "steps": 9.0,
                "cost": 0.0,
            }
        assert totals["episodes"] >= 2.0


def test_long_episodes_are_several_records(monkeypatch: pytest.MonkeyPatch) -> None:
    buffers = made_buffers([11, 9])
    path = made_dataset(buffers)
    row_bytes = 2 * 4 + 4 + 4 + 4 + 4 + 1
    monkeypatch.setattr(minari_records, "RECORD_BYTES_MAX", 4 * row_bytes + 2 * 4)
    records = read(path)
    assert [record.header.steps for record in records] == [4, 4, 3, 4, 4, 2]
    assert [record.header.episode_step for record in records] == [0, 4, 8, 0, 4, 8]
    for episode, buffer in zip(episodes(records), buffers, strict=True):
        assert_is(episode, buffer)


def test_a_boundary_row_may_be_a_record_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    buffers = made_buffers([4], ends=["truncated"])
    monkeypatch.setattr(minari_records, "RECORD_BYTES_MAX", 4 * 25 + 8)
    records = read(made_dataset(buffers))
    assert [(record.header.steps, record.header.episode_step) for record in records] == [(4, 0), (1, 4)]
    (episode,) = episodes(records)
    assert_is(episode, buffers[0])


def test_an_end_in_the_midst_begins_another_episode() -> None:
    (buffer,) = made_buffers([6])
    buffer.terminations[1] = True
    buffer.truncations[3] = True
    found = list(episodes(read(made_dataset([buffer]))))
    assert [(each.episode, each.steps, each.ending, each.seed) for each in found] == [
        (0, 2, "terminated", 10),
        (1, 2, "truncated", 0),
        (2, 2, "terminated", 0),
    ]


def test_trees_are_flattened_and_types_are_kept() -> None:
    action = spaces.Box(-1, 1, (2, 2), np.float32)
    buffers = made_buffers([4], observation=TREE, action=action)
    (record,) = read(made_dataset(buffers, observation=TREE, action=action))
    seen, columns = buffers[0].observations, record.columns
    assert isinstance(seen, dict)
    assert list(columns) == [
        "observation/position",
        "observation/where/0",
        "observation/where/1",
        "action",
        "reward",
        "cost",
        "discount",
        "mask",
    ]
    assert columns["observation/position"].dtype == np.float64
    assert np.array_equal(columns["observation/position"], seen["position"])
    assert np.array_equal(columns["observation/where/0"], seen["where"][0])
    assert np.array_equal(columns["observation/where/1"], seen["where"][1])
    assert np.array_equal(columns["action"], buffers[0].actions)
    assert columns["reward"].dtype == np.float32


def test_a_discrete_action_is_int32_as_an_actor_writes_it() -> None:
    (record,) = read(made_dataset(made_buffers([4])))
    assert record.columns["action"].dtype == np.int32


def test_pixels_are_compressed_where_that_saves_something() -> None:
    image = spaces.Box(0, 255, (16, 16, 3), np.uint8)
    buffers = made_buffers([30], observation=image)
    buffers[0].observations[:, 4:] = 7
    (record,) = read(made_dataset(buffers, observation=image))
    assert record.header.encoding == ZSTD
    assert np.array_equal(record.columns["observation"], buffers[0].observations)
    (small,) = read(made_dataset(made_buffers([3]), name="made/small-v0"))
    assert small.header.encoding == RAW


def test_provenance(tmp_path: Path) -> None:
    path = made_dataset(made_buffers([4], seeds=[2**63]), name="made/maze/human-v3")
    (record,) = read(path)
    origin, header = record.origin, record.header
    metadata = json.loads((path / "metadata.json").read_text())
    dataset = MinariDataset(str(path)).dataset
    assert (origin.actor_id, origin.environment.id) == ("minari", "CartPole-v1")
    assert origin.environment.version == "gymnasium>=1.0, maze==2"
    assert origin.source_revision == f"minari {metadata['minari_version']} made/maze/human-v3"
    assert header.task_id == "made/maze/human-v3"
    assert header.environment_seed == 2**63
    assert list(header.policies) == [common_pb2.PolicySpan(first_step=0, version=0, digest=dataset.digest)]
    assert (header.start_time_ns, header.end_time_ns, header.lane) == (0, 0, 0)
    assert origin.run_id.startswith("minari-")
    # From anywhere, under any path: what counts is what is in it.
    shutil.copytree(path, tmp_path / "copy")
    assert read(tmp_path / "copy")[0].origin == origin


def test_another_content_or_another_cut_is_another_run(tmp_path: Path) -> None:
    path = made_dataset(made_buffers([4]))
    runs = {read(path)[0].origin.run_id, read(path, steps_per_record=2)[0].origin.run_id}
    shutil.rmtree(path.parent)
    runs.add(read(made_dataset(made_buffers([5])))[0].origin.run_id)
    assert len(runs) == 3


def test_an_episode_without_a_seed_says_none_that_is_another_s() -> None:
    path = made_dataset(made_buffers([3, 3, 3, 3], seeds=[None, 1, None, 2], ends=["terminated"]))
    assert [record.header.environment_seed for record in read(path)] == [0, 1, 0, 2]
    (record,) = read(path, steps_per_record=12)
    # Those after one that is not known could no longer be told apart.
    assert list(record.header.episode_seeds) == [1]


def test_a_data_set_without_environment_is_named_by_itself() -> None:
    path = made_dataset(made_buffers([4]))
    metadata = json.loads((path / "metadata.json").read_text())
    del metadata["env_spec"], metadata["requirements"]
    (path / "metadata.json").write_text(json.dumps(metadata))
    environment = read(path)[0].origin.environment
    assert (environment.id, environment.version, len(environment.code_digest)) == ("made/data-v0", "unknown", 32)


def test_importing_twice_adds_nothing() -> None:
    path = made_dataset(made_buffers(LENGTHS))
    sink = StoreSink(MemoryStore(StoreSettings()))

    def imported(episodes_max: int = 0) -> int:
        records = MinariRecords(MinariDataset(str(path)), actor_id="minari", episodes_max=episodes_max)
        return import_records(records, sink).inserted

    assert [imported(2), imported(), imported()] == [2, 4, 0]


def test_limit_is_in_episodes() -> None:
    path = made_dataset(made_buffers(LENGTHS))
    records = MinariRecords(MinariDataset(str(path)), actor_id="minari", episodes_max=3)
    assert len(list(records)) == records.episodes == 3


@pytest.mark.parametrize("named", ["directory", "data", "id"])
def test_a_data_set_may_be_named_in_three_ways(named: str) -> None:
    path = made_dataset(made_buffers([4]))
    source = {"directory": str(path.parent), "data": str(path), "id": "made/data-v0"}[named]
    assert MinariDataset(source).episodes == 1


def test_what_is_not_here_is_said_with_what_is(tmp_path: Path) -> None:
    for number in range(12):
        made_dataset(made_buffers([1]), name=f"made/n{number:02}-v0")
    with pytest.raises(ImportRefused) as refused:
        MinariDataset("other/data-v0")
    said = str(refused.value)
    assert said.startswith("other/data-v0 is neither a directory nor a Minari data set in ")
    assert "made/n00-v0, made/n01-v0" in said
    assert said.endswith("made/n09-v0, ...; --download fetches one")
    assert "\n" not in said


def test_a_directory_that_is_no_data_set_is_said(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match="is no Minari data set"):
        MinariDataset(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("metadata.json", b"{", "cannot be read: Expecting property name"),
        ("metadata.json", b"{}", "cannot be read"),
        ("main_data.hdf5", b"no HDF5", "cannot be read"),
        ("main_data.hdf5", None, "cannot be read: No data found"),
    ],
)
def test_a_broken_data_set_is_said_in_one_line(file: str, content: bytes | None, said: str) -> None:
    path = made_dataset(made_buffers([4]))
    if content is None:
        (path / file).unlink()
    else:
        (path / file).write_bytes(content)
    with pytest.raises(ImportRefused, match=said) as refused:
        read(path)
    assert "\n" not in str(refused.value)


def test_metadata_that_promises_more_is_refused() -> None:
    path = made_dataset(made_buffers([4]))
    metadata = json.loads((path / "metadata.json").read_text())
    (path / "metadata.json").write_text(json.dumps({**metadata, "total_episodes": 2}))
    with pytest.raises(ImportRefused, match="cannot be read"):
        read(path)


def test_a_version_of_minari_s_that_is_not_known_is_said() -> None:
    path = made_dataset(made_buffers([4]))
    metadata = json.loads((path / "metadata.json").read_text())
    (path / "metadata.json").write_text(json.dumps({**metadata, "minari_version": "99.0"}))
    with pytest.raises(ImportRefused, match=r"does not support the dataset generated by Minari 99\.0"):
        read(path)


def test_a_space_that_no_column_holds_is_refused() -> None:
    text = spaces.Dict({"mission": spaces.Text(5)})
    path = made_dataset(made_buffers([4], observation=text), observation=text)
    with pytest.raises(ImportRefused, match="observation/mission is a Text, which no column can hold"):
        read(path)


def test_a_name_that_no_column_has_is_refused() -> None:
    odd = spaces.Dict({"two words": BOX})
    path = made_dataset(made_buffers([4], observation=odd), observation=odd)
    with pytest.raises(ImportRefused, match="column name 'observation/two words' must match"):
        read(path)


def test_a_record_that_would_be_too_large_is_refused() -> None:
    with pytest.raises(ImportRefused, match=r"a record of 10000000 rows of this data set takes \d+ bytes"):
        read(made_dataset(made_buffers([4])), steps_per_record=10_000_000)


def test_an_empty_data_set_is_refused() -> None:
    path = made_dataset(made_buffers([4]))
    metadata = json.loads((path / "metadata.json").read_text())
    (path / "metadata.json").write_text(json.dumps({**metadata, "total_episodes": 0, "total_steps": 0}))
    with pytest.raises(ImportRefused, match="has no step"):
        read(path)


def test_download_asks_minari_and_says_why_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def download(name: str) -> None:
        asked.append(name)
        if len(asked) > 1:
            made_dataset(made_buffers([4]), name=name)
            return
        raise ConnectionError("cannot reach the server\nmore about it")

    monkeypatch.setattr("minari.download_dataset", download)
    with pytest.raises(ImportRefused, match=r"made/far-v0 cannot be fetched: cannot reach the server$"):
        MinariDataset("made/far-v0", download=True)
    assert MinariDataset("made/far-v0", download=True).steps == 4
    assert MinariDataset("made/far-v0", download=True).steps == 4
    assert asked == ["made/far-v0"] * 2


def test_nothing_is_fetched_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minari.download_dataset", lambda name: pytest.fail("fetched"))
    with pytest.raises(ImportRefused, match="--download fetches one"):
        MinariDataset("made/far-v0")


def test_a_name_that_no_file_can_have_is_said() -> None:
    with pytest.raises(ImportRefused, match="File name too long"):
        MinariDataset("x" * 5000)


def test_what_minari_prints_is_not_output(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def download(name: str) -> None:
        print("Downloading")
        made_dataset(made_buffers([4]), name=name)

    monkeypatch.setattr("minari.download_dataset", download)
    assert MinariDataset("made/far-v0", download=True).steps == 4
    assert capsys.readouterr().out == ""
