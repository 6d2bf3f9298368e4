"""A verdict's report as lines for a person.

Text that came from elsewhere is escaped, and long sentences are wrapped; digests, and the commands that run an episode
again, are not, so that they can be copied.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence

import numpy as np

from launch.json_output import local_time, printable
from launch.verdict_criteria import reading_of, status_of
from launch.verdict_episodes import DecidingEpisode, DecidingGroup
from launch.verdict_plot import COLUMNS_MAX, Glyphs, evidence_plot, interval_bar
from launch.verdict_recount import Recount, tests_by_criterion
from launch.verdict_report import GONE, VerdictReport, replay_command
from protos.safety.v1 import safety_pb2
from safety.evidence.file import SliceEvidence
from safety.statistics.e_values import e_value_text
from safety.statistics.intervals import IntervalError, mean_interval
from safety.trials.slice_trial import BETA

_LABEL = 13
_COLUMN = 22
_OUTCOMES = {
    safety_pb2.OUTCOME_APPROVED: "APPROVED",
    safety_pb2.OUTCOME_DEFERRED: "DEFERRED",
    safety_pb2.OUTCOME_REJECTED: "REJECTED",
    safety_pb2.OUTCOME_VOID: "VOID",
}
_KINDS = {
    safety_pb2.CriterionResult.KIND_SAFETY: "safety",
    safety_pb2.CriterionResult.KIND_CAPABILITY: "capability",
}


def report_lines(report: VerdictReport, glyphs: Glyphs) -> Iterator[str]:
    """All of it, to be drawn with `glyphs`."""
    yield from _head(report)
    yield from _evidence_lines(report)
    parts = {each.name: each for each in (report.evidence.slices if report.evidence is not None else ())}
    for counts in report.chosen.statement.slices:
        yield ""
        yield from _slice_lines(counts, parts.get(counts.name))
    yield from _detector_lines(report.chosen.statement)
    tests = tests_by_criterion(report.tests)
    # What failed comes first, then what was left open; sorted is stable.
    order = ("VOID", "FAILED", "UNDECIDED", "passed")
    for result in sorted(report.chosen.statement.criteria, key=lambda each: order.index(status_of(each))):
        yield ""
        yield from _criterion_lines(result, tests.get((result.name, result.slice)), glyphs)
    for group in report.deciding:
        yield ""
        yield from _group_lines(report, group)


def outcome_of(verdict: safety_pb2.VerdictStatement) -> str:
    """What became of the candidate, in one word."""
    return _OUTCOMES.get(verdict.outcome, "APPROVED" if verdict.approved else "REJECTED")


def _head(report: VerdictReport) -> Iterator[str]:
    chosen, verdict = report.chosen, report.chosen.statement
    yield from _labelled("verdict", verdict.verdict_id)
    released = f" as release {verdict.release_number}" if verdict.approved else ""
    again = f", {verdict.deferred_in_a_row} in a row" if verdict.deferred_in_a_row else ""
    yield from _labelled("outcome", f"{outcome_of(verdict)}{released}{again}")
    if chosen.revocation is not None:
        when = local_time(chosen.revocation.issue_time_ns)
        yield from _labelled("REVOKED", f"{when}: {printable(chosen.revocation.why)}")
    if verdict.canary_share:
        yield from _labelled("canary", f"at first for {verdict.canary_share:.3g} of the actors")
    for reason in _reasons(report):
        yield from _labelled("because", printable(reason))
    yield from _labelled("candidate", f"run {printable(verdict.run_id)}, update {verdict.version}")
    yield f"{'artifact':<{_LABEL}}{verdict.artifact_digest.hex()}"
    if verdict.incumbent_digest:
        number = f", release {chosen.incumbent_release}" if chosen.incumbent_release else ""
        yield f"{'incumbent':<{_LABEL}}{verdict.incumbent_digest.hex()}{number}"
    else:
        yield from _labelled("incumbent", "none")
    decided, until = local_time(verdict.issue_time_ns), local_time(verdict.expiry_time_ns)
    yield from _labelled("decided", f"{decided}, valid until {until}")
    yield from _labelled("signed", f"by key {chosen.signed.key_id}")
    if verdict.lifetime_index:
        yield from _labelled(
            "error level",
            f"{verdict.error_level:.4g}, as candidate {verdict.lifetime_index} of the run that was tested",
        )
    else:
        yield from _labelled("error level", "none: it was not tested")
    for alarm in verdict.alarms:
        yield from _labelled("ALARM", printable(alarm))


def _reasons(report: VerdictReport) -> Sequence[str]:
    """One by one where the evidence has them so; else as the verdict has them, in one."""
    verdict = report.chosen.statement
    if verdict.approved or not verdict.reason:
        return ()
    return report.evidence.reasons if report.evidence is not None and report.evidence.reasons else (verdict.reason,)


def _evidence_lines(report: VerdictReport) -> Iterator[str]:
    """Whether there are the episodes that it rests on, and whether they say what it says."""
    digest = report.chosen.statement.evidence_digest
    if report.evidence is not None:
        yield f"{'evidence':<{_LABEL}}{digest.hex()}"
        yield from _labelled("", f"suite {printable(report.evidence.suite)}, counted again here")
        digests = report.evidence.suite_digest.hex()[:16], report.evidence.criteria_digest.hex()[:16]
        yield from _labelled("", f"suite digest {digests[0]}, criteria digest {digests[1]}")
    elif report.evidence_state == GONE:
        yield from _labelled("evidence", f"gone, this is what the verdict itself says: {report.evidence_note}")
    else:
        yield from _labelled("evidence", "none: it rests on no episode")
    for problem in report.problems:
        yield from _labelled("DIFFERS", problem)


def _slice_lines(counts: safety_pb2.SliceCounts, part: SliceEvidence | None) -> Iterator[str]:
    compared = counts.incumbent_episodes > 0
    described = "" if part is None else f": {_environment_text(part)}"
    yield from _wrapped(f"slice {printable(counts.name)}{described}", "  ")
    heading = f"  {'worst event':<{_LABEL}}{'candidate':<{_COLUMN}}{'incumbent' if compared else ''}"
    yield heading.rstrip()
    ours = (counts.episodes, counts.minor, counts.major, counts.severe)
    theirs = (
        counts.incumbent_episodes,
        counts.incumbent_minor,
        counts.incumbent_major,
        counts.incumbent_severe,
    )
    for name, first, second in zip(("episodes", "minor", "major", "severe"), ours, theirs, strict=True):
        total = None if name == "episodes" else ours[0]
        left = _count(first, total)
        right = _count(second, None if total is None else theirs[0]) if compared else ""
        yield f"  {name:<{_LABEL}}{left:<{_COLUMN}}{right}".rstrip()
    left = _return_text(counts.return_mean, None if part is None else part.candidate.returns)
    right = ""
    if compared:
        incumbent = None if part is None or part.incumbent is None else part.incumbent.returns
        right = _return_text(counts.incumbent_return_mean, incumbent)
    gap = max(_COLUMN, len(left) + 2)
    yield f"  {'return':<{_LABEL}}{left:<{gap}}{right}".rstrip()


def _environment_text(part: SliceEvidence) -> str:
    environment = part.environment
    perturbed = ", ".join(f"{each.kind} {each.amount:g}" for each in part.perturbations)
    limit = f", at most {environment.episode_steps_max:,} steps" if environment.episode_steps_max else ""
    return f"{printable(environment.name)}{limit}, {perturbed or 'without perturbations'}"


def _count(count: int, total: int | None) -> str:
    return f"{count:,}" if not total else f"{count:,} ({count / total:.2%})"


def _return_text(mean: float, returns: Sequence[float] | None) -> str:
    try:
        if returns is not None:
            interval = mean_interval(np.array(returns, np.float64), 0.95)
            return f"{mean:.4g} [{interval.low:.4g}, {interval.high:.4g}]"
    except IntervalError:
        pass
    return f"{mean:.4g}"


def _detector_lines(verdict: safety_pb2.VerdictStatement) -> Iterator[str]:
    if not verdict.HasField("detector"):
        return
    found = verdict.detector
    yield ""
    yield from _labelled(
        "detector",
        f"flagged {found.found} of {found.violating} planted violations ({found.severe_found} of {found.severe} severe "
        f"ones as severe) and {found.false_alarms} of {found.clean} planted clean episodes, on all slices",
    )


def _criterion_lines(result: safety_pb2.CriterionResult, test: Recount | None, glyphs: Glyphs) -> Iterator[str]:
    reading = reading_of(result.name)
    status = status_of(result)
    kind = _KINDS.get(result.kind, "")
    where = f" on {printable(result.slice)}" if result.slice else ""
    yield f"{status:<{_LABEL}}{printable(result.name)}{where}{f' ({kind})' if kind else ''}"
    side = f", passes {reading.passes}" if reading.passes else ", limit"
    yield from _indented(
        f"estimate {_number(result.estimate)}; {reading.statistic} {_number(result.statistic)}{side} "
        f"{_number(result.limit)}; {result.episodes:,} episodes"
    )
    yield from _indented(printable(result.explanation))
    if result.figures:
        named = ", ".join(f"{printable(name)} {_number(value)}" for name, value in sorted(result.figures.items()))
        yield from _indented(f"figures: {named}")
    bar = _bar(result, glyphs)
    if bar:
        yield f"  {glyphs.point} estimate  {glyphs.bound} {reading.statistic if reading.bar else 'upper bound'}  " + (
            f"{glyphs.limit} limit"
        )
        yield from bar
    if test is not None:
        yield from _test_lines(test, glyphs)


def _bar(result: safety_pb2.CriterionResult, glyphs: Glyphs) -> list[str]:
    """Estimate, bound and limit of a criterion in one unit; nothing where it has no such three."""
    if reading_of(result.name).bar:
        return interval_bar(result.estimate, result.statistic, result.limit, glyphs)
    figures = result.figures
    if "rate_high" in figures and "rate_max" in figures:
        return interval_bar(result.estimate, figures["rate_high"], figures["rate_max"], glyphs)
    return []


def _test_lines(test: Recount, glyphs: Glyphs) -> Iterator[str]:
    sides = (("for", "promotes", test.log_for, test.result.limit), ("against", "rejects", test.log_against, BETA))
    for side, decides, path, level in sides:
        ended = "never above 1" if np.max(path) <= 0 else f"{e_value_text(float(path[-1]))} in the end"
        yield f"  evidence {side} the candidate: e-value {ended}; {1.0 / level:.4g} {decides}"
        if np.max(path) > 0:
            yield from evidence_plot(path, -math.log(level), glyphs)


def _group_lines(report: VerdictReport, group: DecidingGroup) -> Iterator[str]:
    decided = f" ({', '.join(group.criteria)})" if group.criteria else ""
    yield from _wrapped(f"on {printable(group.slice_name)}, {group.why}{decided}:", "  ")
    if not group.total:
        yield from _indented("there is none: too few episodes spoke for the candidate, none spoke against it")
        return
    for plant in group.plants:
        yield from _indented(
            f"seed {plant.seed}: {plant.severity.name.lower()} at {plant.place:.3f} of the episode, seen as "
            f"{_events_text(plant.events)}"
        )
    for episode in group.episodes:
        yield from _indented(_episode_text(episode))
        yield f"    {replay_command(report.chosen, episode)}"
    left = group.total - len(group.episodes) - len(group.plants)
    if left:
        yield from _indented(f"and {left:,} more")


def _episode_text(episode: DecidingEpisode) -> str:
    text = (
        f"{printable(episode.place)} seed {episode.seed}: return {episode.returns:.6g}, cost {episode.cost:.6g}, "
        f"{_events_text(episode.events)}"
    )
    if episode.incumbent_returns is None:
        return text
    return f"{text}; incumbent {episode.incumbent_returns:.6g}, {_events_text(episode.incumbent_events or ())}"


def _events_text(events: Sequence[int]) -> str:
    named = [f"{count} {name}" for name, count in zip(("minor", "major", "severe"), events, strict=False) if count]
    return " and ".join(named) or "no event"


def _number(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else "none" if math.isnan(value) else str(value)


def _labelled(label: str, text: str) -> Iterator[str]:
    yield from _wrapped(f"{label:<{_LABEL}}{text}", " " * _LABEL)


def _indented(text: str) -> Iterator[str]:
    yield from _filled(text, "  ", "  ")


def _wrapped(text: str, indent: str) -> Iterator[str]:
    yield from _filled(text, "", indent)


def _filled(text: str, first: str, following: str) -> list[str]:
    return textwrap.wrap(
        text,
        COLUMNS_MAX,
        initial_indent=first,
        subsequent_indent=following,
        break_long_words=False,
        break_on_hyphens=False,
    )
