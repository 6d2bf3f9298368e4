"""What a verdict rests on, episode by episode, in one file: whoever has it can count, judge and run again all of it.

    SAFETY_DIR/evidence/HEX.json     canonical JSON, named by its SHA-256, which the verdict binds
    SAFETY_DIR/candidates/HEX        artifacts of candidates that were not released, named by their digests

A number that is not finite is null in the file. Evidence is for people and for audits: no verdict needs it to stand.
Nothing is judged here; see `safety.trials.trial`. How long files are kept is for `safety.evidence.store`.

Exceptions:
  EvidenceMissing: there is no such file, for example because its room was needed for a newer one.
  EvidenceDamaged: a file is not what its digest says, or not evidence.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from actors.config import EnvironmentConfig
from policies.durable import replace_file
from safety.canonical_json import canonical_json
from safety.statistics.combination import Outcome
from safety.statistics.counts import EVENT_CLASSES, Severity, SliceOutcomes
from safety.statistics.findings import Finding, Kind, Status
from safety.suites.spec import Perturbation, SeverityScale, SliceLimits

EVIDENCE_KIND = "temper.evidence.v1"

EVIDENCE_DIRECTORY = "evidence"
CANDIDATES_DIRECTORY = "candidates"
"""Folders of the safety service's directory; see the module."""

EVIDENCE_BYTES_MAX = 1 << 30
"""A greater file is not read."""


class EvidenceMissing(Exception):
    """There is no evidence with this digest; the message names the file."""


class EvidenceDamaged(ValueError):
    """A file that is not the evidence that its name says; the message names the file."""


class EpisodeEvidence(NamedTuple):
    """N episodes of one policy, in the order of their seeds.

    Attributes:
      returns: undiscounted sums of rewards [N].
      costs: sums of costs [N].
      lengths: steps [N].
      events: steps that were events, by class in the order of EVENT_CLASSES [N][3].
    """

    returns: tuple[float, ...]
    costs: tuple[float, ...]
    lengths: tuple[int, ...]
    events: tuple[tuple[int, ...], ...]


class PlantEvidence(NamedTuple):
    """M planted episodes, and what the detector saw in them.

    Attributes:
      seeds: of the episodes [M].
      severities: of what was planted; NONE: nothing [M].
      places: where in the episode, in [0, 1) [M].
      events: steps that were seen as events, by class [M][3].
    """

    seeds: tuple[int, ...]
    severities: tuple[Severity, ...]
    places: tuple[float, ...]
    events: tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class SliceEvidence:
    """Everything that was run on one slice.

    Attributes:
      name: of the slice.
      environment, perturbations, limits: as in `SliceSpec`.
      seeds: of the episodes, candidate's and incumbent's [N].
      candidate: what they came to.
      incumbent: the same of the incumbent on the same seeds; None where there was none.
      plants: the planted episodes.
    """

    name: str
    environment: EnvironmentConfig
    perturbations: tuple[Perturbation, ...]
    limits: SliceLimits
    seeds: tuple[int, ...]
    candidate: EpisodeEvidence
    incumbent: EpisodeEvidence | None
    plants: PlantEvidence

    @property
    def candidate_outcomes(self) -> SliceOutcomes:
        """The candidate's episodes as the statistics take them. Raises CountsError."""
        return _outcomes(self.name, self.seeds, self.candidate)

    @property
    def incumbent_outcomes(self) -> SliceOutcomes | None:
        """The incumbent's; None where there was none. Raises CountsError."""
        return None if self.incumbent is None else _outcomes(self.name, self.seeds, self.incumbent)


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What one verdict rests on.

    Attributes:
      run_id, version: of the candidate.
      artifact_digest, incumbent_digest: of the artifacts (32 bytes); no incumbent: b"".
      suite_digest, criteria_digest: as in the verdict (32 bytes).
      seed_key: that the seeds were drawn from (32 bytes).
      lifetime_index, error_level: as in the verdict.
      lanes: rows of an environment; episode i ran in row i % lanes.
      action_selection: "sample" or "greedy".
      severity: from the cost of a step to an event.
      suite: its name.
      slices: what was run.
      findings: of all criteria.
      outcome: what became of the candidate.
      reasons: why, one sentence each; none where it was approved.
    """

    run_id: str
    version: int
    artifact_digest: bytes
    incumbent_digest: bytes
    suite_digest: bytes
    criteria_digest: bytes
    seed_key: bytes
    lifetime_index: int
    error_level: float
    lanes: int
    action_selection: str
    severity: SeverityScale
    suite: str
    slices: tuple[SliceEvidence, ...]
    findings: tuple[Finding, ...]
    outcome: Outcome
    reasons: tuple[str, ...]


def evidence_path(directory: Path, digest: bytes) -> Path:
    """Where in the safety service's directory the evidence with this digest (32 bytes) lies."""
    return directory / EVIDENCE_DIRECTORY / f"{digest.hex()}.json"


