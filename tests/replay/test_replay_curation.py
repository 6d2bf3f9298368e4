"""Rules run over records: what is written, what is not written twice, and what happens when something fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping

import numpy as np
import pytest

from replay.client import ReplayClient
from replay.client_errors import ReplayUnavailable
from replay.curation import curator as curator_module
from replay.curation.catalog import choose_rules
from replay.curation.context import CurationContext
from replay.curation.curator import CurationResult, Curator
from replay.curation.ingest import IngestCuration
from replay.curation.rules import ChosenRule, Rule, RuleFunction
from replay.record import LoggedRecord
from replay.sharding import global_position
from replay.testing import serving
from tests.replay.listed_source import ListedSource, record_of, unroll_columns
from tests.replay.writing import append, writer_to

TIMEOUT_S = 20.0


def records_at(positions: range, **more: object) -> list[LoggedRecord]:
    return [record_of(unroll_columns(2, seed=position % 7), position=position) for position in positions]


def plain(function: RuleFunction, *signals: str, needs_payload: bool = False) -> ChosenRule:
    return ChosenRule(Rule(function.__name__, function, signals, needs_payload, {}), {})


def position_of(record: LoggedRecord, _context: CurationContext) -> Mapping[str, float]:
    return {"at": float(record.position)}


def test_every_record_is_given_its_signals() -> None:
    source = ListedSource(records_at(range(5, 25)))
    done: list[int] = []
    result = Curator(choose_rules(["fidelity", "duplicate_of"])).run(source, progress=done.append)
    assert (result.records, result.annotated, result.next_position, sum(done)) == (20, 20, 25, 20)
    assert result.signals == {"fidelity": 20, "duplicate_of": 13}
    assert source.marks(5) == {"fidelity": 1.0}
    assert source.marks(12) == {"fidelity": 1.0, "duplicate_of": 5.0}
    assert result.failures == {}


def test_positions_in_every_early_shard_can_be_written() -> None:
    first = global_position(4, 0)
    source = ListedSource(records_at(range(first, first + 8)))
    result = Curator(choose_rules(["duplicate_of"])).run(source)
    assert result.failures == {}
    assert source.marks(first + 7) == {"duplicate_of": float(first)}


def test_a_second_run_writes_nothing() -> None:
    source = ListedSource(records_at(range(20)))
    rules = choose_rules(["fidelity", "near_duplicate_of", "novelty", "violations"])
    first = Curator(rules, seed=3).run(source)
    written = source.annotations
    second = Curator(rules, seed=3).run(source)
    assert (first.annotated, second.records, second.annotated) == (20, 20, 0)
    assert source.annotations == written


def test_which_records_and_where_to_go_on() -> None:
    source = ListedSource(records_at(range(30)))
    curator = Curator([plain(position_of, "at")])
    result = curator.run(source, filter_text="position != 12", from_position=10, limit=5)
    assert [position for position in range(30) if source.marks(position)] == [10, 11, 13, 14, 15]
    assert result.next_position == curator.next_position == 16
    assert curator.run(source, from_position=30).next_position == 30


def test_a_dry_run_only_counts() -> None:
    source = ListedSource(records_at(range(8)))
    result = Curator([plain(position_of, "at")]).run(source, dry_run=True)
    assert (result.annotated, result.signals, source.annotations) == (8, {"at": 8}, 0)


def test_payloads_are_read_only_for_rules_that_need_them() -> None:
    seen: list[int] = []

    def size(record: LoggedRecord, _context: CurationContext) -> Mapping[str, float]:
        seen.append(len(record.payload))
        return {}

    source = ListedSource(records_at(range(3)))
    Curator([plain(size, "a")]).run(source)
    assert seen == [0, 0, 0]
    Curator([plain(size, "a", needs_payload=True)]).run(source)
    assert min(seen[3:]) > 0


def test_each_rule_has_a_memory_of_its_own() -> None:
    source = ListedSource(records_at(range(14)))
    result = Curator(choose_rules(["duplicate_of", "near_duplicate_of"])).run(source)
    assert result.signals == {"duplicate_of": 7, "near_duplicate_of": 7}


def test_large_logs_are_written_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curator_module, "GROUP_RECORDS", 8)
    source = ListedSource(records_at(range(30)))
    groups: list[int] = []
    write = source.annotate

    def annotate(signals: Mapping[int, Mapping[str, float]]) -> int:
        groups.append(len(signals))
        return write(signals)

    monkeypatch.setattr(source, "annotate", annotate)
    Curator([plain(position_of, "at")]).run(source)
    assert groups == [8, 8, 8, 6]


def test_a_rule_that_fails_is_counted_and_the_others_go_on() -> None:
    def fails_now_and_then(record: LoggedRecord, _context: CurationContext) -> Mapping[str, float]:
        if record.position % 3 == 1:
            raise RuntimeError("no\nidea")
        return {"odd": 1.0}

    source = ListedSource(records_at(range(9)))
    result = Curator([plain(fails_now_and_then, "odd"), plain(position_of, "at")]).run(source)
    assert result.signals == {"odd": 6, "at": 9}
    failures = result.failures["fails_now_and_then"]
    assert (failures.count, failures.first) == (3, "at position 1: RuntimeError: no idea")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"other": 1.0}, "it gave the signal 'other', but is registered for mine"),
        ({"mine": float("nan")}, "must be finite"),
        ({"mine": 1e16}, "within"),
        ({"mine": "much"}, "could not convert"),
        (None, "AttributeError"),
    ],
)
def test_signals_that_cannot_be_written_are_failures(given: object, message: str) -> None:
    def odd(_record: LoggedRecord, _context: CurationContext) -> Mapping[str, float]:
        return given  # type: ignore[return-value]

    source = ListedSource(records_at(range(2)))
    result = Curator([plain(odd, "mine")]).run(source)
    assert result.failures["odd"].count == 2
    assert message in result.failures["odd"].first
    assert source.annotations == 0


def test_no_rule_is_no_curation() -> None:
    with pytest.raises(ValueError, match="no rule to run"):
        Curator([])


class Breaking(ListedSource):
    """Breaks off after some records, as often as it is told to."""

    breaks = 0

    def records(
        self, *, filter_text: str = "", from_position: int = 0, limit: int = 0, with_payload: bool = False
    ) -> Iterator[LoggedRecord]:
        for count, record in enumerate(
            super().records(
                filter_text=filter_text, from_position=from_position, limit=limit, with_payload=with_payload
            )
        ):
            if count == 10 and self.breaks:
                self.breaks -= 1
                raise ReplayUnavailable("replay is away")
            yield record


def test_a_run_that_broke_off_says_up_to_where_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curator_module, "GROUP_RECORDS", 4)
    source = Breaking(records_at(range(30)))
    source.breaks = 1
    curator = Curator([plain(position_of, "at")])
    with pytest.raises(ReplayUnavailable):
        curator.run(source)
    assert curator.next_position == 8
    assert [position for position in range(30) if source.marks(position)] == list(range(8))
    assert curator.run(source, from_position=curator.next_position).annotated == 22


def test_the_rules_see_no_record_twice_though_runs_break_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Novelty counts what it sees: of a record seen twice it would say too little."""
    monkeypatch.setattr(curator_module, "GROUP_RECORDS", 7)
    records = records_at(range(30))
    whole, source = ListedSource(records), Breaking(records)
    Curator(choose_rules(["novelty"])).run(whole)
    source.breaks = 2
    curator = Curator(choose_rules(["novelty"]))
    results = []
    for _ in range(2):
        with pytest.raises(ReplayUnavailable):
            curator.run(source, from_position=curator.next_position)
        assert curator.next_position < 30
    while curator.next_position < 30:
        results.append(curator.run(source, from_position=curator.next_position, limit=4))
    assert [source.marks(position) for position in range(30)] == [whole.marks(position) for position in range(30)]
    assert sum(result.records for result in results) + 14 == 30, "14 were written before it broke off"


