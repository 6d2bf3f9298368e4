"""Reading the log without sampling: filters, pages, payloads in bounded groups, and damage that stops nobody."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from protos.common.v1 import common_pb2
from replay.filters import FilterError
from replay.listing import GROUP_BYTES, GROUP_RECORDS, Listing
from replay.memory_store import MemoryStore
from replay.store import StoreCorrupt, StoredRecord, StoreSettings
from replay.testing import make_append, make_origin

TOTAL = 3 * GROUP_RECORDS + 10


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore(StoreSettings())
    store.commit([make_append(make_origin(), range(TOTAL))], {})
    return store


def listed(listing: Listing) -> list[int]:
    return [record.position for group in listing.groups() for record in group.records]


def test_all_of_it_and_parts_of_it(store: MemoryStore) -> None:
    assert listed(Listing(store)) == list(range(TOTAL))
    assert listed(Listing(store, from_position=TOTAL - 3)) == list(range(TOTAL - 3, TOTAL))
    assert listed(Listing(store, from_position=5, limit=GROUP_RECORDS + 2)) == list(range(5, GROUP_RECORDS + 7))
    assert listed(Listing(store, positions=[3, 700, 5000])) == [3, 700]


def test_what_was_evicted_is_left_out(store: MemoryStore) -> None:
    store.commit([], {}, retain_from=700)
    assert listed(Listing(store, limit=2)) == [700, 701]


def test_a_filter_sees_provenance_and_marks(store: MemoryStore) -> None:
    store.annotate({4: {"success": 1.0}, 600: {"success": 1.0}, 601: {"success": 0.0}})
    assert listed(Listing(store, filter_text="signals.success == 1")) == [4, 600]
    assert listed(Listing(store, filter_text="sequence > 3 and has(signals.success)", limit=2)) == [4, 600]
    with pytest.raises(FilterError):
        Listing(store, filter_text="sequence >")


def test_pages_join_without_gap_or_repetition(store: MemoryStore) -> None:
    pages, position = [], 0
    while position < TOTAL:
        listing = Listing(store, filter_text="sequence / 7 > 0", from_position=position, limit=100)
        for group in listing.groups():
            pages += [record.position for record in group.records]
            position = group.next_position
    assert pages == list(range(1, TOTAL))


def test_how_far_it_has_looked_is_told_where_nothing_passes(store: MemoryStore) -> None:
    groups = list(Listing(store, filter_text="lane == 9").groups())
    assert [group.next_position for group in groups] == [256, 512, 768, TOTAL]
    assert not any(group.records for group in groups)


def test_payloads_come_with_their_records(store: MemoryStore) -> None:
    listing = Listing(store, with_payload=True, from_position=10, limit=3)
    (group,) = listing.groups()
    records = list(listing.logged(group))
    assert [record.columns["reward"].tolist() for record in records] == [[1.0, 1.0]] * 3
    assert [record.position for record in records] == [10, 11, 12]


class DamagedStore(MemoryStore):
    """Records 5 and 300 cannot be read, nor the marks of record 7."""

    def read(self, positions: Sequence[int]) -> list[StoredRecord]:
        self._check(positions, {5, 300})
        return super().read(positions)

    def marks(self, positions: Sequence[int]) -> dict[int, common_pb2.RecordMarks]:
        self._check(positions, {7})
        return super().marks(positions)

    def _check(self, positions: Sequence[int], damaged: set[int]) -> None:
        hit = sorted(damaged.intersection(positions))
        if hit:
            raise StoreCorrupt("damaged", hit)


def test_damage_is_left_out_and_told() -> None:
    store = DamagedStore(StoreSettings())
    store.commit([make_append(make_origin(), range(400))], {})
    listing = Listing(store, with_payload=True)
    assert listed(listing) == [position for position in range(400) if position not in (5, 7, 300)]
    assert sorted(listing.damaged) == [5, 7, 300]


@pytest.mark.parametrize("limit", [4, 10, 298, 380])
def test_a_page_goes_on_right_after_what_is_damaged(limit: int) -> None:
    store = DamagedStore(StoreSettings())
    store.commit([make_append(make_origin(), range(400))], {})
    groups = list(Listing(store, with_payload=True, limit=limit).groups())
    found = [record.position for group in groups for record in group.records]
    assert found == [position for position in range(400) if position not in (5, 7, 300)][:limit]
    assert groups[-1].next_position == found[-1] + 1


def test_payloads_of_very_different_sizes_come_in_groups_of_bounded_size() -> None:
    """The mean says nothing of them: most are small, and the large ones lie together."""
    store = MemoryStore(StoreSettings())
    store.commit([make_append(make_origin(), range(1000))], {})
    store.commit([make_append(make_origin("large"), range(60), steps=40_000)], {})  # 1 MB each
    groups = list(Listing(store, with_payload=True, from_position=990).groups())
    assert [record.position for group in groups for record in group.records] == list(range(990, 1060))
    assert [group.next_position for group in groups] == [group.records[-1].position + 1 for group in groups]
    for group in groups:
        assert len(group.records) == 1 or sum(len(record.payload) for record in group.records) <= GROUP_BYTES
