"""`temper safety audit`: checks a run's ledger: chain, signatures, seeds, error rates, evidence; and a head that was
kept earlier. Error rates are those of the run's settings; verdicts by other criteria are only counted.

--json prints one object: directory, intact, reason ("" or what is wrong), entries, approved, deferred, rejected, void,
broken_off, under_way, revocations, promotions, breaches, evaluations_checked, levels_checked, evidence_checked,
evidence_absent, rule_changes (entry, evaluation, what, before, after), keys (every one there was, the newest last:
purpose, key_id, entry after which it signs), head (INDEX:HEX of the newest entry; null where there is none). Numbers,
changes, keys and head are null where something is wrong.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from launch.arguments import SafetyAudit
from launch.config_file import read_config
from launch.errors import BadInput, ConfigFileError
from launch.json_output import json_line
from launch.releases import exchanged_key, require_trust
from launch.run_paths import RunPaths, require_run_directory
from replay.settings import SettingError
from safety.audit import LedgerAudit, audit_ledger
from safety.begun_evaluations import KnownSchedule, RuleChange
from safety.keys.directory import PURPOSES
from safety.ledger import LedgerEntry, LedgerError, read_ledger
from safety.statistics.parameters import ParameterError
from safety.suite_file import SuiteFileError, make_suite
from safety.suites.manifest import criteria_digest
from safety.trials.levels import Schedule

_NOT_NUMBERS = {"rule_changes", "keys", "head"}
_HEAD = re.compile(r"([0-9]{1,15}):([0-9a-fA-F]{64})")


def run(arguments: SafetyAudit) -> int:
    """Prints what was found; returns 1 where something is wrong."""
    kept = _kept_head(arguments.head) if arguments.head else None
    paths = require_run_directory(arguments.run_dir)
    trust = require_trust(paths)
    audit, reason = None, ""
    entries: Sequence[LedgerEntry] = ()
    try:
        entries = read_ledger(paths.safety)
        known = _known(paths)
        audit = audit_ledger(entries, trust.verify_key, trust.run_id, kept, directory=paths.safety, known=known)
    except LedgerError as error:
        reason = exchanged_key(entries, paths, trust) or str(error)
    if arguments.json:
        print(json_line({"directory": str(paths.safety), "intact": not reason, "reason": reason, **_fields(audit)}))
    else:
        print(f"{paths.safety}: {_described(audit) if audit is not None else f'NOT INTACT: {reason}'}")
    return 1 if reason else 0


def _known(paths: RunPaths) -> KnownSchedule | None:
    """How the candidates share the run's error rate, as its settings have it; None where they cannot be read here."""
    try:
        config = read_config(paths.config)
        suite = make_suite(config.safety, config.environment)
    except (ConfigFileError, SettingError, SuiteFileError, ParameterError):
        return None
    return KnownSchedule(criteria_digest(suite), Schedule(suite.error_rate, suite.error_schedule))


def _fields(audit: LedgerAudit | None) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(LedgerAudit) if field.name not in _NOT_NUMBERS]
    keys = changes = None
    if audit is not None:
        changes = [
            {**each._asdict(), "before": each.before.hex(), "after": each.after.hex()} for each in audit.rule_changes
        ]
        keys = [{"purpose": each.purpose, "key_id": each.key.key_id, "entry": each.entry} for each in audit.keys]
    numbers = {name: getattr(audit, name, None) for name in names}
    return {**numbers, "rule_changes": changes, "keys": keys, "head": _head(audit)}


def _unlevelled(audit: LedgerAudit) -> str:
    other = audit.evaluations_checked - audit.levels_checked
    return f" ({other} by criteria that are not those of config.toml today)" if other > 0 else ""


def _head(audit: LedgerAudit | None) -> str | None:
    return f"{audit.entries - 1}:{audit.head.hex()}" if audit is not None and audit.entries else None


def _described(audit: LedgerAudit) -> str:
    return (
        f"{audit.entries:,} entries intact: {audit.approved} approved, {audit.deferred} deferred, "
        f"{audit.rejected} rejected, {audit.void} void, {_broken_off(audit)}{audit.revocations} revoked, "
        f"{audit.promotions} promoted, {audit.breaches} leases breached; "
        f"the seeds of {audit.evaluations_checked} evaluations are those committed to "
        f"before, the error rates of {audit.levels_checked} those of the schedule{_unlevelled(audit)}, the evidence "
        f"of {audit.evidence_checked} says what they say"
        + (f" ({audit.evidence_absent} without)" if audit.evidence_absent else "")
        + "".join(f"\n{_change(each)}" for each in audit.rule_changes)
        + f"\n{_keys(audit)}\nhead {_head(audit)}"
    )


def _broken_off(audit: LedgerAudit) -> str:
    if not audit.broken_off and not audit.under_way:
        return ""
    without = f" ({audit.under_way} more has no verdict yet)" if audit.under_way else ""
    return f"{audit.broken_off} evaluations broken off{without}, "


def _change(change: RuleChange) -> str:
    return (
        f"the {change.what} changed with evaluation {change.evaluation} (entry {change.entry}): "
        f"{change.before.hex()[:16]} before, {change.after.hex()[:16]} since"
    )


def _keys(audit: LedgerAudit) -> str:
    """The keys that sign now, and how many came before them."""
    said = []
    for purpose in PURPOSES:
        keys = [each for each in audit.keys if each.purpose == purpose]
        if keys:
            before = f", after {len(keys) - 1} before it, since entry {keys[-1].entry}" if len(keys) > 1 else ""
            said.append(f"{purpose}s by key {keys[-1].key.key_id}{before}")
    return "; ".join(said) or "no keys yet"


def _kept_head(text: str) -> tuple[int, bytes]:
    found = _HEAD.fullmatch(text)
    if found is None:
        raise BadInput(f"--head {text!r} is not INDEX:HEX with 64 hexadecimal digits, as an audit prints it")
    return int(found[1]), bytes.fromhex(found[2])
