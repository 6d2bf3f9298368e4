"""Runs rules over records and writes the signals that they give.

Signals are written in groups, each durably. A record that has them already is not written again, so running the same
rules over the same records twice changes nothing, and a run that broke off may be repeated. A signal that a rule does
not give any more stays as it was.

A rule that fails on a record says nothing about it; the failure is counted, and the run goes on. Whatever the source
raises ends the run; `Curator.next_position` then says up to where signals are written. A run that goes on from there
writes first what the rules have said already: they see no record twice.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from replay.curation.context import CurationContext
from replay.curation.rules import ChosenRule
from replay.provenance import SIGNAL_MAX
from replay.record import LoggedRecord
from replay.record_pages import paged
from replay.source import ANNOTATIONS_MAX, RecordSource

GROUP_RECORDS = min(2_000, ANNOTATIONS_MAX)
"""Most records whose signals are written at once."""


@dataclass
class RuleFailures:
    """How often a rule failed, and how the first time."""

    count: int
    first: str


@dataclass
class CurationResult:
    """What a run came to."""

    records: int = 0
    """Records looked at."""
    annotated: int = 0
    """Records that signals were written about."""
    signals: Counter[str] = field(default_factory=Counter)
    """How many records each signal was written about."""
    failures: dict[str, RuleFailures] = field(default_factory=dict)
    """By rule."""
    next_position: int = 0
    """Where to go on: the rules have seen every record below it."""


@dataclass
class _Group:
    """Records that the rules have seen, below `end`, and what they said that is not written yet."""

    end: int
    records: int = 0
    signals: dict[int, Mapping[str, float]] = field(default_factory=dict)
    failures: dict[str, RuleFailures] = field(default_factory=dict)


class Curator:
    """Rules, and what they remember. One thread at a time.

    Args:
      rules: at least one, each once.
      seed: of everything that the rules hash at random.

    Raises:
      ValueError: there is no rule.

    Attributes:
      next_position: every record below it has been seen by the rules, and what they said is written.
    """

    def __init__(self, rules: Sequence[ChosenRule], seed: int = 0) -> None:
        if not rules:
            raise ValueError("no rule to run: name at least one")
        self._rules = [(chosen.rule, CurationContext(chosen.parameters, seed)) for chosen in rules]
        self._needs_payload = any(chosen.rule.needs_payload for chosen in rules)
        self._group = _Group(0)
        self.next_position = 0

    def run(
        self,
        source: RecordSource,
        *,
        filter_text: str = "",
        from_position: int = 0,
        limit: int = 0,
        dry_run: bool = False,
        progress: Callable[[int], object] = lambda _count: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> CurationResult:
        """Runs the rules over records in log order.

        Args:
          source: where the records are, and the signals go.
          filter_text, from_position, limit: which records; see RecordSource.records.
          dry_run: whether to write nothing, and only count what would be written.
          progress: called with how many more records are done.
          stop: whether to look at no more records; asked before each.

        Raises what the source raises.
        """
        if from_position != self.next_position:
            self._group = _Group(from_position)
            self.next_position = from_position
        result = CurationResult(next_position=self._group.end)
        for record in self._to_judge(source, filter_text, limit):
            if self._group.records >= GROUP_RECORDS:
                self._write(source, result, dry_run, progress)
            if stop():
                break
            signals = self._judge(record)
            if signals:
                self._group.signals[record.position] = signals
            self._group.records += 1
            self._group.end = result.next_position = record.position + 1
        self._write(source, result, dry_run, progress)
        return result

    def _to_judge(self, source: RecordSource, filter_text: str, limit: int) -> Iterator[LoggedRecord]:
        """The records after those that the rules have seen, and so many less."""
        left = limit - self._group.records
        if limit and left <= 0:
            return iter(())
        return paged(
            source,
            filter_text=filter_text,
            from_position=self._group.end,
            limit=left if limit else 0,
            with_payload=self._needs_payload,
        )

    def _write(
        self, source: RecordSource, result: CurationResult, dry_run: bool, progress: Callable[[int], object]
    ) -> None:
        group = self._group
        if group.signals:
            result.annotated += len(group.signals) if dry_run else source.annotate(group.signals)
            result.signals.update(name for signals in group.signals.values() for name in signals)
        result.records += group.records
        for name, failed in group.failures.items():
            result.failures.setdefault(name, RuleFailures(0, failed.first)).count += failed.count
        self._group = _Group(group.end)
        self.next_position = group.end
        progress(group.records)

    def _judge(self, record: LoggedRecord) -> dict[str, float]:
        """What the rules say of a record, without what is written about it already."""
        said: dict[str, float] = {}
        for rule, context in self._rules:
            try:
                signals = rule.function(record, context)
                said.update(_checked(signals, rule.signals))
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a rule may be anybody's; it is counted and shown
                what = " ".join(f"{type(error).__name__}: {error}".split())
                first = RuleFailures(0, f"at position {record.position}: {what}")
                self._group.failures.setdefault(rule.name, first).count += 1
        written = record.marks.signals
        return {name: value for name, value in said.items() if name not in written or written[name] != value}


def _checked(signals: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    checked = {}
    for name, value in signals.items():
        if name not in names:
            raise ValueError(f"it gave the signal {name!r}, but is registered for {', '.join(names)}")
        number = float(value)
        if not math.isfinite(number) or abs(number) > SIGNAL_MAX:
            raise ValueError(f"it gave {name} = {number}, which must be finite and within +-{SIGNAL_MAX:.0e}")
        checked[name] = number
    return checked