def test_what_could_not_be_written_is_written_by_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(record: LoggedRecord, _context: CurationContext) -> Mapping[str, float]:
        calls.append(record.position)
        if record.position == 3:
            raise RuntimeError("three")
        return {"at": 1.0}

    def away(signals: Mapping[int, Mapping[str, float]]) -> int:
        raise ReplayUnavailable("replay is away")

    source = ListedSource(records_at(range(10)))
    curator = Curator([plain(counted, "at")])
    with monkeypatch.context() as patch:
        patch.setattr(source, "annotate", away)
        for _ in range(3):
            with pytest.raises(ReplayUnavailable):
                curator.run(source, from_position=curator.next_position)
    result = curator.run(source, from_position=curator.next_position)
    assert (result.records, result.annotated, result.next_position) == (10, 9, 10)
    assert result.failures["counted"].count == 1
    assert calls == list(range(10))


def test_a_run_that_is_told_to_stop_writes_what_was_said_by_then() -> None:
    source = ListedSource(records_at(range(10)))
    asked = iter(range(100))
    result = Curator([plain(position_of, "at")]).run(source, stop=lambda: next(asked) == 6)
    assert (result.records, result.annotated, result.next_position) == (6, 6, 6)


def test_a_rule_that_wants_to_end_the_process_has_failed() -> None:
    def leave(_record: LoggedRecord, _context: CurationContext) -> Mapping[str, float]:
        raise SystemExit(3)

    result = Curator([plain(leave, "a")]).run(ListedSource(records_at(range(2))))
    assert result.failures["leave"].first == "at position 0: SystemExit: 3"


