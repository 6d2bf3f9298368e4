"""Records of real rollouts are verified as they are, and found out as soon as anything in them is forged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from actors import verification
from actors.config import EnvironmentConfig
from actors.environment import EnvironmentUnsupported
from actors.verification import VerificationError, VerificationReport, is_sampled, verify
from protos.common.v1 import common_pb2
from replay.filters import FilterError
from replay.payload_encoding import ZSTD
from replay.record import LoggedRecord
from tests.actors.recorded_runs import interleaved, record_run, with_column, with_header
from tests.replay.listed_source import ListedSource

CARTPOLE = EnvironmentConfig("cartpole")
SHORT_CARTPOLE = EnvironmentConfig("cartpole", episode_steps_max=10)
CATCH = EnvironmentConfig("catch")
SHORT_CATCH = EnvironmentConfig("catch", episode_steps_max=4)
BREAKOUT = EnvironmentConfig("minatar:breakout", episode_steps_max=30)
ACROBOT = EnvironmentConfig("gym:Acrobot-v1", episode_steps_max=25)
FROZEN_LAKE = EnvironmentConfig("gym:FrozenLake-v1")


def verified(records: Sequence[LoggedRecord], config: EnvironmentConfig) -> tuple[VerificationReport, ListedSource]:
    source = ListedSource(records)
    return verify(source, config), source


@pytest.mark.parametrize("length", [1, 2, 7, 20])
@pytest.mark.parametrize(
    "config",
    [CARTPOLE, SHORT_CARTPOLE, CATCH, SHORT_CATCH, BREAKOUT, ACROBOT, FROZEN_LAKE],
    ids=lambda config: f"{config.name}-{config.episode_steps_max}",
)
def test_untouched_records_are_verified(config: EnvironmentConfig, length: int) -> None:
    """Terminated and truncated episodes, over edges of records of every length, in several lanes, to the last bit."""
    records = record_run(config, lanes=3, length=length, unrolls=max(4, 60 // length))
    report, source = verified(records, config)
    assert (report.verified, report.mismatched, report.unverifiable) == (len(records), 0, 0), report
    assert report.records == len(records)
    assert report.error_max == 0.0
    assert report.steps == sum(int(record.columns["mask"].sum()) for record in records), "each step is made once"
    for record in records:
        assert source.marks(record.position) == {"verified": 1.0, "mismatch": 0.0, "verification_error": 0.0}


def test_records_of_several_actors_and_seeds_in_one_log() -> None:
    runs = [record_run(SHORT_CARTPOLE, actor_id=f"actor-{seed}", run_seed=seed) for seed in range(4)]
    report, _ = verified(interleaved(*runs), SHORT_CARTPOLE)
    assert (report.verified, report.mismatched) == (sum(map(len, runs)), 0)


def test_compressed_records_are_verified_and_found_out_alike() -> None:
    records = record_run(BREAKOUT, lanes=2, length=10, unrolls=8, encoding=ZSTD)
    records[5] = with_column(records[5], "observation", (6, 1, 1, 2), True)
    report, _ = verified(records, BREAKOUT)
    assert (report.verified, list(report.mismatches)) == (15, [5])


# Each forgery: what is forged, the record to forge, how, what must be found, and in which row (-1: in any).
Forgery = tuple[str, EnvironmentConfig, Callable[[LoggedRecord], LoggedRecord], str, int]

FORGERIES: Sequence[Forgery] = (
    ("a reward", CARTPOLE, lambda r: with_column(r, "reward", 3, 2.0), "reward", 3),
    ("a small reward", CARTPOLE, lambda r: with_column(r, "reward", 3, 1.0001), "reward", 3),
    ("a reward that is no number", CARTPOLE, lambda r: with_column(r, "reward", 5, np.nan), "reward", 5),
    ("a cost", CARTPOLE, lambda r: with_column(r, "cost", 2, 1.0), "cost", 2),
    ("an observation", CARTPOLE, lambda r: with_column(r, "observation", 4, [9, 9, 9, 9]), "observation", 4),
    ("an observation a little", CARTPOLE, lambda r: with_column(r, "observation", (4, 1), 0.123), "observation", 4),
    ("the last observation", ACROBOT, lambda r: with_column(r, "observation", (7, 0), 0.5), "observation", 7),
    ("the first observation", ACROBOT, lambda r: with_column(r, "observation", (0, 0), 0.5), "observation", 0),
    ("a pixel", BREAKOUT, lambda r: with_column(r, "observation", (2, 3, 3, 0), True), "observation", 2),
    ("an action", ACROBOT, lambda r: with_column(r, "action", 1, (r.columns["action"][1] + 1) % 3), "observation", 2),
    ("an action that there is none of", CATCH, lambda r: with_column(r, "action", 4, 7), "action", 4),
    ("a negative action", CATCH, lambda r: with_column(r, "action", 4, -1), "action", 4),
    ("a discount", CARTPOLE, lambda r: with_column(r, "discount", 1, 0.0), "discount", 1),
    ("a discount of its own kind", CARTPOLE, lambda r: with_column(r, "discount", 6, 0.5), "discount", 6),
    ("a boundary row that is none", ACROBOT, lambda r: with_column(r, "mask", 3, False), "action", 3),
    ("the seed", ACROBOT, lambda r: with_header(r, environment_seed=5), "observation", 0),
    (
        "a seed that no environment takes",
        ACROBOT,
        lambda r: with_header(r, environment_seed=2**63),
        "environment_seed",
        0,
    ),
    ("more seeds than episodes", ACROBOT, lambda r: with_header(r, episode_seeds=[1] * 7), "episode_seeds", 6),
    (
        "the episode's step, more",
        ACROBOT,
        lambda r: with_header(r, episode_step=r.header.episode_step + 1),
        "episode_step",
        0,
    ),
    ("the episode's step, to its first", ACROBOT, lambda r: with_header(r, episode_step=0), "observation", 0),
    ("the episode's number", ACROBOT, lambda r: with_header(r, episode=r.header.episode + 1), "episode", 0),
    ("its return", CARTPOLE, lambda r: _with_signal(r, "return", 500.0), "signals.return", 0),
    ("its cost", CARTPOLE, lambda r: _with_signal(r, "cost", 4.0), "signals.cost", 0),
    ("its number of episodes", CARTPOLE, lambda r: _with_signal(r, "episodes", 9.0), "signals.episodes", 0),
)


def _with_signal(record: LoggedRecord, name: str, value: float) -> LoggedRecord:
    return with_header(record, signals={**record.header.signals, name: value})


@pytest.mark.parametrize(
    ("what", "config", "forge", "found", "row"), FORGERIES, ids=[forgery[0] for forgery in FORGERIES]
)
def test_a_forged_record_is_found_and_no_other_is_blamed(
    what: str, config: EnvironmentConfig, forge: Callable[[LoggedRecord], LoggedRecord], found: str, row: int
) -> None:
    """The digest is recomputed with each forgery, so only re-execution can tell."""
    records = record_run(config, lanes=3, length=7, unrolls=6)
    index = next(
        each.position
        for each in records[3:]
        if each.header.episode_step > 0 and each.columns["mask"].all() and each.columns["discount"].all()
    )
    records[index] = forge(records[index])
    report, source = verified(records, config)
    assert list(report.mismatches) == [index], (what, report)
    mismatch = report.mismatches[index]
    assert (mismatch.what, mismatch.step) == (found, row)
    marks = source.marks(index)
    assert (marks["verified"], marks["mismatch"]) == (0.0, 1.0)
    assert report.verified + report.unverifiable == len(records) - 1
    assert all(not source.marks(each.position).get("mismatch") for each in records if each.position != index)


def test_a_forged_seed_inside_a_record_is_found() -> None:
    records = record_run(CARTPOLE, lanes=2, length=30, unrolls=4)
    index = next(record.position for record in records if len(record.header.episode_seeds) == 1)
    forged = [records[index].header.episode_seeds[0] + 1]
    records[index] = with_header(records[index], episode_seeds=forged)
    report, _ = verified(records, CARTPOLE)
    assert {position: each.what for position, each in report.mismatches.items()} == {index: "observation"}


def test_a_boundary_row_that_holds_something_is_found() -> None:
    records = record_run(SHORT_CATCH, length=7, unrolls=6)
    index, row = next((r.position, int(np.argmin(r.columns["mask"]))) for r in records if not r.columns["mask"].all())
    records[index] = with_column(records[index], "log_prob", row, -1.0)
    report, _ = verified(records, SHORT_CATCH)
    assert {position: each[1:3] for position, each in report.mismatches.items()} == {index: ("log_prob", row)}


def test_a_last_row_that_begins_an_episode_is_compared_with_the_seed_of_the_next_record() -> None:
    records = record_run(CATCH, lanes=1, length=9, unrolls=5)
    assert records[2].columns["discount"][8] == 0
    forged = [*records]
    forged[2] = with_column(records[2], "observation", (9, 5, 2), 1.0)
    report, _ = verified(forged, CATCH)
    assert {position: each[1:3] for position, each in report.mismatches.items()} == {2: ("observation", 9)}


def test_a_false_seed_is_not_blamed_on_the_record_before() -> None:
    """Record 2 ends with an episode, so its last row is the first one of the episode whose seed record 3 states."""
    records = record_run(CARTPOLE, lanes=1, length=1, unrolls=40)
    index = next(r.position for r in records[1:] if r.header.episode_step == 0)
    records[index] = with_header(records[index], environment_seed=12345)
    report, _ = verified(records, CARTPOLE)
    assert list(report.mismatches) == [index]


def test_what_follows_an_altered_action_is_neither_verified_nor_blamed() -> None:
    records = record_run(ACROBOT, lanes=1, length=5, unrolls=10)
    records[1] = with_column(records[1], "action", 2, (records[1].columns["action"][2] + 1) % 3)
    report, source = verified(records, ACROBOT)
    # 25 steps and a boundary row: the episode ends in row 0 of record 5, and the next one is as it was.
    assert list(report.mismatches) == [1]
    assert report.reasons == {"it goes on from a record that is not what happened": 4}
    assert [position for position in range(10) if not source.marks(position)] == [2, 3, 4, 5]


def test_what_follows_an_altered_observation_is_still_verified() -> None:
    records = record_run(ACROBOT, lanes=1, length=5, unrolls=10)
    records[1] = with_column(records[1], "observation", (5, 0), 0.5)
    report, _ = verified(records, ACROBOT)
    assert (list(report.mismatches), report.verified) == ([1], 9)


def test_records_whose_beginning_was_evicted_are_verified_from_the_next_episode_on() -> None:
    records = record_run(SHORT_CARTPOLE, lanes=2, length=4, unrolls=20)[7:]
    report, source = verified(records, SHORT_CARTPOLE)
    unmarked = [record for record in records if not source.marks(record.position)]
    assert all(record.header.episode_step > 0 for record in unmarked)
    assert 0 < len(unmarked) < 10
    assert (report.verified, report.mismatched) == (len(records) - len(unmarked), 0)
    assert report.reasons == {"the record that its first episode began in is not in the store": len(unmarked)}


def test_a_forgery_in_a_record_whose_beginning_was_evicted_is_found_in_its_later_episodes() -> None:
    records = record_run(CATCH, lanes=1, length=12, unrolls=4)[1:]
    assert records[0].header.episode_step > 0
    row = int(np.argmin(records[0].columns["discount"])) + 2
    records[0] = with_column(records[0], "reward", row, 7.0)
    report, _ = verified(records, CATCH)
    assert report.mismatches[records[0].position][1:3] == ("reward", row)


def test_a_gap_is_no_mismatch() -> None:
    """A record that was lost takes those that go on from it with it, until the next episode begins."""
    records = record_run(ACROBOT, lanes=1, length=5, unrolls=15)
    del records[2]
    report, _ = verified(records, ACROBOT)
    assert (report.mismatched, report.unverifiable, report.verified) == (0, 3, 11)


def test_records_without_the_seeds_of_their_episodes_are_unverifiable() -> None:
    records = [with_header(r, episode_seeds=[]) for r in record_run(CATCH, lanes=1, length=12, unrolls=4)]
    report, _ = verified(records, CATCH)
    assert report.reasons == {"its header does not hold the seeds of the episodes that begin in it": 4}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (CATCH, "its environment is another one than 'catch'"),
        (SHORT_CARTPOLE, "its environment has other code or settings than the one here, by its digest"),
        (
            EnvironmentConfig("cartpole", cart_margin=1.0),
            "its environment has other code or settings than the one here",
        ),
    ],
)
def test_another_environment_proves_nothing(config: EnvironmentConfig, reason: str) -> None:
    records = record_run(CARTPOLE, unrolls=2)
    report, source = verified(records, config)
    assert (report.unverifiable, report.verified, report.mismatched) == (len(records), 0, 0)
    assert next(iter(report.reasons)).startswith(reason)
    assert source.annotations == 0


def test_without_a_configuration_each_record_names_its_environment() -> None:
    runs = [record_run(CARTPOLE, actor_id="a"), record_run(CATCH, actor_id="b"), record_run(SHORT_CATCH, actor_id="c")]
    records = interleaved(*runs)
    records[4] = with_column(records[4], "reward", 0, 5.0)
    source = ListedSource(records)
    report = verify(source, None)
    assert (report.verified, report.mismatched, report.unverifiable) == (71, 1, 36)
    assert list(report.reasons) == ["its environment has other code or settings than the one here, by its digest"]


def test_a_module_that_only_a_record_names_is_not_imported() -> None:
    origin = common_pb2.Origin(environment=common_pb2.EnvironmentIdentity(id="gym:antigravity:Fly-v0", version="1"))
    records = [dataclasses.replace(record, origin=origin) for record in record_run(CATCH, unrolls=1)]
    for record in records:
        record.origin.schema.CopyFrom(record_run(CATCH, unrolls=1)[0].origin.schema)
    report = verify(ListedSource(records), None)
    assert "imported only where the environment is given by name" in next(iter(report.reasons))


def test_derived_records_and_other_layouts_are_unverifiable() -> None:
    records = record_run(CATCH, lanes=1, unrolls=3)
    records[1] = with_header(records[1], parents=[0], transformation="relabelled")
    origin = common_pb2.Origin.FromString(records[2].origin.SerializeToString())
    origin.schema.columns[3].name = "price"
    records[2] = dataclasses.replace(records[2], origin=origin)
    report, _ = verified(records, CATCH)
    assert report.verified == 1
    assert sorted(report.reasons) == [
        "it was derived from other records, not acted",
        "its column cost is not that of an unroll in this environment",
    ]


def test_a_payload_that_cannot_be_decoded_is_a_mismatch() -> None:
    zstandard = pytest.importorskip("zstandard")
    records = record_run(CATCH, lanes=1, unrolls=2)
    frame = bytearray(zstandard.ZstdCompressor(write_content_size=True).compress(records[1].payload))
    frame[len(frame) // 2] ^= 0xFF
    header = with_header(records[1], encoding=common_pb2.PAYLOAD_ENCODING_ZSTD).header
    records[1] = dataclasses.replace(records[1], header=header, payload=bytes(frame))
    report, _ = verified(records, CATCH)
    assert {position: each.what for position, each in report.mismatches.items()} == {1: "payload"}


def test_a_sample_is_the_same_every_time_and_grows_with_the_fraction() -> None:
    small = {position for position in range(10_000) if is_sampled(position, 0.1, 7)}
    assert 900 < len(small) < 1100
    assert small < {position for position in range(10_000) if is_sampled(position, 0.3, 7)}
    assert small != {position for position in range(10_000) if is_sampled(position, 0.1, 8)}
    assert all(is_sampled(position, 1.0, 7) for position in range(100))


def test_a_fraction_marks_its_sample_and_nothing_else() -> None:
    records = record_run(SHORT_CARTPOLE, lanes=4, length=3, unrolls=50)
    source = ListedSource(records)
    report = verify(source, SHORT_CARTPOLE, fraction=0.2, seed=3)
    marked = [record.position for record in records if source.marks(record.position)]
    assert marked == [record.position for record in records if is_sampled(record.position, 0.2, 3)]
    assert report.verified == len(marked) == report.records


def test_a_forgery_that_a_sampled_record_goes_on_from_is_found_too() -> None:
    records = record_run(ACROBOT, lanes=1, length=5, unrolls=5)
    records[2] = with_column(records[2], "reward", 1, 3.0)
    source = ListedSource(records)
    report = verify(source, ACROBOT, filter_text="position == 4")
    assert (report.records, report.verified, report.mismatched) == (1, 1, 1)
    assert list(report.mismatches) == [2]


def test_filter_range_limit_and_dry_run() -> None:
    records = record_run(CATCH, lanes=2, length=5, unrolls=30)
    source = ListedSource(records)
    done: list[int] = []
    report = verify(source, CATCH, filter_text="lane == 1", from_position=21, limit=6, mark=False, progress=done.append)
    assert (report.verified, report.records) == (6, 6)
    assert source.annotations == 0
    assert 11 <= sum(done) <= 39
    verify(source, CATCH, filter_text="lane == 1", from_position=21, limit=6)
    assert [position for position in range(60) if source.marks(position)] == [21, 23, 25, 27, 29, 31]


def test_a_limit_does_not_read_the_log_to_its_end_for_a_lane_that_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "LOOK_BACK", 10)
    ended = record_run(CATCH, actor_id="a", lanes=1, length=5, unrolls=3)
    source = ListedSource([*ended, *record_run(CATCH, actor_id="b", lanes=1, length=5, unrolls=50, first_position=3)])
    done: list[int] = []
    report = verify(source, CATCH, limit=3, progress=done.append)
    assert report.verified == 3
    assert sum(done) == 3 + 10


def test_a_corrected_environment_overwrites_the_mark() -> None:
    records = record_run(CATCH, lanes=1, unrolls=2)
    source = ListedSource([with_column(records[0], "reward", 0, 5.0), records[1]])
    verify(source, CATCH)
    assert source.marks(0)["mismatch"] == 1.0
    source.append([dataclasses.replace(records[0], marks=source.kept[0].marks)])
    verify(source, CATCH)
    assert (source.marks(0)["verified"], source.marks(0)["mismatch"]) == (1.0, 0.0)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5, float("nan")])
def test_a_fraction_that_is_none(fraction: float) -> None:
    with pytest.raises(VerificationError, match=r"must be in \(0, 1\]"):
        verify(ListedSource([]), CATCH, fraction=fraction)


def test_bad_input_is_refused_before_anything_is_read() -> None:
    source = ListedSource(record_run(CATCH, unrolls=1))
    with pytest.raises(FilterError):
        verify(source, CATCH, filter_text="lane ==")
    with pytest.raises(EnvironmentUnsupported):
        verify(source, EnvironmentConfig("cartpool"))
    assert source.listings == 0
