"""Counters of a run: recent return over about 100 episodes, lag figures, and a round trip through JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from learner.progress import Progress, ProgressError
from protos.common.v1 import common_pb2
from replay.testing import make_header, make_origin


def ended(returns: float, episodes: int) -> common_pb2.RecordHeader:
    return common_pb2.RecordHeader(signals={"return": returns, "episodes": episodes, "steps": 20})


def test_recent_return_needs_twenty_episodes_and_looks_back_a_hundred() -> None:
    progress = Progress(seed=0)
    progress.add_episodes([ended(10.0, 1)] * 19)
    assert progress.recent_return is None
    progress.add_episodes([ended(0.0, 0)] * 50)
    assert progress.recent_return is None
    progress.add_episodes([ended(10.0, 1)])
    assert progress.recent_return == pytest.approx(10.0)
    progress.add_episodes([ended(40.0, 2)] * 50)
    assert progress.recent_return == pytest.approx(20.0)


def test_lag_is_a_mean_over_the_run_and_a_recent_percentile() -> None:
    progress = Progress(seed=0)
    assert progress.policy_lag == {"mean": 0.0, "p95": 0.0}
    progress.add_lags(np.arange(100.0))
    assert progress.policy_lag["mean"] == pytest.approx(49.5)
    assert progress.policy_lag["p95"] == pytest.approx(94.05)


def test_round_trip_through_json() -> None:
    progress = Progress(seed=7, updates=3, env_steps=99, wall_s=1.5)
    progress.add_lags(np.array([0.0, 2.5]))
    progress.add_episodes([ended(5.0, 1)])
    progress.add_records([4, 5, 9, 4], [make_header()] * 4, [make_origin()] * 4)
    again = Progress.from_json(json.loads(json.dumps(progress.to_json())))
    assert json.dumps(again.to_json()) == json.dumps(progress.to_json())
    assert 9 in again.consumed
    assert [counts.records for counts in again.provenance.streams.values()] == [3]
    assert again.recent_lags.maxlen == progress.recent_lags.maxlen


@pytest.mark.parametrize("consumed", [[[0, 99]], "not base64", "AAAA", None])
def test_what_another_version_kept_is_refused(consumed: object) -> None:
    """The first version kept ranges."""
    plain = Progress(seed=7).to_json() | {"consumed": consumed}
    with pytest.raises(ProgressError, match="kept by another version"):
        Progress.from_json(plain)
    del plain["consumed"]
    with pytest.raises(ProgressError, match="kept by another version"):
        Progress.from_json(plain)


def test_after_a_rollback_what_undone_weights_made_is_told_apart() -> None:
    def acted(*versions: int) -> common_pb2.RecordHeader:
        return common_pb2.RecordHeader(policies=[common_pb2.PolicySpan(version=version) for version in versions])

    progress = Progress(seed=0, updates=30)
    progress.add_episodes([ended(10.0, 30)])
    assert not progress.is_undone([acted(0), acted(30)])
    progress.roll_back(1, version=10)
    assert (progress.updates, progress.rolled_back_epoch, progress.recent_return) == (31, 1, None)
    assert not progress.is_undone([acted(10), acted(31), acted(9, 32)])
    assert progress.is_undone([acted(10), acted(10, 11)])
    assert progress.is_undone([acted(30)])
    again = Progress.from_json(json.loads(json.dumps(progress.to_json())))
    assert again.is_undone([acted(11)])
    assert again.rolled_back_epoch == 1
    # What undid nothing leaves nothing undone.
    first = Progress(seed=0)
    first.roll_back(1, version=0)
    assert not first.is_undone([acted(0), acted(1)])


def test_rollbacks_are_counted_up_to_a_new_release() -> None:
    progress = Progress(seed=0)
    progress.released(3)
    for epoch in (1, 2):
        progress.roll_back(epoch, 0)
    assert (progress.rollbacks, progress.rollbacks_in_a_row) == (2, 2)
    progress.released(3)
    assert progress.rollbacks_in_a_row == 2
    progress.released(4)
    assert (progress.rollbacks, progress.rollbacks_in_a_row) == (2, 0)


def test_a_checkpoint_from_before_there_were_rollbacks_has_had_none() -> None:
    plain = Progress(seed=7, updates=3).to_json()
    for name in ("rolled_back_epoch", "rollbacks", "undone_until", "newest_release"):
        del plain[name]
    assert Progress.from_json(plain).rolled_back_epoch == 0