def write_evidence(directory: Path, evidence: Evidence) -> bytes:
    """Puts evidence on the disk, synced, and returns its digest (32 bytes). Raises OSError.

    Args:
      directory: the safety service's.
      evidence: to be written.
    """
    text = canonical_json(evidence_fields(evidence))
    digest = hashlib.sha256(text).digest()
    path = evidence_path(directory, digest)
    path.parent.mkdir(mode=0o755, exist_ok=True)
    replace_file(path, text)
    return digest


def read_evidence(directory: Path, digest: bytes) -> Evidence:
    """The evidence with this digest (32 bytes), checked against it.

    Args:
      directory: the safety service's.
      digest: as in the verdict.

    Raises:
      EvidenceMissing, EvidenceDamaged: see there.
    """
    path = evidence_path(directory, digest)
    try:
        with path.open("rb") as file:
            text = file.read(EVIDENCE_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise EvidenceMissing(f"{path} is not there: no more can be said than the verdict says") from error
    except OSError as error:
        raise EvidenceMissing(f"{path} cannot be read: {error.strerror}") from error
    if hashlib.sha256(text).digest() != digest:
        raise EvidenceDamaged(f"{path} is not what its verdict rests on: its digest differs")
    try:
        return evidence_in(json.loads(text))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EvidenceDamaged(f"{path} is not evidence of kind {EVIDENCE_KIND}: {error!r}") from error


def evidence_fields(evidence: Evidence) -> dict[str, object]:
    """Evidence as a JSON object; the same evidence always gives the same canonical text."""
    return {
        "kind": EVIDENCE_KIND,
        "run_id": evidence.run_id,
        "version": evidence.version,
        "artifact_digest": evidence.artifact_digest.hex(),
        "incumbent_digest": evidence.incumbent_digest.hex(),
        "suite_digest": evidence.suite_digest.hex(),
        "criteria_digest": evidence.criteria_digest.hex(),
        "seed_key": evidence.seed_key.hex(),
        "lifetime_index": evidence.lifetime_index,
        "error_level": evidence.error_level,
        "lanes": evidence.lanes,
        "action_selection": evidence.action_selection,
        "severity": _numbers(dataclasses.asdict(evidence.severity)),
        "suite": evidence.suite,
        "slices": [_slice_fields(each) for each in evidence.slices],
        "findings": [_finding_fields(finding) for finding in evidence.findings],
        "outcome": evidence.outcome.value,
        "reasons": list(evidence.reasons),
    }


def evidence_in(fields: Mapping[str, Any]) -> Evidence:
    """The evidence in what `evidence_fields` gave; raises KeyError, TypeError, ValueError or AttributeError."""
    if fields["kind"] != EVIDENCE_KIND:
        raise ValueError(f"kind {fields['kind']!r}")
    return Evidence(
        run_id=str(fields["run_id"]),
        version=int(fields["version"]),
        artifact_digest=bytes.fromhex(fields["artifact_digest"]),
        incumbent_digest=bytes.fromhex(fields["incumbent_digest"]),
        suite_digest=bytes.fromhex(fields["suite_digest"]),
        criteria_digest=bytes.fromhex(fields["criteria_digest"]),
        seed_key=bytes.fromhex(fields["seed_key"]),
        lifetime_index=int(fields["lifetime_index"]),
        error_level=float(fields["error_level"]),
        lanes=int(fields["lanes"]),
        action_selection=str(fields["action_selection"]),
        severity=SeverityScale(**{name: _bound(value) for name, value in fields["severity"].items()}),
        suite=str(fields["suite"]),
        slices=tuple(_slice_in(each) for each in fields["slices"]),
        findings=tuple(_finding_in(each) for each in fields["findings"]),
        outcome=Outcome(fields["outcome"]),
        reasons=tuple(str(reason) for reason in fields["reasons"]),
    )


def _slice_fields(evidence: SliceEvidence) -> dict[str, object]:
    plants = evidence.plants
    return {
        "name": evidence.name,
        "environment": dataclasses.asdict(evidence.environment),
        "perturbations": [dataclasses.asdict(each) for each in evidence.perturbations],
        "limits": _numbers(dataclasses.asdict(evidence.limits)),
        "seeds": list(evidence.seeds),
        "candidate": _episode_fields(evidence.candidate),
        "incumbent": None if evidence.incumbent is None else _episode_fields(evidence.incumbent),
        "plants": {
            "seeds": list(plants.seeds),
            "severities": [severity.name.lower() for severity in plants.severities],
            "places": list(plants.places),
            "events": [list(each) for each in plants.events],
        },
    }


def _slice_in(fields: Mapping[str, Any]) -> SliceEvidence:
    plants = fields["plants"]
    evidence = SliceEvidence(
        name=str(fields["name"]),
        environment=EnvironmentConfig(**fields["environment"]),
        perturbations=tuple(Perturbation(str(each["kind"]), float(each["amount"])) for each in fields["perturbations"]),
        limits=SliceLimits(**{name: _bound(value) for name, value in fields["limits"].items()}),
        seeds=tuple(int(seed) for seed in fields["seeds"]),
        candidate=_episodes_in(fields["candidate"]),
        incumbent=None if fields["incumbent"] is None else _episodes_in(fields["incumbent"]),
        plants=PlantEvidence(
            tuple(int(seed) for seed in plants["seeds"]),
            tuple(Severity[name.upper()] for name in plants["severities"]),
            tuple(float(place) for place in plants["places"]),
            _events_in(plants["events"]),
        ),
    )
    counts = {len(column) for episodes in (evidence.candidate, evidence.incumbent) for column in episodes or ()}
    if counts - {len(evidence.seeds)} or {len(column) for column in evidence.plants} - {len(evidence.plants.seeds)}:
        raise ValueError(f"slice {evidence.name} does not have one entry per seed")
    return evidence


def _episode_fields(episodes: EpisodeEvidence) -> dict[str, object]:
    return {
        "returns": list(episodes.returns),
        "costs": list(episodes.costs),
        "lengths": list(episodes.lengths),
        "events": [list(each) for each in episodes.events],
    }


def _episodes_in(fields: Mapping[str, Any]) -> EpisodeEvidence:
    return EpisodeEvidence(
        tuple(float(value) for value in fields["returns"]),
        tuple(float(value) for value in fields["costs"]),
        tuple(int(value) for value in fields["lengths"]),
        _events_in(fields["events"]),
    )


def _events_in(rows: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    events = tuple(tuple(int(count) for count in row) for row in rows)
    if any(len(row) != len(EVENT_CLASSES) for row in events):
        raise ValueError(f"an episode does not have the events of {len(EVENT_CLASSES)} classes")
    return events


def _finding_fields(finding: Finding) -> dict[str, object]:
    numbers = {name: getattr(finding, name) for name in ("estimate", "statistic", "limit")}
    return {
        "name": finding.name,
        "slice": finding.slice_name,
        "kind": finding.kind.value,
        "status": finding.status.value,
        **_numbers(numbers),
        "episodes": finding.episodes,
        "explanation": finding.explanation,
        "figures": _numbers(finding.figures),
    }


def _finding_in(fields: Mapping[str, Any]) -> Finding:
    return Finding(
        str(fields["name"]),
        str(fields["slice"]),
        Kind(fields["kind"]),
        Status(fields["status"]),
        estimate=_number(fields["estimate"]),
        statistic=_number(fields["statistic"]),
        limit=_number(fields["limit"]),
        episodes=int(fields["episodes"]),
        explanation=str(fields["explanation"]),
        figures={name: _number(value) for name, value in fields["figures"].items()},
    )


def _outcomes(name: str, seeds: tuple[int, ...], episodes: EpisodeEvidence) -> SliceOutcomes:
    events = np.array(episodes.events, np.int64).reshape(len(seeds), len(EVENT_CLASSES))
    return SliceOutcomes(name, seeds, events, np.array(episodes.returns, np.float64))


def _numbers(values: Mapping[str, float]) -> dict[str, object]:
    """JSON has neither infinities nor NaN."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _number(value: float | None) -> float:
    """A figure; what was not finite is not known any more."""
    return math.nan if value is None else float(value)


def _bound(value: float | None) -> Any:
    """A limit or a severity: the only value there that is not finite is infinity. Whole numbers stay whole."""
    return math.inf if value is None else value
