"""The command line of `temper replay` and `temper policy` as it is read, and that each command has something to run."""

from __future__ import annotations

import importlib.util
import typing
from pathlib import Path

import pytest

from launch import arguments, cli
from launch.arguments_replay import (
    PolicyLineage,
    PolicyRevoke,
    ReplayAudit,
    ReplayAuditor,
    ReplayCurate,
    ReplayExport,
    ReplayImport,
    ReplayLineage,
    ReplayList,
    ReplayQuarantine,
    ReplayShow,
    ReplayStats,
    ReplayTables,
    ReplayVerify,
)
from launch.errors import BadInput
from launch.parser import parse

READ = {
    "stats runs/x --json": ReplayStats("runs/x", True),
    "list runs/x": ReplayList("runs/x"),
    "list unix:/a,h:1 --filter lane==0 --from 5 --limit 0": ReplayList("unix:/a,h:1", "lane==0", 5, 0),
    "list x --columns position,lane --columns task_id": ReplayList("x", columns=("position,lane", "task_id")),
    "show x 7 --steps 3": ReplayShow("x", 7, 3),
    "audit x --head 3:ab": ReplayAudit("x", "3:ab"),
    "tables x": ReplayTables("x"),
    "tables h:1 S": ReplayTables("h:1", "S"),
    "export x out": ReplayExport("x", Path("out")),
    "export x out --format prov --limit 9": ReplayExport("x", Path("out"), "prov", limit=9),
    "import x D4RL/door/human-v2 --download --actor-id expert": ReplayImport(
        "x", "D4RL/door/human-v2", actor_id="expert", download=True
    ),
    "curate x --rules a:k=1,j=2 --rules b --module m --follow": ReplayCurate(
        "x", ("a:k=1,j=2", "b"), ("m",), follow=True
    ),
    "verify x --fraction 0.5 --seed 3 --env E": ReplayVerify("x", 0.5, 3, "E"),
    "auditor --config c --replay h:1": ReplayAuditor(Path("c"), "h:1"),
    "lineage x 7 --run-dir y": ReplayLineage("x", "7", "y"),
    "quarantine x lane==0 --why broken --revoke": ReplayQuarantine("x", "lane==0", "broken", revoke=True),
    "quarantine x --list": ReplayQuarantine("x", listing=True),
    "quarantine x --lift 2 --why mended": ReplayQuarantine("x", why="mended", lift=2),
}


@pytest.mark.parametrize("line", READ, ids=lambda line: line.partition(" ")[0])
def test_replay_commands(line: str) -> None:
    assert parse(["replay", *line.split()]) == READ[line]


def test_policy_commands() -> None:
    assert parse(["policy", "lineage", "runs/x", "40", "--records"]) == PolicyLineage(Path("runs/x"), "40", True)
    assert parse(["policy", "revoke", "runs/x", "2", "--why", "w"]) == PolicyRevoke(Path("runs/x"), 2, "w")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("show x seven", "RECORD 'seven' is not a whole number"),
        ("list", "missing: TARGET (A run directory, "),
        ("list x --from", "from"),
        ("export x out --format csv", "csv"),
        ("list x --limt 3", "Perhaps you meant: --limit"),
    ],
)
def test_a_complaint_is_one_clean_line(line: str, said: str) -> None:
    with pytest.raises(BadInput) as raised:
        parse(["replay", *line.split()])
    assert said in str(raised.value)
    assert len(str(raised.value)) < 400
    assert not set("\n│╭╰─") & set(str(raised.value))


def test_every_command_has_something_to_run() -> None:
    commands = {command.__name__ for command in typing.get_args(arguments.Command)}
    assert commands == set(cli._MODULES)
    assert all(importlib.util.find_spec(module) is not None for module in cli._MODULES.values())
