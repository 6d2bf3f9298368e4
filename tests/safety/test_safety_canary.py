"""Canaries at the gate: judged by totals, promoted or revoked in the ledger, and what waits for that."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.artifact import artifact_digest
from policies.trust import TrustPolicy
from protos.replay.v1 import replay_pb2
from protos.safety.v1 import safety_pb2
from replay.client import ReplayUnavailable
from replay.commit_plan import FAMILY_NAMES_MAX
from replay.settings import SettingError
from safety.canaries.counts import canary_counts
from safety.canaries.rule import canary_rule
from safety.canaries.watch import CanaryWatch, judge_totals
from safety.config import SafetyConfig
from safety.docket import Docket
from safety.history import PROMOTION, REVOCATION
from safety.leases.training_totals import CountsUnreadable, TrainingCounts
from safety.ledger import LedgerError, read_ledger
from safety.promotions import PROMOTIONS_MAX, PromotionRefused
from safety.statistics.sequential import Decision, advance, judge, start
from safety.testing import record_made_up
from tests.safety.safety_process import RUN

CONFIG = SafetyConfig(
    canary_share=0.25, canary_violation_rate_max=0.2, canary_error_rate=0.05, canary_episodes_max=300, canary_s_max=60.0
)
RULE = canary_rule(CONFIG)
SECOND_NS = 1_000_000_000


def decided(episodes: int, violating: int) -> Decision:
    return judge_totals(RULE, TrainingCounts(episodes, violating))[0]


@pytest.mark.parametrize(
    ("episodes", "violating", "expected"),
    [
        (0, 0, Decision.UNDECIDED),
        (10, 0, Decision.UNDECIDED),
        (60, 0, Decision.PROMOTED),
        (60, 12, Decision.UNDECIDED),
        (10, 9, Decision.REJECTED),
        (400, 78, Decision.REJECTED),
        (300, 42, Decision.EXHAUSTED),
        (292, 42, Decision.FUTILE),
        # A portion that goes beyond the budget counts whole, and is the last one.
        (2000, 100, Decision.PROMOTED),
        (301, 43, Decision.EXHAUSTED),
        (100_000, 90_000, Decision.REJECTED),
    ],
)
def test_totals_decide(episodes: int, violating: int, expected: Decision) -> None:
    assert decided(episodes, violating) is expected


def test_totals_come_to_what_episodes_in_any_order_come_to() -> None:
    generator, compared = np.random.default_rng(1), 0
    for _ in range(40):
        losses = (generator.random(30) < 0.15).astype(np.float64)
        state = start()
        for loss in losses:
            state = advance(RULE, state, [loss])
        if state.decision is Decision.UNDECIDED:
            _, found = judge_totals(RULE, TrainingCounts(len(losses), int(losses.sum())))
            expected = judge(RULE, state, "canary")
            assert found.figures == pytest.approx(expected.figures, abs=1e-9)
            assert (found.estimate, found.explanation) == (expected.estimate, expected.explanation)
            compared += 1
    assert compared > 10


def outcome_at(rate: float, generator: np.random.Generator) -> Decision:
    """How a canary of that rate ends whose episodes come in portions of chance sizes."""
    episodes = violating = 0
    while True:
        portion = int(generator.integers(1, 80))
        episodes, violating = episodes + portion, violating + int(generator.binomial(portion, rate))
        decision = decided(episodes, violating)
        if decision is not Decision.UNDECIDED:
            return decision


def test_error_rates_hold_whatever_the_portions() -> None:
    """At the limit 1 in 20 at most is promoted; at half of it, 1 in 20 at most is rejected by evidence."""
    generator, trials = np.random.default_rng(7), 300
    five_in_hundred = 0.05 * trials + 3 * math.sqrt(trials * 0.05 * 0.95)
    at_the_limit = [outcome_at(0.2, generator) for _ in range(trials)]
    assert at_the_limit.count(Decision.PROMOTED) <= five_in_hundred
    acceptable = [outcome_at(0.1, generator) for _ in range(trials)]
    assert acceptable.count(Decision.REJECTED) <= five_in_hundred
    # And it has power: the test does not hold them by refusing everything.
    assert [outcome_at(0.05, generator) for _ in range(50)].count(Decision.PROMOTED) >= 45


def test_a_budget_that_not_even_the_best_canary_could_meet_is_an_error() -> None:
    with pytest.raises(SettingError, match=r"canary_episodes_max = 5 does not go with safety\.canary_violation_rate"):
        canary_rule(dataclasses.replace(CONFIG, canary_episodes_max=5))


class Clock:
    """Time that a test sets."""

    def __init__(self) -> None:
        self.now_ns = 1_000 * SECOND_NS

    def __call__(self) -> int:
        return self.now_ns


class Scene:
    """A docket with release 1, an ordinary one, and 2, a canary; and the watch over it, told `counts`."""

    def __init__(self, directory: Path, config: SafetyConfig = CONFIG) -> None:
        self.directory, self.config, self.clock = directory, config, Clock()
        self.counts: dict[int, TrainingCounts | str] = {}
        self.start()
        self.release(b"one", 0.0)
        self.release(b"two", 0.25)

    def start(self) -> None:
        self.docket = Docket(self.directory, RUN, self.clock)
        self.watch = CanaryWatch(self.docket, self.config, self.read, self.clock)

    def restart(self) -> None:
        self.docket.close()
        self.start()

    def release(self, data: bytes, share: float) -> None:
        record_made_up(self.docket, RUN, 1, data, canary_share=share)

    def read(self, release_number: int) -> TrainingCounts:
        counts = self.counts.get(release_number, TrainingCounts(0, 0))
        if isinstance(counts, str):
            raise CountsUnreadable(counts)
        return counts

    def look(self, episodes: int, violating: int, release: int = 2) -> None:
        self.counts[release] = TrainingCounts(episodes, violating)
        self.watch.look()

    def kinds(self) -> list[str]:
        return [entry.kind for entry in read_ledger(self.directory) if entry.kind in (PROMOTION, REVOCATION)]

    def newest(self) -> Mapping[str, Any]:
        return read_ledger(self.directory)[-1].fields


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    try:
        yield scene
    finally:
        scene.docket.close()


def test_a_canary_is_no_incumbent_until_it_is_promoted(scene: Scene) -> None:
    assert (scene.docket.undecided_canary(), scene.docket.incumbent()) == (2, (artifact_digest(b"one"), b"one"))
    scene.look(60, 0)
    assert (scene.docket.undecided_canary(), scene.docket.incumbent()) == (0, (artifact_digest(b"two"), b"two"))
    scene.restart()
    assert (scene.docket.undecided_canary(), scene.docket.incumbent()) == (0, (artifact_digest(b"two"), b"two"))


def test_a_good_canary_is_promoted_and_the_promotion_says_everything(scene: Scene) -> None:
    scene.look(20, 1)
    assert scene.kinds() == []
    scene.look(90, 3)
    assert scene.kinds() == [PROMOTION]
    (signed,), newest = scene.docket.promotions(RUN, 0, 0)
    assert newest == 1
    said = TrustPolicy(scene.docket.verify_key, RUN).check_promotion(signed)
    assert (said.promotion_number, said.release_number, said.artifact_digest) == (1, 2, artifact_digest(b"two"))
    assert (said.episodes, said.violating_episodes, said.issue_time_ns) == (90, 3, scene.clock.now_ns)
    assert said.why.startswith("canary: 3 of 90 episodes had a cost; mean loss 0.03333 over 90 of at most 300")
    *_, before, _ = read_ledger(scene.directory)
    assert said.previous_entry_digest == before.digest
    # It is decided: whatever comes of it later is not the canary's.
    scene.look(1000, 900)
    assert scene.kinds() == [PROMOTION]


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        ((10, 9), "enough evidence that it is not acceptable"),
        ((300, 42), "all episodes are used without enough evidence"),
        ((292, 42), "the episodes left could not show it any more"),
    ],
)
def test_a_bad_canary_is_revoked_and_the_one_before_stands(scene: Scene, counts: tuple[int, int], why: str) -> None:
    scene.look(*counts)
    assert scene.kinds() == [REVOCATION]
    assert scene.newest()["release_number"] == 2
    assert scene.newest()["why"].startswith(f"canary: {counts[1]} of {counts[0]} episodes had a cost; ")
    assert scene.newest()["why"].endswith(why)
    assert (scene.docket.undecided_canary(), scene.docket.incumbent()[1]) == (0, b"one")
    with pytest.raises(PromotionRefused, match="release 2 is no canary that waits"):
        scene.docket.promote(2, episodes=1, violating_episodes=0, why="")


def test_one_that_is_not_decided_in_time_is_revoked(scene: Scene) -> None:
    scene.clock.now_ns += 59 * SECOND_NS
    scene.look(10, 0)
    assert scene.kinds() == []
    scene.clock.now_ns += SECOND_NS
    scene.look(10, 0)
    assert scene.kinds() == [REVOCATION]
    why = "canary: not decided within safety.canary_s_max = 60 s: 0 of 10 episodes had a cost, which is not enough "
    assert scene.newest()["why"] == f"{why}to tell"


def test_evidence_that_suffices_counts_also_after_the_time(scene: Scene) -> None:
    """As when the service was down for long."""
    scene.clock.now_ns += 3600 * SECOND_NS
    scene.restart()
    scene.look(100, 1)
    assert scene.kinds() == [PROMOTION]


def test_while_replay_does_not_tell_nothing_but_the_time_decides(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.counts[2] = "replay is away"
    with caplog.at_level(logging.WARNING, "safety.canaries.watch"):
        for _ in range(3):
            scene.watch.look()
    assert [record.getMessage() for record in caplog.records] == [
        "release 2 is a canary, whose episodes are not known: replay is away"
    ]
    assert scene.kinds() == []
    scene.clock.now_ns += 60 * SECOND_NS
    scene.watch.look()
    assert scene.kinds() == [REVOCATION]
    assert scene.newest()["why"].endswith("60 s: replay is away")


def test_totals_that_go_back_are_not_believed(scene: Scene) -> None:
    """A replay that lost some may have lost violations."""
    scene.look(60, 8)
    scene.look(59, 0)
    scene.look(90, 3)
    assert scene.kinds() == []
    scene.look(200, 9)
    assert scene.kinds() == [PROMOTION]


def test_a_restart_begins_where_the_totals_stand(scene: Scene) -> None:
    scene.look(30, 2)
    scene.restart()
    scene.look(30, 2)
    assert scene.kinds() == []
    scene.look(120, 4)
    assert scene.kinds() == [PROMOTION]


def test_canaries_follow_one_another(scene: Scene) -> None:
    scene.look(60, 0)
    scene.release(b"three", 0.25)
    scene.watch.look()
    assert scene.docket.undecided_canary() == 3
    scene.look(10, 9, release=3)
    scene.release(b"four", 0.25)
    scene.look(60, 0, release=4)
    assert scene.kinds() == [PROMOTION, REVOCATION, PROMOTION]
    scene.restart()
    listed, newest = scene.docket.promotions(RUN, 0, 0)
    said = [safety_pb2.PromotionStatement.FromString(signed.payload) for signed in listed]
    assert [(each.promotion_number, each.release_number) for each in said] == [(1, 2), (2, 4)]
    assert newest == 2
    assert scene.docket.incumbent()[1] == b"four"


def test_without_a_canary_replay_is_not_asked(scene: Scene) -> None:
    scene.docket.revoke(RUN, 2, "by a person")
    scene.counts[1] = scene.counts[2] = "must not be asked"
    scene.clock.now_ns += 3600 * SECOND_NS
    scene.watch.look()
    assert scene.kinds() == [REVOCATION]


def test_promoting_again_gives_the_same_statement(scene: Scene) -> None:
    signed = scene.docket.promote(2, episodes=60, violating_episodes=0, why="w")
    assert scene.docket.promote(2, episodes=1, violating_episodes=1, why="v") == signed
    for number in (0, 1, 3):
        with pytest.raises(PromotionRefused, match=f"release {number} is no canary"):
            scene.docket.promote(number, episodes=1, violating_episodes=0, why="w")
    assert scene.kinds() == [PROMOTION]


def test_there_is_an_end_to_it_and_then_time_revokes(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert PROMOTIONS_MAX >= 10_000
    monkeypatch.setattr("safety.docket.PROMOTIONS_MAX", 0)
    with caplog.at_level(logging.WARNING, "safety.canaries.watch"):
        scene.look(60, 0)
    assert "canary release 2 is not promoted: 0 canaries of this run are promoted" in caplog.text
    assert scene.docket.undecided_canary() == 2


@pytest.mark.parametrize(
    ("number", "data", "revoked"), [(2, b"two", True), (1, b"two", False), (2, b"one", False), (3, b"two", False)]
)
def test_a_promotion_that_does_not_belong_into_the_ledger_is_found(
    scene: Scene, number: int, data: bytes, revoked: bool
) -> None:
    """Signed by the right key, but of what is no canary, or another one: nobody who reads the ledger believes it."""
    if revoked:
        scene.docket.revoke(RUN, 2, "by a person")
    docket = scene.docket
    with pytest.MonkeyPatch.context() as patched:
        # What a service that was broken into could write: only the check of the history is left.
        canary = safety_pb2.VerdictStatement(release_number=number, artifact_digest=artifact_digest(data))
        patched.setattr(type(docket._history), "canary", canary)
        patched.setattr(type(docket._history), "add", lambda self, entry: None)
        docket.promote(number, episodes=1, violating_episodes=0, why="w")
    scene.docket.close()
    with pytest.raises(LedgerError, match="does not say what its promotion says, or stands out of place"):
        scene.start()


class Totals:
    """A replay that answers with these totals."""

    def __init__(self, totals: Mapping[str, float]) -> None:
        self.totals = totals

    def stats(self, timeout_s: float) -> replay_pb2.StatsResponse:
        return replay_pb2.StatsResponse(appended_records=1, signal_totals=self.totals)


class Away:
    """A replay that does not answer."""

    def stats(self, timeout_s: float) -> replay_pb2.StatsResponse:
        raise ReplayUnavailable("nobody there")


def read(totals: Mapping[str, float], release: int = 12) -> TrainingCounts:
    return canary_counts(Totals(totals), release)  # type: ignore[arg-type]


def test_counts_are_those_of_the_release() -> None:
    totals = {
        "episodes": 900.0,
        "violating_episodes": 800.0,
        "release.1.episodes": 7.0,
        "release.1.violating_episodes": 5.0,
        "release.12.episodes": 30.0,
        "release.12.violating_episodes": 4.0,
    }
    assert read(totals) == TrainingCounts(30, 4)
    # Actors name the violations where there are any.
    del totals["release.12.violating_episodes"]
    assert read(totals) == TrainingCounts(30, 0)
    assert read({"episodes": 5.0, "violating_episodes": 5.0}) == TrainingCounts(0, 0)


@pytest.mark.parametrize(
    "totals",
    [
        {"release.12.episodes": 3.0, "release.12.violating_episodes": 4.0},
        {"release.12.episodes": math.nan},
        {"release.12.episodes": math.inf},
        {"release.12.episodes": 3.0, "release.12.violating_episodes": math.nan},
        {"release.12.episodes": 3.0, "release.12.violating_episodes": -1.0},
        {"release.12.episodes": -3.0},
        # Some further names may have been left out.
        {"release.12.episodes": 3.0} | {f"lease.{number}.episodes": 1.0 for number in range(FAMILY_NAMES_MAX)},
    ],
)
def test_counts_that_make_no_sense_are_not_believed(totals: Mapping[str, float]) -> None:
    with pytest.raises(CountsUnreadable):
        read({"episodes": 9.0, "violating_episodes": 9.0, **totals})


def test_totals_that_replay_does_not_keep_are_not_taken_for_none() -> None:
    with pytest.raises(CountsUnreadable, match="does not total the signals 'episodes' and 'violating_episodes'"):
        read({"release.12.episodes": 30.0})


def test_a_replay_that_does_not_answer() -> None:
    with pytest.raises(CountsUnreadable, match="replay does not tell: nobody there"):
        canary_counts(Away(), 1)  # type: ignore[arg-type]
