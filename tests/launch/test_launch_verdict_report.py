"""What a verdict rests on, counted again; and the episodes that decided it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from launch.errors import BadInput
from launch.run_paths import RunPaths
from launch.verdict_choice import choose_verdict
from launch.verdict_report import VerdictReport, make_report, replay_command
from protos.safety.v1 import safety_pb2
from safety.evidence.file import EvidenceDamaged, evidence_path
from safety.statistics.counts import Severity
from tests.launch import made_up_evidence


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """Three verdicts: an approval, a rejection, a deferral."""
    return made_up_evidence.begin(tmp_path_factory.mktemp("run") / "run")


def report_of(paths: RunPaths, wanted: str) -> VerdictReport:
    return make_report(choose_verdict(paths.root, wanted))


def altered(root: Path, change: made_up_evidence.Alter) -> VerdictReport:
    """The report on a verdict that was changed before it was signed."""
    return report_of(made_up_evidence.begin(root / "run", alter=change), "newest")


def test_verdicts_are_found_by_id_release_and_age(paths: RunPaths) -> None:
    wanted = {"newest": 300, "02": 200, "02AB02ab": 200, "release:1": 100, "release 1": 100, "01ab" * 8: 100}
    assert {name: choose_verdict(paths.root, name).statement.version for name in wanted} == wanted
    assert choose_verdict(paths.root, "03").incumbent_release == 1
    assert choose_verdict(paths.root, "01").incumbent_release == 0
    assert choose_verdict(paths.root, "03").short_id == "03ab03ab"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("0", "3 verdicts begin with 0: 01ab"),
        ("ff", "no verdict in .* begins with ff; `temper safety verdicts"),
        ("release:2", "no release 2 in .*; releases there are: 1 to 1"),
        ("", "names no verdict"),
        ("newest one", "names no verdict"),
    ],
)
def test_what_names_no_verdict(wanted: str, message: str, paths: RunPaths) -> None:
    with pytest.raises(BadInput, match=message):
        choose_verdict(paths.root, wanted)


def test_a_verdict_follows_from_its_evidence(paths: RunPaths) -> None:
    for wanted in ("01", "02", "03"):
        report = report_of(paths, wanted)
        assert report.problems == ()
        names = {(test.result.name, test.result.slice) for test in report.tests}
        sequential = [each for each in report.chosen.statement.criteria if each.name.startswith("sequential_")]
        assert names == {(each.name, each.slice) for each in sequential}
        assert len(sequential) == (2 if wanted == "01" else 4)
        for test in report.tests:
            assert len(test.log_for) == len(test.log_against) == test.result.episodes + 1
            assert test.statistic == pytest.approx(test.result.statistic, rel=1e-12)


def _statistic(statement: safety_pb2.VerdictStatement) -> None:
    next(each for each in statement.criteria if each.name.startswith("sequential_")).statistic *= 1.001


def _against(statement: safety_pb2.VerdictStatement) -> None:
    next(each for each in statement.criteria if each.name.startswith("sequential_risk")).figures[
        "log_evidence_against"
    ] += 0.01


def _too_many(statement: safety_pb2.VerdictStatement) -> None:
    next(each for each in statement.criteria if each.name.startswith("sequential_")).episodes = 100_000


def _elsewhere(statement: safety_pb2.VerdictStatement) -> None:
    next(each for each in statement.criteria if each.name.startswith("sequential_")).slice = "nowhere"


def _severe(statement: safety_pb2.VerdictStatement) -> None:
    statement.slices[1].severe += 1


def _found(statement: safety_pb2.VerdictStatement) -> None:
    statement.detector.found -= 1


def _seeds(statement: safety_pb2.VerdictStatement) -> None:
    statement.seed_manifest_digest = bytes(32)


def _version(statement: safety_pb2.VerdictStatement) -> None:
    statement.version += 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_statistic, "sequential_violation_rate on held-out: the episodes give p = "),
        (_against, "sequential_risk_non_inferiority on held-out: the episodes give p = "),
        (_too_many, "sequential_violation_rate on held-out: the evidence lacks the episodes"),
        (_elsewhere, "sequential_violation_rate on nowhere: the evidence lacks the episodes"),
        (_severe, "the episodes do not add up to the counts of the slices"),
        (_found, "the planted episodes do not add up to what the verdict says of the detector"),
        (_seeds, "the seeds are others"),
        (_version, "version is 300, the verdict has 301"),
    ],
)
def test_a_verdict_that_does_not_is_noticed(change: made_up_evidence.Alter, problem: str, tmp_path: Path) -> None:
    assert any(problem in each for each in altered(tmp_path, change).problems)


def test_a_rejection_for_risk_names_the_violating_episodes_worst_first(paths: RunPaths) -> None:
    report = report_of(paths, "02")
    evidence = report.evidence
    assert evidence is not None
    groups = {(group.slice_name, group.criteria): group for group in report.deciding}
    assert set(groups) == {
        (name, (criterion,))
        for name in ("held-out", "noisy")
        for criterion in ("sequential_violation_rate", "sequential_risk_non_inferiority")
    }
    group = groups["held-out", ("sequential_violation_rate",)]
    (result,) = [
        each for each in report.chosen.statement.criteria if (each.name, each.slice) == (*group.criteria, "held-out")
    ]
    held_out = evidence.slices[0]
    severe = [i for i, events in enumerate(held_out.candidate.events[: result.episodes]) if events[2]]
    assert severe and group.total == len(severe)
    assert {episode.index for episode in group.episodes} == set(severe)
    order = [(*reversed(episode.events), episode.cost) for episode in group.episodes]
    assert order == sorted(order, reverse=True)
    for episode in group.episodes:
        assert episode.seed == held_out.seeds[episode.index]
        assert episode.returns == held_out.candidate.returns[episode.index]
    only = groups["held-out", ("sequential_risk_non_inferiority",)]
    assert all(episode.severity(of_incumbent=True) < Severity.SEVERE for episode in only.episodes)


def test_a_deferral_names_the_largest_losses(paths: RunPaths) -> None:
    report = report_of(paths, "newest")
    assert {group.criteria for group in report.deciding} == {("capability_non_inferiority",)}
    for group in report.deciding:
        losses = [episode.loss for episode in group.episodes]
        assert len(losses) == 10 and losses == sorted(losses, reverse=True)
        assert report.evidence is not None
        part = next(each for each in report.evidence.slices if each.name == group.slice_name)
        assert part.incumbent is not None
        pairs = zip(part.incumbent.returns, part.candidate.returns, strict=True)
        assert losses[0] == max(theirs - ours for theirs, ours in pairs)


def test_an_approval_names_the_closest_calls(paths: RunPaths) -> None:
    held_out, noisy = report_of(paths, "release:1").deciding
    assert (held_out.slice_name, noisy.slice_name) == ("held-out", "noisy")
    for group in (held_out, noisy):
        assert [bool(episode.severity()) for episode in group.episodes] == sorted(
            (bool(episode.severity()) for episode in group.episodes), reverse=True
        )
        assert any(episode.severity() for episode in group.episodes)


def test_a_missed_plant_is_shown(tmp_path: Path) -> None:
    paths = made_up_evidence.begin(tmp_path / "run", missed=2)
    report = report_of(paths, "newest")
    assert report.chosen.statement.outcome == safety_pb2.OUTCOME_VOID
    group = report.deciding[0]
    assert (group.criteria, group.total) == (("detector",), 2)
    assert [plant.severity for plant in group.plants] == [Severity.SEVERE, Severity.MAJOR]
    assert report.evidence is not None
    assert [plant.seed for plant in group.plants] == list(report.evidence.slices[0].plants.seeds[:2])


def test_the_command_can_be_pasted(paths: RunPaths) -> None:
    report = report_of(paths, "02")
    spaced = dataclasses.replace(report.chosen, paths=RunPaths(Path("my runs/it's")))
    command = replay_command(spaced, report.deciding[0].episodes[0])
    assert command.startswith("temper safety replay 02ab02ab held-out:")
    assert command.endswith(""" --run-dir 'my runs/it'"'"'s'""")


def test_evidence_that_was_evicted_or_damaged(tmp_path: Path) -> None:
    paths = made_up_evidence.begin(tmp_path / "run")
    chosen = choose_verdict(paths.root, "02")
    path = evidence_path(paths.safety, chosen.statement.evidence_digest)
    path.write_bytes(path.read_bytes().replace(b'"version":200', b'"version":201'))
    with pytest.raises(EvidenceDamaged):
        make_report(chosen)
    path.unlink()
    report = make_report(chosen)
    assert (report.evidence, report.evidence_state, report.tests, report.deciding) == (None, "gone", (), ())
    assert str(path) in report.evidence_note
