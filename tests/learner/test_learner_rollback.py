"""The way back: states on a real disk, a real registry, and what is taken where the best is missing or another."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from learner.checkpoint import Checkpointer
from learner.config import LearnerConfig
from learner.lineage import ConsumedRecords
from learner.lineage_archive import LineageArchive
from learner.lineage_file import Lineage, LineageHead
from learner.lineage_provenance import ConsumedProvenance
from learner.progress import Progress
from learner.publisher import artifact_bytes
from learner.rollback import RELEASES_KEPT, ReleaseStates, Rollback
from learner.train_state import TrainState, initial_state
from learner.update import compile_update, make_update
from policies.artifact import artifact_digest
from policies.registry import PolicyRegistry
from policies.signing import SigningKey
from policies.testing import RUN_ID, signed_revocation, signed_verdict
from policies.trust import TrustPolicy
from safety.client import LeaseBreached
from tests.learner.test_learner_update import CONFIG, SPEC, B, T, rewarding_action_one

ANNEALED = replace(CONFIG, learning_rate_end=0.001, anneal_updates=100)


def leaves(tree: object) -> list[np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def same(left: object, right: object) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(leaves(left), leaves(right), strict=True))


class Bench:
    """A run in which some candidates have become releases, one every ten updates."""

    def __init__(self, directory: Path, config: LearnerConfig = ANNEALED) -> None:
        self.directory, self.config, self.key = directory, config, SigningKey.generate()
        self.registry = PolicyRegistry(directory / "policies", TrustPolicy(self.key.verify_key, RUN_ID))
        self.update = make_update(SPEC, config)
        self.rng = np.random.default_rng(0)
        self.state = initial_state(SPEC, config, seed=5)
        self.progress = Progress(seed=5)
        self.states = ReleaseStates(directory / "states", SPEC)
        self.lineages = LineageArchive(directory / "lineage")
        self.at_release: dict[int, TrainState] = {}
        self.digests: dict[int, bytes] = {}
        self.revoked: set[bytes] = set()

    def train(self, updates: int) -> None:
        for _ in range(updates):
            self.state, _ = self.update(self.state, rewarding_action_one(self.rng))
            self.progress.updates += 1
            self.progress.consumed.add([self.progress.updates])

    def release(self, number: int) -> None:
        self.train(10)
        data = artifact_bytes(SPEC, self.state)
        digest = self.digests[number] = artifact_digest(data)
        self.states.offered(digest, self.state)
        self.at_release[number] = jax.tree.map(np.asarray, self.state)
        head = LineageHead(self.progress.updates, RUN_ID, 0, 0, artifact_digest=digest)
        self.lineages.write(Lineage(head, self.progress.consumed, self.progress.provenance))
        # What follows consumes the arrays.
        self.train(3)
        self.registry.promote(
            data, signed_verdict(self.key, digest, release_number=number, version=self.progress.updates - 3)
        )
        self.states.released(number, digest)
        self.progress.released(number)

    def breach(self, number: int, epoch: int = 1) -> LeaseBreached:
        return LeaseBreached(epoch, "too many violations", number, self.digests.get(number, b""))

    def roll_back(self, number: int) -> TrainState:
        way = Rollback(
            self.states,
            self.registry,
            self.directory / "lineage",
            lambda: initial_state(SPEC, self.config, seed=5),
            lambda: self.revoked,
        )
        return way.to(self.breach(number), self.progress)

    def reopen(self) -> None:
        self.states.close()
        self.states = ReleaseStates(self.directory / "states", SPEC)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    try:
        yield bench
    finally:
        bench.states.close()


def schedule_counts(state: TrainState) -> list[int]:
    nodes = jax.tree.leaves(state.optimizer_state, is_leaf=lambda node: isinstance(node, optax.ScaleByScheduleState))
    return [int(node.count) for node in nodes if isinstance(node, optax.ScaleByScheduleState)]


def averages(state: TrainState) -> optax.ScaleByAdamState:
    nodes = jax.tree.leaves(state.optimizer_state, is_leaf=lambda node: isinstance(node, optax.ScaleByAdamState))
    (found,) = [node for node in nodes if isinstance(node, optax.ScaleByAdamState)]
    return found


@pytest.mark.parametrize("restarted", [False, True])
def test_weights_and_optimizer_are_those_of_the_release_again(bench: Bench, restarted: bool) -> None:
    bench.release(1)
    bench.train(20)
    if restarted:
        bench.reopen()
    before = bench.progress.updates
    state = bench.roll_back(1)
    then = bench.at_release[1]
    assert artifact_digest(artifact_bytes(SPEC, state)) == bench.digests[1]
    assert same(state.parameters, then.parameters)
    assert same(averages(state), averages(then))
    # Versions and schedules go on, one further.
    assert int(state.updates) == bench.progress.updates == before + 1
    assert schedule_counts(state) == [before + 1]
    assert (bench.progress.rolled_back_epoch, bench.progress.rollbacks) == (1, 1)


def test_what_was_gone_back_to_can_be_trained_from_with_the_compiled_update(bench: Bench) -> None:
    bench.release(1)
    compiled = compile_update(make_update(SPEC, ANNEALED), initial_state(SPEC, ANNEALED, 5), SPEC, T, B)
    for number in (1, 0):
        state = bench.roll_back(number)
        version = int(state.updates)
        state, figures = compiled(state, rewarding_action_one(bench.rng))
        assert int(state.updates) == version + 1
        assert np.isfinite(float(figures.gradient_norm))
        # The step size is that of this moment, not that of the release.
        expected = 0.01 + (0.001 - 0.01) * version / 100
        assert float(figures.learning_rate) == pytest.approx(expected, rel=1e-4)


def test_without_a_release_the_first_parameters_are_taken(bench: Bench) -> None:
    bench.train(7)
    state = bench.roll_back(0)
    assert same(state.parameters, initial_state(SPEC, ANNEALED, seed=5).parameters)
    assert int(state.updates) == 8
    assert len(bench.progress.consumed) == 0
    assert not any(np.any(leaf) for leaf in leaves(averages(state).mu))


def test_it_has_learnt_from_what_the_release_had_learnt_from(bench: Bench) -> None:
    bench.release(1)
    bench.release(2)
    bench.roll_back(1)
    assert list(bench.progress.consumed.ranges()) == [(1, 10)]
    # Where that is not on record, it is taken to be all.
    shutil.rmtree(bench.directory / "lineage")
    bench.progress.consumed = ConsumedRecords(range(1, 90))
    bench.roll_back(2)
    assert list(bench.progress.consumed.ranges()) == [(1, 89)]
    assert isinstance(bench.progress.provenance, ConsumedProvenance)


@pytest.mark.parametrize("damage", ["missing", "another run's", "unreadable"])
def test_without_its_state_the_artifact_goes_with_a_fresh_optimizer(bench: Bench, damage: str) -> None:
    bench.release(1)
    bench.reopen()
    held = bench.directory / "states" / "1"
    if damage == "missing":
        shutil.rmtree(held)
        bench.reopen()
    elif damage == "unreadable":
        for path in (held / "state").rglob("*"):
            if path.is_file():
                path.write_bytes(b"")
    else:
        bench.digests[1], digest = b"\x01" * 32, bench.digests[1]
        assert bench.states.restore(1, bench.digests[1], bench.state) is None
        bench.digests[1] = digest
        shutil.rmtree(held)
        other = ReleaseStates(bench.directory / "other", SPEC)
        other.offered(digest, initial_state(SPEC, ANNEALED, seed=6))
        other.released(1, digest)
        other.close()
        shutil.copytree(bench.directory / "other" / "1", held)
        bench.reopen()
    state = bench.roll_back(1)
    assert same(state.parameters, bench.at_release[1].parameters)
    assert int(averages(state).count) == 0
    assert (bench.progress.undone_after, bench.progress.undone_until) == (10, 13)


def test_where_the_release_is_gone_or_revoked_the_one_before_it_is_taken(bench: Bench) -> None:
    for number in (1, 2, 3):
        bench.release(number)
    bench.registry.revoke(signed_revocation(bench.key, bench.digests[3], release_number=3))
    assert same(bench.roll_back(3).parameters, bench.at_release[2].parameters)
    # Known to be revoked, but not stored yet.
    bench.revoked.add(bench.digests[2])
    assert same(bench.roll_back(3).parameters, bench.at_release[1].parameters)
    bench.revoked.add(bench.digests[1])
    assert same(bench.roll_back(3).parameters, initial_state(SPEC, ANNEALED, seed=5).parameters)
    # A newer one than was named is never taken.
    bench.revoked.clear()
    assert same(bench.roll_back(1).parameters, bench.at_release[1].parameters)


def test_a_release_that_nobody_here_has_heard_of_is_passed_over(bench: Bench) -> None:
    bench.release(1)
    bench.digests[2] = b"\x02" * 32
    assert same(bench.roll_back(2).parameters, bench.at_release[1].parameters)


def test_of_another_network_there_is_nothing_to_go_back_to(bench: Bench) -> None:
    bench.release(1)
    bench.config = replace(ANNEALED, optimizer="rmsprop")
    state = bench.roll_back(1)
    # The weights fit, the optimizer's state does not.
    assert same(state.parameters, bench.at_release[1].parameters)
    assert schedule_counts(state) == [bench.progress.updates]


def test_only_the_newest_states_are_kept_and_other_candidates_none(bench: Bench) -> None:
    for number in range(1, RELEASES_KEPT + 2):
        bench.release(number)
    bench.states.released(99, b"\x07" * 32)
    bench.reopen()
    held = sorted(int(path.name) for path in (bench.directory / "states").iterdir() if path.name.isdecimal())
    assert held == list(range(2, RELEASES_KEPT + 2))


def test_a_verdict_that_is_told_again_changes_nothing(bench: Bench) -> None:
    bench.release(1)
    bench.states.offered(bench.digests[1], bench.state)
    bench.states.released(1, bench.digests[1])
    bench.reopen()
    assert same(bench.roll_back(1).parameters, bench.at_release[1].parameters)


def test_a_checkpoint_of_what_was_gone_back_to_is_the_newest(bench: Bench, tmp_path: Path) -> None:
    checkpoints = Checkpointer(tmp_path / "checkpoints", kept=2)
    bench.release(1)
    checkpoints.save(bench.state, bench.progress)
    state = bench.roll_back(1)
    checkpoints.save(state, bench.progress)
    checkpoints.wait()
    restored = checkpoints.restore(initial_state(SPEC, ANNEALED, seed=5))
    checkpoints.close()
    assert restored is not None
    assert same(restored[0], state)
    assert restored[1].to_json() == bench.progress.to_json()
    assert restored[1].rolled_back_epoch == 1
