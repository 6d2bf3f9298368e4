"""Batches from what the teachers' runs have left: of whom, which records, and the same again after a resume."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from learner.distillation.config import DistillationConfig
from learner.distillation.records import TeacherRecords
from learner.distillation.teachers import Teacher, TeacherError
from policies.testing import make_artifact
from protos.common.v1 import common_pb2
from replay.lmdb_store import LmdbStore
from replay.offline import OfflineSource
from replay.provenance import check_batch, check_origin
from replay.schema import PayloadLayout
from replay.store import Append, StoreSettings, origin_digest, run_key
from replay.testing import make_header, make_origin
from tests.learner.taught import teachers

T = 3
COLUMNS = ("observation", "action", "mask", "logits")


def columns(value: int, steps: int = T) -> dict[str, NDArray[Any]]:
    """Every observation is `value`, which tells the records apart."""
    return {
        "observation": np.full((steps + 1, 4), value, np.float32),
        "action": np.zeros(steps, np.int32),
        "mask": np.array([True] * (steps - 1) + [False]),
        "logits": np.full((steps, 2), value, np.float32),
    }


def fill(store: Path, values: range, *, digest: bytes = b"", steps: int = T, sequence: int = 0) -> None:
    """Appends a record for each value, by the policy of that digest."""
    origin = make_origin(columns=columns(0, steps), run_id=f"run-{steps}", steps=steps)
    layout, records = PayloadLayout(origin.schema), []
    for number, value in enumerate(values):
        payload = layout.encode(columns(value, steps))
        header = make_header(steps, policy_version=value)
        header.sequence = sequence + number
        header.payload_digest = hashlib.sha256(payload).digest()
        if digest:
            header.policies[0].digest = digest
        records.append(common_pb2.Record(header=header, payload=payload))
    pending = check_batch(records, check_origin(origin))
    append = Append(run_key(origin), origin.SerializeToString(deterministic=True), origin_digest(origin), pending)
    opened = LmdbStore(store, StoreSettings(("steps",), segment_records=4))
    opened.commit([append], {})
    opened.close()


@pytest.fixture
def two(tmp_path: Path) -> list[Teacher]:
    """Teachers with a store each: 0 to 11 and 100 to 111; of each the last four are the release's own."""
    found = []
    for teacher, first in zip(
        teachers(tmp_path, [make_artifact(seed=1), make_artifact(seed=2)]), (0, 100), strict=True
    ):
        store = teacher.source.policies.parent / "replay"
        fill(store, range(first, first + 8))
        fill(store, range(first + 8, first + 12), digest=teacher.release.digest, sequence=8)
        found.append(replace(teacher, source=replace(teacher.source, stores=(store,))))
    return found


@pytest.fixture
def opened() -> Iterator[list[TeacherRecords]]:
    made: list[TeacherRecords] = []
    yield made
    for each in made:
        each.close()


def values_of(records: TeacherRecords, batches: int = 60) -> list[int]:
    """Which records were drawn."""
    drawn: list[int] = []
    for _ in range(batches):
        batch = records.next()
        assert batch is not None
        drawn += batch.columns["observation"][0, :, 0].astype(int).tolist()
    return drawn


def config_of(count: int, **settings: Any) -> DistillationConfig:
    return DistillationConfig(teachers=("a", "b")[:count], mode="offline", **settings)


def open_records(two: list[Teacher], config: DistillationConfig, rows: int = T, **more: Any) -> TeacherRecords:
    return TeacherRecords(two, config, batch_size=4, unroll_length=rows, columns=COLUMNS, seed=5, **more)


def test_a_batch_is_time_major_and_names_no_positions(two: list[Teacher], opened: list[TeacherRecords]) -> None:
    opened.append(open_records(two, config_of(2)))
    batch = opened[0].next()
    assert batch is not None
    assert set(batch.columns) == {*COLUMNS, "replayed"}
    assert batch.columns["replayed"].all()
    assert batch.columns["observation"].shape == (T + 1, 4, 4)
    assert batch.columns["logits"].shape == (T, 4, 2)
    assert (len(batch.positions), batch.headers, batch.origins, batch.fresh_headers) == (0, (), (), ())
    assert batch.fresh_steps == 4 * (T - 1)
    assert opened[0].records == 24
    assert opened[0].failure == ""


