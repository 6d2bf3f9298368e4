"""The `temper` command: parse, run one command, and turn its errors into one line and an exit status.

Exit status: 0 done; 1 it was tried and failed; 2 bad input, nothing was tried; 3 it was tried again and again and kept
failing; 128 + N ended by signal N, 141 also because nobody reads the output any more.
Every command is in its own module under launch.commands and imported only when it runs, so that help is quick and a
process holds no more than it needs.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence

from launch.errors import LaunchError, bad_input_types, extra_of, missing_extra
from launch.output import discard_output, open_closed_streams
from launch.ownership import check_packages
from launch.process import die_with_supervisor

# What runs each type of arguments: a module with `run(arguments) -> exit status`.
_MODULES: Mapping[str, str] = {
    "Train": "launch.commands.train",
    "Sweep": "launch.commands.sweep",
    "Distill": "launch.commands.distill",
    "Actor": "launch.commands.actor",
    "Learner": "launch.commands.learner",
    "ReplayServe": "launch.commands.replay",
    "ReplayStats": "launch.commands.replay_stats",
    "ReplayList": "launch.commands.replay_list",
    "ReplayShow": "launch.commands.replay_show",
    "ReplayAudit": "launch.commands.replay_audit",
    "ReplayTables": "launch.commands.replay_tables",
    "ReplayExport": "launch.commands.replay_export",
    "ReplayImport": "launch.commands.replay_import",
    "ReplayCurate": "launch.commands.replay_curate",
    "ReplayVerify": "launch.commands.replay_verify",
    "ReplayAuditor": "launch.commands.replay_auditor",
    "ReplayLineage": "launch.commands.replay_lineage",
    "ReplayQuarantine": "launch.commands.replay_quarantine",
    "SafetyServe": "launch.commands.safety",
    "SafetyRotate": "launch.commands.safety_rotate",
    "SafetyVerdicts": "launch.commands.safety_verdicts",
    "SafetyExplain": "launch.commands.safety_explain",
    "SafetyReplay": "launch.commands.safety_replay",
    "SafetyExport": "launch.commands.safety_export",
    "SafetyAudit": "launch.commands.safety_audit",
    "SafetyCheck": "launch.commands.safety_check",
    "PolicyServe": "launch.commands.inference",
    "PolicyList": "launch.commands.policy_list",
    "PolicyShow": "launch.commands.policy_show",
    "PolicyVerify": "launch.commands.policy_verify",
    "PolicyLineage": "launch.commands.policy_lineage",
    "PolicyRevoke": "launch.commands.policy_revoke",
    "PolicyRollback": "launch.commands.policy_rollback",
    "KeysInit": "launch.commands.keys",
    "KeysIssue": "launch.commands.keys",
    "KeysShow": "launch.commands.keys",
    "KeysCallers": "launch.commands.keys",
    "Status": "launch.commands.status",
    "Doctor": "launch.commands.doctor",
}


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line `args`, by default the process's own, and returns the exit status."""
    die_with_supervisor()
    open_closed_streams()
    # Before gRPC is loaded, which would else write a line for every stranger that knocks.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    arguments = list(sys.argv[1:] if args is None else args)
    if arguments == ["--version"]:
        print(f"temper {_version()}")
        return 0
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError as error:
        # Whoever read our output has seen enough; without this Python would complain once more while exiting.
        discard_output(error)
        return 128 + signal.SIGPIPE
    except Exception as error:
        # The bad-input types live in modules that must not be imported just to be named in an except clause.
        known = _known_failure(error, arguments)
        if known is None:
            raise
        message, status = known
        print(f"temper: {message}", file=sys.stderr)
        return status


def _known_failure(error: Exception, arguments: Sequence[str]) -> tuple[str, int] | None:
    """What to say and the exit status, where the error is not a fault of the program."""
    if isinstance(error, LaunchError):
        return str(error), 1
    if isinstance(error, bad_input_types()):
        return " ".join(str(error).split()), 2
    extra = extra_of(error.name or "") if isinstance(error, ModuleNotFoundError) else None
    if extra is not None:
        return str(missing_extra(_command_words(arguments), [extra])), 2
    return None


def _run(arguments: list[str]) -> int:
    from launch.parser import parse  # noqa: PLC0415 - after --version, which needs no parser

    # A user's own module ("gym:my_module:My-v0") is looked for last where the command was typed.
    if str(here := os.getcwd()) not in sys.path and "" not in sys.path:  # noqa: PTH109 - a string is what sys.path holds
        sys.path.append(here)
    check_packages()
    try:
        command = parse(arguments)
    except SystemExit:
        if arguments[:1] == ["train"]:
            from launch.settings_help import print_settings  # noqa: PLC0415 - only after the help of train

            print_settings(arguments[1:])
        raise
    module = importlib.import_module(_MODULES[type(command).__name__])
    status: int = module.run(command)
    return status


def _command_words(arguments: Sequence[str]) -> str:
    two = arguments[:1] and arguments[0] in ("replay", "safety", "policy", "keys")
    return " ".join(arguments[: 2 if two else 1])


def _version() -> str:
    from importlib import metadata  # noqa: PLC0415 - slow to load, and seldom asked for

    try:
        return metadata.version("temper")
    except metadata.PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
