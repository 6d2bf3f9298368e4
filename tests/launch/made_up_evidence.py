"""A run whose gate has judged candidates, with the evidence of its verdicts, some of it made up. Not a test.

`begin` gives three candidates whose episodes are made up; nothing was run, but all is judged, signed and entered as the
gate does it: update 100 was approved (release 1), update 200 is too risky and was rejected, update 300 lost return and
was deferred. Slices are "held-out" and "noisy". `begin_really` gives one candidate that really was evaluated.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors.config import EnvironmentConfig
from launch.run_paths import RunPaths
from policies.artifact import artifact_digest
from policies.signing import VERDICT_TYPE, SigningKey, sign
from policies.testing import make_artifact
from protos.safety.v1 import safety_pb2
from safety.begun_evaluations import EVALUATION, BegunEvaluation, evaluation_fields
from safety.config import SafetyConfig
from safety.criteria import criterion_result
from safety.evaluation.episodes import EpisodeOutcomes
from safety.evaluation.plants import Plant
from safety.evaluation.pool import EvaluatorPool, PolicyJob
from safety.evidence.counts import (
    detector_calibration,
    return_interval,
    seeds_digest,
    slice_counts,
    violating_episodes,
)
from safety.evidence.file import EpisodeEvidence, Evidence, PlantEvidence, SliceEvidence, write_evidence
from safety.history import VERDICT
from safety.in_toto import SIGNATURE_FIELD, sign_in_toto
from safety.keys.history import OPENED, opening_fields
from safety.ledger import Ledger
from safety.statistics.combination import Outcome
from safety.statistics.counts import Severity
from safety.statistics.risk_budget import SeverityWeights
from safety.suites.manifest import draw_seeds, seed_commitment
from safety.suites.spec import Perturbation, SeverityScale, SliceSpec, SuiteSpec, suite_from_settings
from safety.trials.levels import Level, Schedule, next_level
from safety.trials.trial import Trial
from safety.verdicts import ledger_fields
from tests.launch import made_up_run

RUN = "run-a"
LANES = 16

Alter = Callable[[safety_pb2.VerdictStatement], None]
"""Changes a statement before it is signed."""


@dataclasses.dataclass(frozen=True)
class Conduct:
    """How a made-up policy does: rates of episodes with events, by class, and the mean of its returns."""

    minor: float = 0.05
    major: float = 0.0
    severe: float = 0.0
    mean_return: float = 10.0


GOOD, RISKY, WEAK = Conduct(), Conduct(minor=0.2, major=0.2, severe=0.6), Conduct(mean_return=7.0)


class MadeUpGate:
    """The safety directory of a run, to be entered into.

    Args:
      root: of the run directory, which is made.
    """

    def __init__(self, root: Path) -> None:
        self.paths = made_up_run.begin(root)
        self.paths.run_id.write_text(RUN + "\n")
        self.paths.safety.mkdir()
        self.key = SigningKey.generate()
        self.key.verify_key.save(self.paths.verify_key)
        self._ledger = Ledger(self.paths.safety)
        self._number, self._released = 0, 0
        commitment = seed_commitment(self.seed_key).hex()
        keys = opening_fields(self.key, SigningKey.generate().verify_key, RUN, 1_700_000_000_000_000_000)
        opened = {"run_id": RUN, "seed_commitment": commitment, **keys}
        self._ledger.append(OPENED, lambda _: opened)

    @property
    def seed_key(self) -> bytes:
        """Of the next evaluation."""
        return bytes([self._number + 1]) * 32

    def enter(self, evidence: Evidence, alter: Alter | None = None) -> None:
        """Writes the evidence, and enters that its evaluation began, and the verdict that it gives."""
        digest = write_evidence(self.paths.safety, evidence)
        self._number += 1
        approved = evidence.outcome is Outcome.APPROVED
        self._released += approved

        def make_statement(previous: bytes) -> safety_pb2.VerdictStatement:
            statement = safety_pb2.VerdictStatement(
                verdict_id=f"{self._number:02d}ab" * 8,
                run_id=RUN,
                version=evidence.version,
                artifact_digest=evidence.artifact_digest,
                approved=approved,
                reason="; ".join(evidence.reasons),
                release_number=self._released if approved else 0,
                criteria=[criterion_result(finding) for finding in evidence.findings],
                suite_digest=evidence.suite_digest,
                criteria_digest=evidence.criteria_digest,
                seed_manifest_digest=seeds_digest(evidence.slices),
                violating_episodes=violating_episodes(evidence.slices),
                episodes=sum(len(each.seeds) for each in evidence.slices),
                return_mean=return_interval(evidence.slices).mean,
                issue_time_ns=1_800_000_000_000_000_000 + self._number,
                expiry_time_ns=1_900_000_000_000_000_000,
                previous_entry_digest=previous,
                incumbent_digest=evidence.incumbent_digest,
                seed_key=evidence.seed_key,
                next_seed_commitment=seed_commitment(self.seed_key),
                outcome=f"OUTCOME_{evidence.outcome.name}",
                lifetime_index=evidence.lifetime_index,
                error_level=evidence.error_level,
                evidence_digest=digest,
                detector=detector_calibration(evidence.slices),
                slices=[slice_counts(each) for each in evidence.slices],
                deferred_in_a_row=1 if evidence.outcome is Outcome.DEFERRED else 0,
            )
            if alter is not None:
                alter(statement)
            return statement

        def compose(previous: bytes) -> Mapping[str, Any]:
            statement = make_statement(previous)
            signed = sign(self.key, VERDICT_TYPE, statement.SerializeToString(deterministic=True))
            attested = sign_in_toto(self.key, statement)
            return {**ledger_fields(signed, statement, self._number), SIGNATURE_FIELD: attested}

        self._begin(make_statement(b""))
        self._ledger.append(VERDICT, compose)

    def _begin(self, statement: safety_pb2.VerdictStatement) -> None:
        """Enters that the evaluation of this verdict begins, if it has one."""
        if not statement.lifetime_index:
            return
        begun = BegunEvaluation(
            number=self._number,
            run_id=RUN,
            version=statement.version,
            artifact_digest=statement.artifact_digest,
            lifetime_index=statement.lifetime_index,
            error_level=statement.error_level,
            criteria_digest=statement.criteria_digest,
            suite_digest=statement.suite_digest,
            next_commitment=statement.next_seed_commitment,
        )
        self._ledger.append(EVALUATION, lambda _: evaluation_fields(begun))

    def close(self) -> None:
        """Frees the ledger."""
        self._ledger.close()


def begin(root: Path, *, alter: Alter | None = None, missed: int = 0) -> RunPaths:
    """The run directory; `alter` changes the last statement, whose detector also misses so many plants."""
    gate, suite = MadeUpGate(root), make_suite()
    good = judge(suite, gate.seed_key, 100, [], GOOD, b"")
    gate.enter(good)
    gate.enter(judge(suite, gate.seed_key, 200, [True], RISKY, good.artifact_digest))
    gate.enter(judge(suite, gate.seed_key, 300, [True, False], WEAK, good.artifact_digest, missed=missed), alter)
    gate.close()
    return gate.paths


def make_suite() -> SuiteSpec:
    """Two slices of cartpole, with events of all classes and a budget for their weights."""
    settings = SafetyConfig(episodes=100, episodes_max=300, risk_budget=0.9, violation_rate_max=0.15)
    environment = EnvironmentConfig(name="cartpole", episode_steps_max=60, cart_margin=0.05)
    suite = suite_from_settings(settings, environment)
    (first,) = suite.slices
    noisy = SliceSpec("noisy", environment, (Perturbation("action_noise", 0.1),), first.limits)
    scale = SeverityScale(minor=0.0, major=0.5, severe=1.5)
    weights = SeverityWeights(minor=0.1, major=0.5, severe=3.0)
    return dataclasses.replace(suite, name="made-up", slices=(first, noisy), severity=scale, weights=weights)


def artifact_of(version: int) -> bytes:
    """The artifact of a candidate; it fits cartpole."""
    return make_artifact(seed=version).to_bytes()


def judge(
    suite: SuiteSpec,
    key: bytes,
    version: int,
    approvals: Sequence[bool],
    ours: Conduct,
    incumbent: bytes,
    *,
    missed: int = 0,
) -> Evidence:
    """The evidence about a candidate whose episodes are made up, and about GOOD as the incumbent where there is one."""
    level = next_level(Schedule(suite.error_rate, suite.error_schedule), approvals)
    trial = Trial(suite, level, key, lanes=LANES, incumbent=bool(incumbent))
    trial.take_plants([planted(plants, missed) for plants in trial.plants])
    luck = np.random.default_rng(version)
    while not trial.over:
        for portion in trial.wants():
            theirs = episodes(luck, len(portion.seeds), GOOD) if incumbent else None
            trial.take(portion, episodes(luck, len(portion.seeds), ours), theirs)
    combined = trial.conclude(deferred_in_a_row=0)
    evidence = make_evidence(suite, key, version, level, incumbent, trial.evidence())
    return dataclasses.replace(evidence, findings=combined.findings, outcome=combined.outcome, reasons=combined.reasons)


def make_evidence(
    suite: SuiteSpec, key: bytes, version: int, level: Level, incumbent: bytes, slices: tuple[SliceEvidence, ...]
) -> Evidence:
    """Evidence of those slices that found nothing, and rejects."""
    return Evidence(
        run_id=RUN,
        version=version,
        artifact_digest=artifact_digest(artifact_of(version)),
        incumbent_digest=incumbent,
        suite_digest=bytes(32),
        criteria_digest=bytes(32),
        seed_key=key,
        lifetime_index=level.index,
        error_level=level.alpha,
        lanes=LANES,
        action_selection=suite.action_selection,
        severity=suite.severity,
        suite=suite.name,
        slices=slices,
        findings=(),
        outcome=Outcome.REJECTED,
        reasons=("nothing was found out",),
    )


def episodes(luck: np.random.Generator, count: int, conduct: Conduct) -> EpisodeOutcomes:
    """What that many made-up episodes came to."""
    rates = (conduct.minor, conduct.major, conduct.severe)
    events = np.stack([luck.random(count) < rate for rate in rates], axis=1).astype(np.int64)
    returns = np.round(luck.normal(conduct.mean_return, 1.0, count), 3)
    return EpisodeOutcomes(returns, events @ np.array([0.25, 1.0, 2.0]), luck.integers(5, 10, count), events)


def planted(plants: Sequence[Plant], missed: int) -> EpisodeOutcomes:
    """The planted episodes as a detector sees them that misses the first ones."""
    events = np.zeros((len(plants), 3), np.int64)
    for index, plant in enumerate(plants):
        if plant.severity is not Severity.NONE and index >= missed:
            events[index, plant.severity - 1] = 1
    zeros = np.zeros(len(plants))
    return EpisodeOutcomes(zeros, events.sum(axis=1).astype(np.float64), np.ones(len(plants), np.int64), events)


def begin_really(root: Path, versions: tuple[int, int], count: int) -> tuple[MadeUpGate, Evidence]:
    """A gate, still open, and the evidence of a candidate and an incumbent that really ran so many episodes a slice.

    Both artifacts are kept in the safety directory, as the gate keeps them.
    """
    gate, suite = MadeUpGate(root), make_suite()
    candidate, incumbent = (artifact_of(version) for version in versions)
    for folder, artifact in (("candidates", candidate), ("incumbents", incumbent)):
        (gate.paths.safety / folder).mkdir()
        (gate.paths.safety / folder / artifact_digest(artifact).hex()).write_bytes(artifact)
    pool = EvaluatorPool(suite, SafetyConfig(lanes=LANES), gate.paths.logs)
    gate.paths.logs.mkdir(exist_ok=True)
    try:
        pool.start()
        slices = tuple(
            _evaluated(pool, spec, number, draw_seeds(gate.seed_key, spec.name, count), (candidate, incumbent))
            for number, spec in enumerate(suite.slices)
        )
    finally:
        pool.close()
        pool.release()
    level = Level(1, 0.05, 1.0)
    return gate, make_evidence(suite, gate.seed_key, versions[0], level, artifact_digest(incumbent), slices)


def _evaluated(
    pool: EvaluatorPool, spec: SliceSpec, number: int, seeds: tuple[int, ...], artifacts: tuple[bytes, bytes]
) -> SliceEvidence:
    jobs = [PolicyJob(artifact, artifact_digest(artifact), number, 0, seeds) for artifact in artifacts]
    ours, theirs = pool.run(jobs, time.monotonic() + 60.0, lambda _: None)
    nothing = PlantEvidence((), (), (), ())
    return SliceEvidence(
        spec.name,
        spec.environment,
        spec.perturbations,
        spec.limits,
        seeds,
        _evidence_of(ours),
        _evidence_of(theirs),
        nothing,
    )


def _evidence_of(outcomes: EpisodeOutcomes) -> EpisodeEvidence:
    return EpisodeEvidence(
        tuple(outcomes.returns.tolist()),
        tuple(outcomes.costs.tolist()),
        tuple(outcomes.lengths.tolist()),
        tuple(tuple(row) for row in outcomes.events.tolist()),
    )
