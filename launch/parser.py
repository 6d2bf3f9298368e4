"""Turns a command line into a command's arguments with tyro, and tyro's boxes of errors into one line each.

Runs no command.

Exceptions: launch.errors.BadInput for a command line that cannot be parsed.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence

from tyro.conf import FlagCreatePairsOff
from tyro.extras import SubcommandApp

from launch import arguments, arguments_keys, arguments_replay, arguments_safety, arguments_sweep
from launch.errors import BadInput

_BOX = re.compile(r"^[│╭╰]\s?|\s*[│╮╯]$")
_NOT_SAID = ("For full helptext", "Argument helptext")
_ADVICE = "Perhaps you meant"
_OPTION = re.compile(r"--[\w-]+")
_MISSING = "Missing from "
_REQUIRED = " (required)"
_NOT_NUMBERS = (
    (
        re.compile(r"Error parsing (\S+): invalid literal for int\(\) with base 10: (.*)"),
        r"\1 \2 is not a whole number",
    ),
    (re.compile(r"Error parsing (\S+): could not convert string to float: (.*)"), r"\1 \2 is not a number"),
)

_FAMILIES = ("replay", "safety", "policy", "keys")
_ALONE = ("train", "actor", "learner", "status", "doctor")
"""Commands that have commands below them, and those that have none."""


def parse(args: Sequence[str]) -> arguments.Command:
    """The arguments of the command that `args` asks for.

    Raises:
      BadInput: they cannot be parsed.
      SystemExit: help was asked for and has been printed.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            command: arguments.Command = _app().cli(
                prog="temper",
                description="An agent factory: actors, durable replay, a JAX learner, and a signed safety gate.",
                args=args,
                config=(FlagCreatePairsOff,),
            )
    except SystemExit as end:
        if end.code in (0, None):
            raise
        words = [word for word in args if not word.startswith("-")]
        raise BadInput(_one_line(complaint.getvalue(), words)) from None
    return command


def _app() -> SubcommandApp:
    app, replay, safety, policy = SubcommandApp(), SubcommandApp(), SubcommandApp(), SubcommandApp()
    keys = SubcommandApp()
    app.command(name="train")(arguments.Train)
    app.command(name="sweep")(arguments_sweep.Sweep)
    app.command(name="distill")(arguments.Distill)
    app.command(name="actor")(arguments.Actor)
    app.command(name="learner")(arguments.Learner)
    app.command(replay, name="replay", help="The trajectory store.")
    replay.command(name="serve")(arguments.ReplayServe)
    replay.command(name="stats")(arguments_replay.ReplayStats)
    replay.command(name="list")(arguments_replay.ReplayList)
    replay.command(name="show")(arguments_replay.ReplayShow)
    replay.command(name="tables")(arguments_replay.ReplayTables)
    replay.command(name="audit")(arguments_replay.ReplayAudit)
    replay.command(name="verify")(arguments_replay.ReplayVerify)
    replay.command(name="auditor")(arguments_replay.ReplayAuditor)
    replay.command(name="curate")(arguments_replay.ReplayCurate)
    replay.command(name="lineage")(arguments_replay.ReplayLineage)
    replay.command(name="quarantine")(arguments_replay.ReplayQuarantine)
    replay.command(name="export")(arguments_replay.ReplayExport)
    replay.command(name="import")(arguments_replay.ReplayImport)
    app.command(safety, name="safety", help="The gate.")
    safety.command(name="serve")(arguments.SafetyServe)
    safety.command(name="rotate")(arguments.SafetyRotate)
    safety.command(name="verdicts")(arguments.SafetyVerdicts)
    safety.command(name="explain")(arguments_safety.SafetyExplain)
    safety.command(name="replay")(arguments_safety.SafetyReplay)
    safety.command(name="export")(arguments_safety.SafetyExport)
    safety.command(name="audit")(arguments.SafetyAudit)
    safety.command(name="check")(arguments.SafetyCheck)
    app.command(policy, name="policy", help="Releases of a run, and inference as a service.")
    policy.command(name="list")(arguments.PolicyList)
    policy.command(name="show")(arguments.PolicyShow)
    policy.command(name="verify")(arguments.PolicyVerify)
    policy.command(name="lineage")(arguments_replay.PolicyLineage)
    policy.command(name="revoke")(arguments_replay.PolicyRevoke)
    policy.command(name="rollback")(arguments_replay.PolicyRollback)
    policy.command(name="serve")(arguments.PolicyServe)
    app.command(keys, name="keys", help="Certificates, for an installation that spans hosts.")
    keys.command(name="init")(arguments_keys.KeysInit)
    keys.command(name="issue")(arguments_keys.KeysIssue)
    keys.command(name="show")(arguments_keys.KeysShow)
    keys.command(name="callers")(arguments_keys.KeysCallers)
    app.command(name="status")(arguments.Status)
    app.command(name="doctor")(arguments.Doctor)
    return app


def _one_line(boxed: str, words: Sequence[str]) -> str:
    """tyro's box of several lines as one: title and sections, without frame and without the repeated help."""
    sections: list[list[str]] = [[]]
    for line in boxed.splitlines():
        text = _BOX.sub("", line).rstrip()
        if text and set(text.strip()) == {"─"}:
            sections.append([])
        elif text and "─" not in text:
            sections[-1].append(text)
    said = [_shortened(section) for section in sections if section and not section[0].startswith(_NOT_SAID)]
    known = words[:2] if words[:1] and words[0] in _FAMILIES else words[:1] if words[:1] and words[0] in _ALONE else []
    command = " ".join(["temper", *known])
    return f"{'; '.join(said) or 'the command line cannot be read'} ({command} --help shows what there is)"


def _shortened(lines: Sequence[str]) -> str:
    """A section as a sentence."""
    if lines[0].startswith(_MISSING):
        return _missing(lines[1:])
    section = " ".join(line.strip() for line in lines)
    for pattern, words in _NOT_NUMBERS:
        section = pattern.sub(words, section)
    # Advice on a misspelt option with the options' names alone; their help would come once for every command.
    if not section.startswith(_ADVICE):
        return section
    names = dict.fromkeys(name for name in _OPTION.findall(section) if name != "--help")
    return f"{_ADVICE}: {', '.join(names)}"


def _missing(lines: Sequence[str]) -> str:
    """The arguments that are missing: each on a line of its own, and below it, further in, what it is."""
    least = min((len(line) - len(line.lstrip()) for line in lines), default=0)
    found: list[tuple[str, list[str]]] = []
    for line in lines:
        if len(line) - len(line.lstrip()) == least or not found:
            found.append((line.strip(), []))
        else:
            found[-1][1].append(line.strip())
    named = (f"{name} ({' '.join(text).removesuffix(_REQUIRED).rstrip('.')})" for name, text in found)
    return f"missing: {', '.join(named)}"