def test_all_are_drawn_and_teachers_by_their_weights(two: list[Teacher], opened: list[TeacherRecords]) -> None:
    opened.append(open_records(two, config_of(2, weights=(3.0, 1.0))))
    drawn = values_of(opened[0], batches=150)
    assert set(drawn) == {*range(12), *range(100, 112)}
    # 600 draws: within five deviations.
    assert np.mean([value < 100 for value in drawn]) == pytest.approx(0.75, abs=0.09)


def test_recorded_targets_are_those_of_the_release_itself(two: list[Teacher], opened: list[TeacherRecords]) -> None:
    opened.append(open_records(two[:1], config_of(1, targets="recorded")))
    assert set(values_of(opened[0])) == {8, 9, 10, 11}


def test_a_filter_and_a_quarantine_keep_records_out(two: list[Teacher], opened: list[TeacherRecords]) -> None:
    with OfflineSource(two[0].source.stores[0], writable=True) as source:
        source.quarantine("policy_version == 6", "they are poisoned")
    opened.append(open_records(two[:1], config_of(1, records_filter="policy_version >= 5")))
    assert set(values_of(opened[0])) == {5, *range(7, 12)}


def test_records_of_another_length_are_not_drawn(two: list[Teacher], opened: list[TeacherRecords]) -> None:
    fill(two[0].source.stores[0], range(50, 54), steps=2)
    opened.append(open_records(two[:1], config_of(1)))
    assert set(values_of(opened[0])) == set(range(12))


def test_a_run_that_goes_on_draws_what_it_would_have_drawn(two: list[Teacher], opened: list[TeacherRecords]) -> None:
    opened += [open_records(two, config_of(2)), open_records(two, config_of(2), first=3)]
    unbroken = values_of(opened[0], batches=6)
    assert values_of(opened[1], batches=3) == unbroken[12:]
    assert len({tuple(unbroken[start : start + 4]) for start in range(0, 24, 4)}) > 1


def test_what_is_evicted_meanwhile_is_no_longer_drawn(two: list[Teacher], opened: list[TeacherRecords]) -> None:
    opened.append(open_records(two[:1], config_of(1)))
    store = LmdbStore(two[0].source.stores[0], StoreSettings(("steps",), segment_records=4))
    store.commit([], {}, retain_from=8)
    assert set(values_of(opened[0])) == {8, 9, 10, 11}
    store.commit([], {}, retain_from=12)
    store.close()
    with pytest.raises(TeacherError, match="have all been evicted"):
        values_of(opened[0])


NOTHING: dict[str, tuple[dict[str, Any], int, str]] = {
    "another length": ({}, 7, "has left no records of 7 rows"),
    "nothing passes": ({"records_filter": "policy_version > 999"}, T, "that pass 'policy_version > 999'"),
    "no filter": ({"records_filter": "policy_version >"}, T, "records_filter = 'policy_version >' cannot be read"),
}


@pytest.mark.parametrize("case", NOTHING, ids=lambda case: case.replace(" ", "-"))
def test_nothing_to_learn_from_is_said(two: list[Teacher], case: str) -> None:
    settings, rows, said = NOTHING[case]
    with pytest.raises(TeacherError, match=said):
        open_records(two[:1], config_of(1, **settings), rows)


def test_nothing_recorded_by_the_release(two: list[Teacher]) -> None:
    other = replace(two[0], release=replace(two[0].release, digest=bytes(32)))
    with pytest.raises(TeacherError, match=r"made by release 1 itself; distillation\.targets = 'rescored'"):
        open_records([other], config_of(1, targets="recorded"))


def test_no_store(two: list[Teacher], tmp_path: Path) -> None:
    nowhere = replace(two[1], source=replace(two[1].source, stores=(tmp_path / "none",)))
    with pytest.raises(TeacherError, match="cannot be read"):
        open_records([two[0], nowhere], config_of(2))


def test_columns_that_are_not_there(two: list[Teacher], opened: list[TeacherRecords]) -> None:
    opened.append(
        TeacherRecords(two, config_of(2), batch_size=4, unroll_length=T, columns=("observation", "cost"), seed=0)
    )
    with pytest.raises(TeacherError, match=r"have no columns \['cost'\]"):
        opened[0].next()