def test_numbers_that_are_none_are_judged_without_a_warning() -> None:
    columns = unroll_columns(4)
    columns["observation"][1] = [np.nan, np.inf, -np.inf, 1e38]
    result = Curator(choose_rules(["novelty", "fidelity", "near_duplicate_of"])).run(ListedSource([record_of(columns)]))
    assert result.failures == {}
    assert result.signals == {"novelty": 1, "fidelity": 1}


def test_planes_are_kept_for_a_few_kinds_of_states_only() -> None:
    context = CurationContext()
    vectors = {size: np.random.default_rng(size).standard_normal((3, size)) for size in range(1, 40)}
    codes = {size: context.simhash(values).tolist() for size, values in vectors.items()}
    assert len(context._simhash) == 8
    assert {size: context.simhash(values).tolist() for size, values in vectors.items()} == codes


def follow(curation: IngestCuration, until: threading.Event) -> tuple[threading.Thread, threading.Event]:
    stop = threading.Event()
    thread = threading.Thread(target=curation.run, args=(stop,))
    thread.start()
    assert until.wait(TIMEOUT_S)
    return thread, stop


def test_records_are_judged_as_they_arrive() -> None:
    source = ListedSource(records_at(range(10)))
    seen: list[int] = []
    first, second = threading.Event(), threading.Event()

    def on_batch(result: CurationResult) -> None:
        seen.append(result.records)
        if sum(seen) == 10:
            first.set()
        if sum(seen) == 25:
            second.set()

    curation = IngestCuration(
        source, Curator([plain(position_of, "at")]), batch_records=4, poll_s=0.01, on_batch=on_batch
    )
    thread, stop = follow(curation, first)
    source.append(records_at(range(10, 25)))
    assert second.wait(TIMEOUT_S)
    stop.set()
    thread.join(TIMEOUT_S)
    assert not thread.is_alive()
    assert all(source.marks(position) == {"at": float(position)} for position in range(25))
    assert max(seen) == 4
    assert curation.next_position == 25


def test_what_a_filter_keeps_out_is_not_looked_at_again_and_again() -> None:
    source = ListedSource(records_at(range(50)))
    asked: list[int] = []
    done = threading.Event()
    listed = source.records

    def records(
        *, filter_text: str = "", from_position: int = 0, limit: int = 0, with_payload: bool = False
    ) -> Iterator[LoggedRecord]:
        asked.append(from_position)
        if len(asked) == 4:
            done.set()
        return listed(filter_text=filter_text, from_position=from_position, limit=limit, with_payload=with_payload)

    source.records = records  # type: ignore[method-assign]
    curation = IngestCuration(source, Curator([plain(position_of, "at")]), filter_text="position < 3", poll_s=0.01)
    thread, stop = follow(curation, done)
    stop.set()
    thread.join(TIMEOUT_S)
    assert asked[0] == 0
    assert set(asked[1:]) == {50}


def test_a_service_that_is_away_is_waited_for() -> None:
    source = Breaking(records_at(range(30)))
    source.breaks = 2
    done = threading.Event()
    curation = IngestCuration(
        source,
        Curator([plain(position_of, "at")]),
        poll_s=0.01,
        on_batch=lambda result: done.set() if result.next_position == 30 else None,
    )
    thread, stop = follow(curation, done)
    stop.set()
    thread.join(TIMEOUT_S)
    assert all(source.marks(position) for position in range(30))


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_of_time_that_is_none(share: float) -> None:
    with pytest.raises(ValueError, match="work_share_max"):
        IngestCuration(ListedSource([]), Curator([plain(position_of, "at")]), work_share_max=share)


def test_it_rests_as_long_as_it_works() -> None:
    def slow(_record: LoggedRecord, _context: CurationContext) -> Mapping[str, float]:
        time.sleep(0.02)
        return {}

    source = ListedSource(records_at(range(10)))
    curation = IngestCuration(source, Curator([plain(slow, "a")]), batch_records=5, work_share_max=0.25)
    assert curation._round(threading.Event()) >= 0.3 * 0.9


def test_over_a_real_service() -> None:
    with serving() as address, ReplayClient(address) as client:
        writer = writer_to(address)
        append(writer, 40)
        writer.close(TIMEOUT_S)
        result = Curator(choose_rules(["duplicate_of", "novelty", "fidelity"])).run(client)
        assert (result.records, result.annotated, result.failures) == (40, 40, {})
        duplicates = client.records(filter_text="signals.duplicate_of == 0")
        assert sum(1 for _ in duplicates) == 39
        assert Curator(choose_rules(["duplicate_of"])).run(client).annotated == 0
