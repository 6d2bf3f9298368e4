"""`temper replay curate`: runs rules over records, once or as they arrive, and writes the signals that they give.

--json prints one object: records (looked at), annotated (that signals were written about, or would be), signals (how
many records each was written about), failures (of a rule: count, and first as a text), next_position, and dry_run.
With --follow one such object for each batch of records. Without --rules one object a rule: name, signals,
needs_payload, parameters (with their defaults), summary.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from actors.lifetime import StopSignals
from launch.arguments_replay import ReplayCurate
from launch.errors import BadInput
from launch.json_output import json_line, printable
from launch.progress import progress
from launch.replay_target import check_range, locate, open_source
from replay.curation.catalog import choose_rules, known_rules
from replay.curation.curator import CurationResult, Curator
from replay.curation.ingest import IngestCuration
from replay.curation.rules import ChosenRule, Rule

_LOOK_S = 0.25
_END_S = 2.0
"""How long a rule has for the record that it is at, once a signal has come."""


def run(arguments: ReplayCurate) -> int:
    """Prints what was written; returns 1 where a rule failed on a record."""
    modules = _flat(arguments.module)
    if not arguments.rules:
        for rule in known_rules(modules).values():
            print(json_line(_rule_json(rule)) if arguments.json else _rule_words(rule))
        return 0
    check_range(arguments.from_position, arguments.limit)
    rules = choose_rules(_flat(arguments.rules), modules)
    return _follow(arguments, rules) if arguments.follow else _once(arguments, rules)


def _once(arguments: ReplayCurate, rules: Sequence[ChosenRule]) -> int:
    with open_source(arguments.target, writable=not arguments.dry_run) as source:
        records = source.stats().records
        total = min(records, arguments.limit) if arguments.limit else records
        with progress("curating", total, json=arguments.json) as shown:
            result = Curator(rules).run(
                source,
                filter_text=arguments.filter,
                from_position=arguments.from_position,
                limit=arguments.limit,
                dry_run=arguments.dry_run,
                progress=shown.advance,
            )
    _show(result, arguments)
    return 1 if result.failures else 0


def _follow(arguments: ReplayCurate, rules: Sequence[ChosenRule]) -> int:
    """Goes on until a signal comes. In a thread, because a rule may take its time over a record, or never come back."""
    if arguments.dry_run or arguments.limit:
        raise BadInput("--follow goes neither with --dry-run nor with --limit: it goes on until interrupted")
    if len(locate(arguments.target).addresses) != 1:
        raise BadInput(
            "--follow needs one running service: a directory does not grow, and shards are followed one by one"
        )
    failed = False

    def on_batch(result: CurationResult) -> None:
        nonlocal failed
        failed = failed or bool(result.failures)
        _show(result, arguments)

    stop, ended = threading.Event(), Future[None]()
    with open_source(arguments.target, writable=True) as source, StopSignals() as signals:
        curation = IngestCuration(
            source,
            Curator(rules),
            filter_text=arguments.filter,
            from_position=arguments.from_position,
            on_batch=on_batch,
        )
        thread = threading.Thread(target=_run, args=(curation, stop, ended), name="curation", daemon=True)
        thread.start()
        while not ended.done() and not signals.stop_requested():
            signals.wait(_LOOK_S)
        stop.set()
        thread.join(_END_S)
        if ended.done():
            ended.result()
        else:
            print(f"temper: left in the middle; written is what is below {curation.next_position}", file=sys.stderr)
    return 1 if failed or not ended.done() else 0


def _run(curation: IngestCuration, stop: threading.Event, ended: Future[None]) -> None:
    try:
        curation.run(stop)
    except BaseException as error:  # noqa: BLE001 - raised where it is waited for
        ended.set_exception(error)
    else:
        ended.set_result(None)


def _show(result: CurationResult, arguments: ReplayCurate) -> None:
    if arguments.json:
        print(json_line(_result_json(result, arguments.dry_run)), flush=True)
        return
    verb = "would be written" if arguments.dry_run else "written"
    signals = ", ".join(f"{name} {count:,}" for name, count in sorted(result.signals.items()))
    print(
        f"{result.records:,} records looked at, signals of {result.annotated:,} {verb}"
        f"{f' ({signals})' if signals else ''}; next: --from {result.next_position}",
        flush=True,
    )
    for name, failures in result.failures.items():
        print(
            f"temper: rule {name} failed {failures.count:,} times, first {printable(failures.first)}", file=sys.stderr
        )


def _result_json(result: CurationResult, dry_run: bool) -> Mapping[str, Any]:
    return {
        "records": result.records,
        "annotated": result.annotated,
        "signals": result.signals,
        "failures": {name: {"count": each.count, "first": each.first} for name, each in result.failures.items()},
        "next_position": result.next_position,
        "dry_run": dry_run,
    }


def _rule_json(rule: Rule) -> Mapping[str, Any]:
    return {
        "name": rule.name,
        "signals": rule.signals,
        "needs_payload": rule.needs_payload,
        "parameters": rule.parameters,
        "summary": rule.summary,
    }


def _rule_words(rule: Rule) -> str:
    parameters = ", ".join(
        f"{name}={'NUMBER' if default is None else f'{default:g}'}" for name, default in rule.parameters.items()
    )
    return f"{rule.name:<18} {rule.summary}{f' [{parameters}]' if parameters else ''}"


def _flat(words: Sequence[Sequence[str] | str]) -> list[str]:
    return [part for word in words for part in ([word] if isinstance(word, str) else word)]
