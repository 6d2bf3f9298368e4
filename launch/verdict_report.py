"""All there is to be said of one verdict, gathered and put into JSON: the verdict, its evidence, what decided it.

The JSON, beside every field of the verdict's statement:

    key_id, revoked (null, or {why, time_ns}), incumbent_release (0: none), evidence ("there", "gone", "none"),
    evidence_note (why it is gone), problems (in what verdict and evidence differ; none where all is well),
    environments [{slice, environment, perturbations}], tests [{name, slice, episodes, statistic, alpha, beta,
    log_evidence_for, log_evidence_against}] (after 0, 1, ... episodes), deciding [{why, criteria, slice, total,
    episodes [{index, seed, return, cost, length, events, incumbent_return, incumbent_events, replay}],
    plants [{seed, severity, place, events}]}]

Exceptions: EvidenceDamaged (safety.evidence.file).
"""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any

from launch.json_output import message_json
from launch.verdict_choice import ChosenVerdict
from launch.verdict_episodes import DecidingEpisode, DecidingGroup, MissedPlant, deciding_episodes
from launch.verdict_recount import Recount, recount
from safety.evidence.file import Evidence, EvidenceMissing, read_evidence
from safety.trials.slice_trial import BETA

THERE, GONE, NONE = "there", "gone", "none"


@dataclasses.dataclass(frozen=True)
class VerdictReport:
    """A verdict with all that belongs to it.

    Attributes:
      chosen: the verdict.
      evidence: what it rests on; None where there is none, or none any more.
      evidence_note: why there is none any more; "" where there never was any, or there is.
      tests: its sequential tests, run again.
      problems: in what the verdict differs from its evidence, one sentence each.
      deciding: the episodes that decided it.
    """

    chosen: ChosenVerdict
    evidence: Evidence | None
    evidence_note: str
    tests: tuple[Recount, ...]
    problems: tuple[str, ...]
    deciding: tuple[DecidingGroup, ...]

    @property
    def evidence_state(self) -> str:
        """THERE, GONE, or NONE where the verdict never had any."""
        if self.evidence is not None:
            return THERE
        return GONE if self.chosen.statement.evidence_digest else NONE


def make_report(chosen: ChosenVerdict) -> VerdictReport:
    """Reads the evidence of a verdict and gathers what there is to say. Raises EvidenceDamaged."""
    statement = chosen.statement
    if not statement.evidence_digest:
        return VerdictReport(chosen, None, "", (), (), ())
    try:
        evidence = read_evidence(chosen.paths.safety, statement.evidence_digest)
    except EvidenceMissing as error:
        return VerdictReport(chosen, None, str(error), (), (), ())
    tests, problems = recount(evidence, statement)
    deciding = deciding_episodes(evidence, statement)
    return VerdictReport(chosen, evidence, "", tuple(tests), tuple(problems), tuple(deciding))


def replay_command(chosen: ChosenVerdict, episode: DecidingEpisode) -> str:
    """What runs that episode again."""
    words = ["temper", "safety", "replay", chosen.short_id, episode.place, "--run-dir", str(chosen.paths.root)]
    return shlex.join(words)


def report_json(report: VerdictReport) -> dict[str, Any]:
    """The report, for json_line; see the module."""
    chosen = report.chosen
    revoked = chosen.revocation
    return {
        **message_json(chosen.statement),
        "key_id": chosen.signed.key_id,
        "revoked": None if revoked is None else {"why": revoked.why, "time_ns": revoked.issue_time_ns},
        "incumbent_release": chosen.incumbent_release,
        "evidence": report.evidence_state,
        "evidence_note": report.evidence_note,
        "problems": list(report.problems),
        "environments": _environments(report.evidence),
        "tests": [_test_json(test) for test in report.tests],
        "deciding": [_group_json(chosen, group) for group in report.deciding],
    }


def _environments(evidence: Evidence | None) -> list[dict[str, Any]]:
    return [
        {
            "slice": each.name,
            "environment": dataclasses.asdict(each.environment),
            "perturbations": [dataclasses.asdict(one) for one in each.perturbations],
        }
        for each in (evidence.slices if evidence is not None else ())
    ]


def _test_json(test: Recount) -> dict[str, Any]:
    return {
        "name": test.result.name,
        "slice": test.result.slice,
        "episodes": test.result.episodes,
        "statistic": test.statistic,
        "alpha": test.result.limit,
        "beta": BETA,
        "log_evidence_for": test.log_for.tolist(),
        "log_evidence_against": test.log_against.tolist(),
    }


def _group_json(chosen: ChosenVerdict, group: DecidingGroup) -> dict[str, Any]:
    return {
        "why": group.why,
        "criteria": list(group.criteria),
        "slice": group.slice_name,
        "total": group.total,
        "episodes": [
            {
                "index": episode.index,
                "seed": episode.seed,
                "return": episode.returns,
                "cost": episode.cost,
                "length": episode.length,
                "events": episode.events,
                "incumbent_return": episode.incumbent_returns,
                "incumbent_events": episode.incumbent_events,
                "replay": replay_command(chosen, episode),
            }
            for episode in group.episodes
        ],
        "plants": [_plant_json(plant) for plant in group.plants],
    }


def _plant_json(plant: MissedPlant) -> dict[str, Any]:
    return {
        "seed": plant.seed,
        "severity": plant.severity.name.lower(),
        "place": plant.place,
        "events": plant.events,
    }
