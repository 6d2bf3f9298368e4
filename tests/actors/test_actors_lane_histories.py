"""Which records lead up to which, by their headers alone."""

from __future__ import annotations

from actors.lane_histories import History, LaneHistories
from protos.common.v1 import common_pb2
from replay.record import LoggedRecord


def seen(
    position: int, episode: int, episode_step: int, *, sequence: int | None = None, lane: int = 0, actor_id: str = "a"
) -> LoggedRecord:
    header = common_pb2.RecordHeader(
        sequence=position if sequence is None else sequence, lane=lane, episode=episode, episode_step=episode_step
    )
    return LoggedRecord(position, header, common_pb2.Origin(actor_id=actor_id, run_id="r"))


def test_a_record_that_begins_an_episode_needs_none_before_it() -> None:
    histories = LaneHistories()
    assert histories.add(seen(0, 0, 0)) == History((), "", True)
    assert histories.add(seen(1, 1, 0)) == History((), "", True)


def test_those_since_the_episode_began() -> None:
    histories = LaneHistories()
    given = [histories.add(seen(p, e, s)) for p, (e, s) in enumerate([(0, 0), (0, 4), (2, 1), (2, 5), (2, 9), (3, 2)])]
    # Episode 2 begins in record 1, after the end of episode 0; episode 3 in record 4.
    assert [history.before for history in given] == [(), (0,), (1,), (1, 2), (1, 2, 3), (4,)]
    assert all(history.unbroken and not history.missing for history in given)


def test_lanes_and_actors_are_kept_apart() -> None:
    histories = LaneHistories()
    for position, lane in enumerate([0, 1, 0, 1]):
        history = histories.add(seen(position, 0, 5 * (position // 2), lane=lane))
    assert history.before == (1,)
    assert histories.add(seen(4, 0, 5, lane=1, actor_id="b", sequence=0)).before == ()


def test_a_missing_sequence_is_noticed() -> None:
    histories = LaneHistories()
    histories.add(seen(0, 0, 0, sequence=0))
    assert histories.add(seen(1, 0, 4, sequence=1)).unbroken
    assert not histories.add(seen(2, 0, 8, sequence=3)).unbroken
    assert not histories.add(seen(3, 0, 12, sequence=4)).unbroken
    histories.add(seen(4, 1, 0, sequence=5))
    assert histories.add(seen(5, 1, 4, sequence=6)) == History((4,), "", True)


def test_the_beginning_was_evicted() -> None:
    history = LaneHistories().add(seen(7, 3, 12))
    assert history == History((), "the record that its first episode began in is not in the store", False)


def test_there_never_was_a_beginning() -> None:
    """Nothing of the run is missing, so what the header says cannot be."""
    histories = LaneHistories()
    assert histories.add(seen(0, 0, 12, sequence=0)).unbroken
    assert not histories.add(seen(1, 0, 16, sequence=1)).unbroken, "that is the fault of the record before"


def test_an_episode_that_goes_on_for_too_long() -> None:
    histories = LaneHistories(before_max=3)
    given = [histories.add(seen(position, 0, 4 * position)) for position in range(6)]
    assert [len(history.before) for history in given] == [0, 1, 2, 3, 0, 0]
    assert given[4].missing == "its first episode began more than 3 records, or 256 MiB, before it"
    assert not given[4].unbroken


def test_lanes_not_heard_of_for_long_are_forgotten_and_known_to_be() -> None:
    histories = LaneHistories(lanes_max=2)
    for lane in range(3):
        histories.add(seen(lane, 0, 0, lane=lane))
    forgotten = histories.add(seen(3, 0, 4, lane=0))
    assert (forgotten.before, forgotten.unbroken) == ((), False)


def test_records_out_of_order_prove_nothing() -> None:
    histories = LaneHistories()
    for sequence in (0, 2, 1):
        history = histories.add(seen(sequence, 0, 4 * sequence, sequence=sequence))
    assert not history.unbroken


def test_what_leads_up_to_a_record_is_bounded_in_bytes() -> None:
    histories = LaneHistories(before_bytes_max=30 << 20)
    given = [histories.add(seen(position, 0, 4 * position), 10 << 20) for position in range(5)]
    assert [len(history.before) for history in given] == [0, 1, 2, 3, 0]
    assert [history.payload_bytes >> 20 for history in given] == [0, 10, 20, 30, 0]
    assert given[4].missing == "its first episode began more than 256 records, or 30 MiB, before it"
    assert histories.add(seen(5, 1, 0), 10 << 20) == History((), "", True)
    assert histories.add(seen(6, 1, 4), 10 << 20) == History((5,), "", True, 10 << 20)


def test_so_many_records_are_remembered_and_no_more() -> None:
    histories = LaneHistories(records_max=100)
    # Lanes that nothing comes of any more are forgotten first.
    for position in range(40):
        histories.add(seen(position, 0, 4 * position, sequence=position, actor_id="long ago"))
    # Ten lanes whose episodes do not end: more of each are wanted than there is room for.
    before = [[0] * 40 for _ in range(10)]
    for step in range(40):
        for lane in range(10):
            position = 40 + 10 * step + lane
            history = histories.add(seen(position, 0, 4 * step, lane=lane, sequence=position - 40))
            before[lane][step] = len(history.before)
            assert history.unbroken == (len(history.before) == step)
            assert bool(history.missing) == (len(history.before) < step)
        assert sum(lane[step] for lane in before) <= 100
    assert all(max(lane) >= 5 for lane in before)
    # As soon as the next one begins all is well.
    for lane in range(10):
        assert histories.add(seen(1000 + lane, 1, 0, lane=lane, sequence=400 + lane)).unbroken
    assert histories.add(seen(1010, 1, 4, lane=3, sequence=410)).before == (1003,)
