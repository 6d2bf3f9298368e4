"""The contract of every store, as tests: subclass StoreContract in a test module and give it an `open_store`.

Not imported by production code.
"""

# ruff: noqa: S101, D102  the contract is made of tests: they assert, and their names say what they check

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import numpy as np
import pytest
from pyroaring import BitMap64

from protos.common.v1.common_pb2 import RecordMarks
from protos.replay.v1.replay_pb2 import QuarantineEntry, TableState
from replay.chain import ChainReport, verify_chain
from replay.store import (
    CHAIN_START,
    SEQUENCE_LEAD_MAX,
    Append,
    AppendOutcome,
    Store,
    StoreCorrupt,
    StoreSettings,
    run_key,
)
from replay.testing import make_append, make_origin


class StoreContract:
    """What every Store does. A subclass implements `open_store`."""

    @contextlib.contextmanager
    def open_store(self, settings: StoreSettings) -> Iterator[Store]:
        """An empty store, closed at the end."""
        raise NotImplementedError

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        """A store of small segments that totals two signals."""
        with self.open_store(StoreSettings(("steps", "return"), segment_records=8)) as store:
            yield store

    def test_empty(self, store: Store) -> None:
        counters = store.counters()
        assert (counters.records, counters.next_position, counters.chain_head) == (0, 0, CHAIN_START)
        assert store.read([0, 1]) == []
        assert store.next_sequence(b"actor\0run") == 0
        assert dict(store.tables()) == {}
        assert (store.window(1, 1, 1), store.window(0, 0, 0)) == (0, 0)
        assert (store.marks([0]), list(store.quarantines()), len(store.quarantined())) == ({}, [], 0)
        assert list(store.priorities("per")) == []
        assert verify_chain(store) == ChainReport(0, 0, 0, CHAIN_START)

    def test_append_then_read_in_any_order(self, store: Store) -> None:
        origin = make_origin()
        append = make_append(origin, range(5))
        assert store.commit([append], {}) == [AppendOutcome(5, 0, None, 0, range(5), 0)]
        read = store.read([3, 0, 3])
        assert [record.position for record in read] == [3, 0, 3]
        assert [record.header.sequence for record in read] == [3, 0, 3]
        assert [record.payload for record in read] == [append.records[index].payload for index in (3, 0, 3)]
        assert [record.header_bytes for record in read] == [append.records[index].header for index in (3, 0, 3)]
        assert [record.payload_digest for record in read] == [record.header.payload_digest for record in read]
        assert store.origin(read[0].origin_id) == origin

    def test_read_leaves_out_what_is_not_there(self, store: Store) -> None:
        store.commit([make_append(make_origin(), range(2))], {})
        assert [record.position for record in store.read([5, 1, 2, -1, 2**64])] == [1]

    def test_headers_without_payloads(self, store: Store) -> None:
        store.commit([make_append(make_origin(), range(3))], {})
        headers = store.read_headers(range(3))
        assert [(record.header.sequence, record.payload) for record in headers] == [(0, b""), (1, b""), (2, b"")]

    def test_lent_payloads_are_those_read(self, store: Store) -> None:
        for start in range(0, 24, 6):
            store.commit([make_append(make_origin(), range(start, start + 6))], {})
        positions = [20, 3, 3, 11, 99]
        expected = store.read(positions)
        with store.lend(positions) as lent:
            assert all(isinstance(record.payload, memoryview) for record in lent)
            assert [record._replace(payload=bytes(record.payload)) for record in lent] == expected

    def test_positions_follow_commit_order_across_runs(self, store: Store) -> None:
        first, second = make_origin("a"), make_origin("b")
        outcomes = store.commit([make_append(first, [0, 1]), make_append(second, [0])], {})
        outcomes += store.commit([make_append(first, [2])], {})
        assert [(outcome.first_position, outcome.origin_id) for outcome in outcomes] == [(0, 0), (2, 1), (3, 0)]
        read = store.read(range(4))
        owners = [(store.origin(record.origin_id).actor_id, record.header.sequence) for record in read]
        assert owners == [("a", 0), ("a", 1), ("b", 0), ("a", 2)]

    def test_equal_origins_are_stored_once(self, store: Store) -> None:
        store.commit([make_append(make_origin("a"), [0]), make_append(make_origin("b"), [0])], {})
        store.commit([make_append(make_origin("a"), [1])], {})
        assert [record.origin_id for record in store.read(range(3))] == [0, 1, 0]
        with pytest.raises(StoreCorrupt, match="origin 2 was never stored"):
            store.origin(2)

    def test_resent_records_are_stored_once(self, store: Store) -> None:
        origin = make_origin()
        store.commit([make_append(origin, range(4))], {})
        assert store.commit([make_append(origin, range(2, 6))], {}) == [AppendOutcome(2, 2, None, 4, [2, 3], 0)]
        assert store.commit([make_append(origin, range(6))], {}) == [AppendOutcome(0, 6)]
        assert [record.header.sequence for record in store.read(range(10))] == [0, 1, 2, 3, 4, 5]
        assert store.counters().duplicate_records == 8
        assert store.next_sequence(run_key(origin)) == 6

    def test_resent_within_one_commit(self, store: Store) -> None:
        origin = make_origin()
        outcomes = store.commit([make_append(origin, [0, 1]), make_append(origin, [1, 2])], {})
        assert outcomes == [AppendOutcome(2, 0, None, 0, range(2), 0), AppendOutcome(1, 1, None, 2, [1], 0)]
        assert store.counters().records == 3

    def test_reordered_and_interleaved_duplicates(self, store: Store) -> None:
        """Whatever order the messages of two streams of one run come in, each sequence is stored once."""
        origin, generator = make_origin(), np.random.default_rng(7)
        messages = [range(start, start + 4) for start in range(0, 40, 4)] * 2
        stored = 0
        for index in generator.permutation(len(messages)):
            (outcome,) = store.commit([make_append(origin, messages[index])], {})
            stored += outcome.inserted
            assert outcome.inserted + outcome.duplicates == 4
        assert stored == 40
        assert sorted(record.header.sequence for record in store.read(range(100))) == list(range(40))
        assert store.next_sequence(run_key(origin)) == 40

    def test_runs_do_not_share_sequences(self, store: Store) -> None:
        for origin in (make_origin("a", "r"), make_origin("a", "s"), make_origin("b", "r")):
            assert store.commit([make_append(origin, [0])], {})[0].inserted == 1

    def test_a_sequence_far_ahead_is_refused_alone(self, store: Store) -> None:
        origin, other = make_origin("a"), make_origin("b")
        refused, taken = store.commit([make_append(origin, [0, SEQUENCE_LEAD_MAX]), make_append(other, [0])], {})
        assert refused.refusal is not None
        assert str(SEQUENCE_LEAD_MAX) in str(refused.refusal)
        assert taken == AppendOutcome(1, 0, None, 0, range(1), 0)
        assert store.counters().records == 1
        assert store.next_sequence(run_key(origin)) == 0

    def test_a_client_that_says_it_was_acknowledged_is_not_believed(self, store: Store) -> None:
        """In mode "sync" nothing acknowledged can be missing."""
        append = make_append(make_origin(), [7, 8])._replace(acknowledged_below=7)
        assert store.commit([append], {})[0].inserted == 2
        assert store.next_sequence(append.run) == 0

    def test_table_states_are_kept(self, store: Store) -> None:
        store.commit([], {"fresh": TableState(cursor=3, samples=3)})
        store.commit([], {"uniform": TableState(samples=9), "fresh": TableState(cursor=5, samples=4)})
        expected = {"fresh": TableState(cursor=5, samples=4), "uniform": TableState(samples=9)}
        assert dict(store.tables()) == expected
        store.drop_table("fresh")
        store.drop_table("never there")
        assert dict(store.tables()) == {"uniform": TableState(samples=9)}

    def test_counters(self, store: Store) -> None:
        origin = make_origin()
        append = make_append(origin, range(3), signals={"return": 2.5, "other": 1.0})
        store.commit([append], {})
        store.commit([append, make_append(origin, [3], signals={"steps": 2.0})], {})
        counters = store.counters()
        assert counters.records == counters.next_position == 4
        assert counters.appended_steps == 8
        records = store.read(range(4))
        assert counters.payload_bytes == sum(len(record.payload) for record in records)
        assert dict(counters.signal_totals) == {"return": 7.5, "steps": 2.0}
        live_bytes = counters.payload_bytes + sum(len(record.header_bytes) for record in records)
        assert store.sizes().live_bytes == live_bytes <= store.sizes().file_bytes

    def test_eviction_is_exact_and_at_once(self, store: Store) -> None:
        origin = make_origin()
        for start in range(0, 12, 3):
            store.commit([make_append(origin, range(start, start + 3))], {})
        store.commit([make_append(origin, range(12, 15))], {}, retain_from=7)
        counters = store.counters()
        assert (counters.first_position, counters.next_position, counters.records) == (7, 15, 8)
        assert [record.position for record in store.read(range(20))] == list(range(7, 15))
        records = store.read_headers(range(20))
        assert counters.payload_bytes == sum(len(record.payload) for record in store.read(range(20)))
        assert store.sizes().live_bytes == counters.payload_bytes + sum(len(record.header_bytes) for record in records)
        assert verify_chain(store) == ChainReport(8, 7, 15, counters.chain_head)
        store.commit([], {}, retain_from=3)
        assert store.counters() == counters

    def test_eviction_ends_where_the_log_did_before_the_commit(self, store: Store) -> None:
        origin = make_origin()
        store.commit([make_append(origin, range(3))], {}, retain_from=99)
        assert store.counters().records == 3
        store.commit([make_append(origin, range(3, 5))], {}, retain_from=99)
        assert [record.position for record in store.read(range(9))] == [3, 4]
        store.commit([], {}, retain_from=99)
        assert (store.counters().records, store.counters().payload_bytes, store.read([4])) == (0, 0, [])
        assert store.commit([make_append(origin, range(7))], {})[0].duplicates == 5
        assert verify_chain(store).records == 2

    def test_evicted_records_stay_known(self, store: Store) -> None:
        append = make_append(make_origin(), range(6))
        store.commit([append], {})
        assert store.commit([append], {}, retain_from=4) == [AppendOutcome(0, 6)]
        assert store.counters().records == 2

    def test_window_by_records_and_bytes(self, store: Store) -> None:
        append = make_append(make_origin(), range(20))
        size = len(append.records[0].payload)
        for start in range(0, 20, 4):
            store.commit([append._replace(records=append.records[start : start + 4])], {})
        assert [store.window(records, 0, 0) for records in (1, 7, 20, 99, 0)] == [19, 13, 0, 0, 0]
        for kept in range(1, 20):
            first = store.window(0, kept * size, 0)
            assert 20 - kept <= first < 20 - kept + 8  # never more; at most the rest of a block less
        assert store.window(0, 20 * size, 0) == 0
        assert store.window(5, 20 * size, 0) == 15
        store.commit([], {}, retain_from=10)
        assert [store.window(records, 0, 0) for records in (1, 99, 0)] == [19, 10, 10]
        assert store.window(0, 99 * size, 0) == 10

    def test_window_by_time(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        origin, now_s = make_origin(), 10**9
        for index, at_s in enumerate((0, 10, 5, 30)):  # the clock jumps back once
            monkeypatch.setattr(time, "time_ns", lambda at_s=at_s: (now_s + at_s) * 10**9)
            store.commit([make_append(origin, range(2 * index, 2 * index + 2))], {})
        newer = [store.window(0, 0, (now_s + newer_than_s) * 10**9) for newer_than_s in (0, 1, 10, 11, 30, 31)]
        assert newer == [0, 2, 2, 6, 6, 8]

    def test_marks(self, store: Store) -> None:
        for start in range(0, 24, 6):
            store.commit([make_append(make_origin(), range(start, start + 6))], {})
        assert store.annotate({1: {"success": 1.0}, 20: {"novelty": 0.5}, 99: {"success": 1.0}}) == 2
        assert store.annotate({1: {"success": 0.0, "mismatch": 1.0}, 2: {}}) == 2
        marks = store.marks(range(30))
        assert {position: dict(mark.signals) for position, mark in marks.items()} == {
            1: {"success": 0.0, "mismatch": 1.0},
            20: {"novelty": 0.5},
        }
        store.commit([], {}, retain_from=2)
        assert list(store.marks(range(30))) == [20]
        assert store.annotate({1: {"success": 1.0}}) == 0
        assert verify_chain(store).records == 22

    def test_quarantine_and_its_end(self, store: Store) -> None:
        store.commit([make_append(make_origin(), range(10))], {}, retain_from=0)
        store.commit([make_append(make_origin(), range(10, 12))], {}, retain_from=2)
        first = store.quarantine(QuarantineEntry(filter="a", why="b", time_ns=5), BitMap64([0, 3, 4, 40]))
        second = store.quarantine(QuarantineEntry(filter="c", why="d", time_ns=6), BitMap64([4, 11]))
        assert first == QuarantineEntry(id=1, filter="a", why="b", time_ns=5, records=2)
        assert (second.id, second.records) == (2, 2)
        assert store.quarantined() == BitMap64([3, 4, 11])
        store.annotate({4: {"success": 1.0}})
        assert store.marks([3, 4, 5, 11]) == {
            3: RecordMarks(quarantine=1),
            4: RecordMarks(quarantine=1, signals={"success": 1.0}),
            11: RecordMarks(quarantine=2),
        }
        before = store.quarantined()
        lifted = store.lift_quarantine(1, "wrong", 7)
        assert (lifted.id, lifted.lifted_why, lifted.lifted_time_ns, lifted.records) == (1, "wrong", 7, 2)
        assert (before, store.quarantined()) == (BitMap64([3, 4, 11]), BitMap64([4, 11]))
        assert store.marks([4])[4].quarantine == 2
        assert [(one.entry, one.positions) for one in store.quarantines()] == [
            (lifted, BitMap64([3, 4])),
            (second, BitMap64([4, 11])),
        ]
        for unknown in (1, 3):
            with pytest.raises(KeyError, match=f"quarantine {unknown} is not in force; in force: 2"):
                store.lift_quarantine(unknown, "again", 8)
        assert store.quarantine(QuarantineEntry(), BitMap64()).id == 3

    def test_priorities(self, store: Store) -> None:
        for start in range(0, 24, 6):
            store.commit([make_append(make_origin(), range(start, start + 6))], {})
        put = {0: 1.5, 5: 0.0, 6: 2.0, 23: 1e30, 99: 3.0}
        store.put_priorities("per", np.array(list(put), np.uint64), np.array(list(put.values())))
        store.put_priorities("per", np.array([6, 7], np.uint64), np.array([0.25, 8.0]))
        store.put_priorities("other", np.array([1], np.uint64), np.array([9.0]))
        assert self._priorities(store, "per") == {0: 1.5, 5: 0.0, 6: 0.25, 7: 8.0, 23: pytest.approx(1e30)}
        store.commit([], {}, retain_from=6)
        assert list(self._priorities(store, "per")) == [6, 7, 23]
        assert self._priorities(store, "none") == {}
        store.drop_table("per")
        assert self._priorities(store, "per") == {}
        store.put_priorities("other", np.array([7], np.uint64), np.array([4.0]))
        assert self._priorities(store, "other") == {7: 4.0}

    @staticmethod
    def _priorities(store: Store, table: str) -> dict[int, float]:
        found: dict[int, float] = {}
        for positions, priorities in store.priorities(table):
            assert (positions.dtype.str, priorities.dtype.str) == ("<u8", "<f8")
            assert positions.shape == priorities.shape
            found.update(zip(positions.tolist(), priorities.tolist(), strict=True))
        assert list(found) == sorted(found)
        return found

    def test_chain_covers_every_record(self, store: Store) -> None:
        heads = set()
        for sequence in range(20):
            assert store.link_before(sequence) == store.counters().chain_head
            store.commit([make_append(make_origin(), [sequence])], {})
            heads.add(store.counters().chain_head)
            assert store.read([sequence])[0].chain == store.counters().chain_head
        assert len(heads) == 20
        seen = []
        assert verify_chain(store, lambda done, total: seen.append((done, total))).records == 20
        assert seen[-1] == (20, 20)

    def test_the_oldest_record_is_verified_too(self, store: Store) -> None:
        store.commit([make_append(make_origin(), range(20))], {})
        store.commit([make_append(make_origin(), range(20, 24))], {}, retain_from=20)
        assert store.link_before(20) is not None
        assert verify_chain(store) == ChainReport(4, 20, 24, store.counters().chain_head)

    def test_chain_depends_on_origin_and_order(self) -> None:
        def head(*appends: Append) -> bytes:
            with self.open_store(StoreSettings()) as store:
                store.commit(appends, {})
                return store.counters().chain_head

        a, b = make_origin("a"), make_origin("b")
        heads = {
            head(make_append(a, [0]), make_append(b, [0])),
            head(make_append(b, [0]), make_append(a, [0])),
            head(make_append(a, [0, 1])),
        }
        assert len(heads) == 3
