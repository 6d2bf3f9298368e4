"""Verification of records that mean harm, in environments that raise, stand still, are slow, or give no numbers."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from actors import bounded_reexecution
from actors.agreement import Agreement, compare
from actors.bounded_reexecution import BoundedReexecution, Interrupted
from actors.claims import SEEDS_MAX
from actors.config import EnvironmentConfig
from actors.environments.catalog import make_vector
from actors.known_environments import KnownEnvironments
from actors.reexecution import EpisodeOutcome, EpisodeReplay
from actors.verification import VerificationReport, verify
from actors.verifier import Verifier
from protos.common.v1 import common_pb2
from replay.episode_pieces import Piece
from replay.record import LoggedRecord
from tests.actors.hostile_environment import CONFIG, STEPS, HostileEnvironment, hostile_run, registered, standing_still
from tests.actors.recorded_runs import interleaved, record_run, with_header
from tests.replay.listed_source import ListedSource

ACROBOT = EnvironmentConfig("gym:Acrobot-v1", episode_steps_max=200)
CATCH = EnvironmentConfig("catch")


@pytest.fixture
def hostile() -> Iterator[type[HostileEnvironment]]:
    with registered() as environment:
        yield environment


def seeds_in(record: LoggedRecord) -> set[int]:
    """Of every episode that the record has a step of."""
    return {record.header.environment_seed, *record.header.episode_seeds}


def verified(
    records: list[LoggedRecord], config: EnvironmentConfig | None = CONFIG
) -> tuple[VerificationReport, ListedSource]:
    source = ListedSource(records)
    return verify(source, config), source


def raise_at(seed: int) -> object:
    def before_step(found: int, step: int) -> None:
        if (found, step) == (seed, 2):
            raise KeyError(seed)

    return staticmethod(before_step)


def test_what_an_environment_raises_costs_the_records_of_that_episode_only(hostile: type[HostileEnvironment]) -> None:
    records = hostile_run(lanes=4, length=4, unrolls=12)
    seed = records[9].header.environment_seed
    hostile.before_step = raise_at(seed)  # type: ignore[assignment]
    report, source = verified(records)
    touched = [record.position for record in records if seed in seeds_in(record)]
    assert [position for position in range(len(records)) if not source.marks(position)] == touched
    assert (report.verified, report.unverifiable, report.mismatched) == (len(records) - len(touched), len(touched), 0)
    assert report.reasons == {"its environment raised KeyError": len(touched)}


def test_an_environment_that_wants_to_end_the_process_does_not(hostile: type[HostileEnvironment]) -> None:
    records = hostile_run(lanes=1, length=6, unrolls=2)

    def leave(_seed: int, _step: int) -> None:
        raise SystemExit(3)

    hostile.before_step = staticmethod(leave)
    report, _ = verified(records)
    assert report.reasons == {"its environment raised SystemExit": 2}


def test_an_environment_that_stands_still_is_given_up(
    hostile: type[HostileEnvironment], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [*hostile_run(lanes=1, length=6, unrolls=3), *record_run(CATCH, lanes=1, unrolls=3, first_position=3)]
    released = threading.Event()
    hostile.before_step = staticmethod(standing_still(lambda _seed, step: step == 4, released))
    monkeypatch.setattr(bounded_reexecution, "STEP_S_MAX", 0.3)
    closed: list[object] = []
    monkeypatch.setattr(hostile, "close", lambda _self: closed.append(1))
    start_s = time.monotonic()
    report, _ = verified(records, None)
    assert time.monotonic() - start_s < 20.0
    assert report.reasons == {"its environment did not come back from a step within 0.3 s": 3}
    assert report.verified == 3, "records of another environment are verified all the same"
    assert len(closed) == 1, "the trial environment is closed; the one that stands still is not touched any more"
    released.set()


def test_a_slow_environment_has_its_time_and_no_more(hostile: type[HostileEnvironment]) -> None:
    hostile.before_step = staticmethod(lambda _seed, _step: time.sleep(0.01))
    environments = KnownEnvironments(CONFIG)
    environment = environments.find(identity_of(CONFIG))
    assert not isinstance(environment, str)
    reexecution = BoundedReexecution(environments, seconds_max=2.0)
    found = reexecution.run(environment, [EpisodeReplay(seed, np.ones(STEPS, np.int32)) for seed in range(200)])
    environments.close()
    reasons = [each for each in found if isinstance(each, str)]
    assert 0 < len(reasons) < 200
    assert all(each.steps == STEPS for each in found if not isinstance(each, str))
    assert set(reasons) == {"running the records gathered with it again took too long"}


def test_whoever_is_told_to_stop_stops_in_the_middle(hostile: type[HostileEnvironment]) -> None:
    stop = threading.Event()

    def before_step(_seed: int, _step: int) -> None:
        stop.set()
        time.sleep(0.01)

    hostile.before_step = staticmethod(before_step)
    environments = KnownEnvironments(CONFIG)
    environment = environments.find(identity_of(CONFIG))
    assert not isinstance(environment, str)
    reexecution = BoundedReexecution(environments, stop=stop.is_set)
    with pytest.raises(Interrupted):
        reexecution.run(environment, [EpisodeReplay(seed, np.ones(6, np.int32)) for seed in range(10_000)])
    # It came back, so it is not given up.
    stop.clear()
    assert environments.find(identity_of(CONFIG)) is environment
    environments.close()


def identity_of(config: EnvironmentConfig) -> common_pb2.EnvironmentIdentity:
    environment = make_vector(config, 1)
    spec = environment.spec
    environment.close()
    return common_pb2.EnvironmentIdentity(id=spec.id, version=spec.version, code_digest=spec.code_digest)


def compared(recorded: NDArray[Any], found: NDArray[Any]) -> Agreement:
    """Observations [3, ...] that a record has in the first two steps of an episode, and that its environment gives."""
    nothing = np.zeros(2, np.float32)
    columns = {"observation": recorded, "reward": nothing, "cost": nothing, "discount": np.ones(2, np.float32)}
    flags = np.zeros(2, np.bool_)
    return compare(columns, Piece(0, 2, "open", 0, False), 0, EpisodeOutcome(found, nothing, nothing, flags, flags))


def test_what_is_no_number_agrees_where_it_is_none_again() -> None:
    """NaN and infinity in one component, and a last bit that differs in another."""
    found = np.array([[np.nan, 1.0], [np.inf, 1.0], [-np.inf, 1.0]], np.float32)
    recorded = found.copy()
    recorded[1, 1] = np.nextafter(np.float32(1.0), np.float32(2.0))
    agreement = compared(recorded, found)
    assert agreement.disagreement is None
    assert agreement.on_course
    assert 0.0 < agreement.error < 1e-6


@pytest.mark.parametrize(("row", "value"), [(0, 5.0), (1, 5.0), (2, 5.0), (2, np.nan), (2, np.inf), (1, -np.inf)])
def test_an_infinity_elsewhere_in_the_episode_hides_no_forgery(row: int, value: float) -> None:
    found = np.array([[np.nan], [np.inf], [1.0]], np.float32)
    recorded = found.copy()
    recorded[row] = value
    assert compared(recorded, found).disagreement == (row, "observation")


def test_large_integers_agree_only_where_they_are_equal() -> None:
    """2**60 and 2**60 + 1 are the same as floats."""
    found = np.full((3, 1), 2**60, np.int64)
    assert compared(found, found).disagreement is None
    assert compared(found + np.array([[0], [1], [0]]), found).disagreement == (1, "observation")


def test_many_false_seeds_do_not_multiply_the_work() -> None:
    records = record_run(ACROBOT, lanes=1, length=5, unrolls=30)
    forged = [*records[:1], *(with_header(r, environment_seed=1000 + r.position) for r in records[1:])]
    honest, _ = verified(records, ACROBOT)
    report, _ = verified(forged, ACROBOT)
    assert list(report.mismatches) == [1]
    assert report.reasons == {
        "it goes on from a record that is not what happened": SEEDS_MAX - 2,
        f"the records of its first episode state more than {SEEDS_MAX} different seeds": 30 - SEEDS_MAX,
    }
    assert report.steps <= SEEDS_MAX * honest.steps


@pytest.mark.parametrize("steps", [0, 2**31])
def test_a_header_with_steps_that_no_service_takes(steps: int) -> None:
    records = record_run(CATCH, lanes=2, length=5, unrolls=4)
    records[3] = with_header(records[3], steps=steps)
    report, _ = verified(records, CATCH)
    assert report.reasons["it has a schema, or steps, that no service takes"] == 1
    assert (report.mismatched, report.verified + report.unverifiable) == (0, 8)


def test_a_schema_that_is_none() -> None:
    records = record_run(CATCH, lanes=1, length=5, unrolls=3)
    origin = common_pb2.Origin.FromString(records[1].origin.SerializeToString())
    origin.schema.columns[0].dtype = "O"
    records[1] = dataclasses.replace(records[1], origin=origin)
    report, _ = verified(records, CATCH)
    assert report.reasons["it has a schema, or steps, that no service takes"] == 1


@pytest.mark.parametrize("lie", [1, 7, 2**32 - 1])
def test_a_lie_about_the_episode_step_is_found_and_costs_no_other_record(lie: int) -> None:
    records = record_run(CATCH, lanes=2, length=5, unrolls=12)
    index = next(r.position for r in records[4:] if r.header.episode_step > 0 and r.header.episode_step != lie)
    records[index] = with_header(records[index], episode_step=lie)
    report, _ = verified(records, CATCH)
    assert {position: each.what for position, each in report.mismatches.items()} == {index: "episode_step"}
    assert report.verified == len(records) - 1, report


class ChangedMeanwhile(ListedSource):
    """Has other records at the same positions by the time that it is asked for payloads."""

    def __init__(self, listed: list[LoggedRecord], afterwards: list[LoggedRecord]) -> None:
        super().__init__(listed)
        self._afterwards = afterwards

    def get(self, positions: object, *, with_payload: bool = True) -> list[LoggedRecord]:
        return ListedSource(self._afterwards).get(positions, with_payload=with_payload)  # type: ignore[arg-type]


def test_a_log_that_changed_under_the_verifier_proves_nothing() -> None:
    one, other = record_run(ACROBOT, lanes=1, length=5), record_run(ACROBOT, actor_id="b", lanes=1, length=5)
    listed, afterwards = interleaved(one, other), interleaved(other, one)
    report = verify(ChangedMeanwhile(listed, afterwards), ACROBOT)
    assert (report.mismatched, report.verified) == (0, 0)
    assert list(report.reasons) == ["it can no longer be read: evicted meanwhile, or damaged"]


def test_a_record_may_name_what_raises_anything_when_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*_arguments: object) -> object:
        raise OSError("no such asset")

    records = record_run(CATCH, lanes=1, unrolls=2)
    monkeypatch.setattr("actors.known_environments.make_vector", make)
    report = verify(ListedSource(records), None)
    assert report.reasons == {"its environment cannot be made here": 2}


def test_a_group_is_judged_again_after_an_interruption(hostile: type[HostileEnvironment]) -> None:
    records = hostile_run(lanes=2, length=4, unrolls=6)
    stop = threading.Event()
    environments = KnownEnvironments(CONFIG)
    verifier = Verifier(ListedSource(records), environments, stop=stop.is_set)
    for record in records:
        verifier.look_at(record, chosen=True)

    def before_step(_seed: int, _step: int) -> None:
        stop.set()
        time.sleep(0.02)

    hostile.before_step = staticmethod(before_step)
    with pytest.raises(Interrupted):
        verifier.verdicts(last=True)
    stop.clear()
    hostile.before_step = staticmethod(lambda _seed, _step: None)
    assert [verdict.status for verdict in verifier.verdicts(last=True)] == ["verified"] * 12
    environments.close()
