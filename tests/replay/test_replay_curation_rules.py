"""How rules are registered and chosen."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from replay.curation import rules
from replay.curation.catalog import choose_rules, known_rules
from replay.curation.context import CurationContext
from replay.curation.rules import RuleError, choose, registered, rule
from replay.record import LoggedRecord


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a test registers outlives it."""
    monkeypatch.setattr(rules, "_registered", dict(registered()))


@pytest.fixture
def module_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def long(record: LoggedRecord, context: CurationContext) -> Mapping[str, float]:
    """1 where it is long.

    What long is, the parameter says.
    """
    return {"long": float(record.header.steps >= context.parameter("steps"))}


def test_a_rule_is_a_function_with_a_name() -> None:
    assert rule("long", signals=("long",), parameters={"steps": 100.0})(long) is long
    made = registered()["long"]
    assert (made.function, made.signals, made.needs_payload) == (long, ("long",), False)
    assert made.summary == "1 where it is long."
    assert choose("long").parameters == {"steps": 100.0}
    assert choose("long:steps=5").parameters == {"steps": 5.0}
    assert choose("long").parameters == {"steps": 100.0}, "a choice leaves the rule as it was"


def test_the_rules_that_come_along() -> None:
    known = known_rules()
    expected = {
        "duplicate_of",
        "fidelity",
        "near_duplicate_of",
        "novelty",
        "reward_verified",
        "success",
        "violations",
    }
    assert expected <= set(known)
    assert list(known) == sorted(known)
    assert all(known[name].summary for name in expected)
    without_payload = {name for name in expected if not known[name].needs_payload}
    assert without_payload == {"duplicate_of", "reward_verified", "success"}


def test_a_name_belongs_to_one_function() -> None:
    def other(record: LoggedRecord, context: CurationContext) -> Mapping[str, float]:
        return {}

    rule("long", signals=("long",))(long)
    rule("long", signals=("long",))(long)
    with pytest.raises(RuleError, match=r"rule 'long' of .*other is registered already, by .*long"):
        rule("long", signals=("long",))(other)
    assert registered()["long"].function is long


@pytest.mark.parametrize(
    ("name", "signals", "text"),
    [
        ("", ("a",), "must match"),
        ("a b", ("a",), "must match"),
        ("a", (), "name the signals"),
        ("a", "a", "in a tuple"),
        ("a", ("",), "signal '' of rule 'a' must match"),
        ("a", ("b", "c d"), "signal 'c d' of rule 'a' must match"),
        ("a", ("verified",), "signal 'verified' is for verification to write"),
        ("mismatch", ("mismatch",), "signal 'mismatch' is for verification to write"),
        ("a", ("b", "verification_error"), "is for verification to write"),
    ],
)
def test_what_cannot_be_registered(name: str, signals: tuple[str, ...], text: str) -> None:
    with pytest.raises(RuleError, match=text):
        rule(name, signals=signals)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("newness", r"unknown rule 'newness'; known are .*novelty"),
        ("success:limit=3", r"rule 'success' has no parameter 'limit=3'; its parameters are: threshold=NUMBER"),
        ("success:threshold", "has no parameter 'threshold'"),
        ("success:", "has no parameter ''"),
        ("success:threshold=high", "threshold = 'high' is not a finite number"),
        ("success:threshold=inf", "threshold = 'inf' is not a finite number"),
        ("duplicate_of:x=1", "its parameters are: none"),
    ],
)
def test_what_cannot_be_chosen(text: str, message: str) -> None:
    with pytest.raises(RuleError, match=message) as caught:
        choose_rules([text])
    assert "\n" not in str(caught.value)


def test_a_rule_is_chosen_once() -> None:
    with pytest.raises(RuleError, match="chosen more than once"):
        choose_rules(["success", "success:threshold=3"])


def test_two_rules_do_not_write_one_signal_at_once() -> None:
    rule("long", signals=("long", "success"), parameters={"steps": 1.0})(long)
    with pytest.raises(RuleError, match="rules 'success' and 'long' both write the signal 'success': choose one"):
        choose_rules(["success", "novelty", "long"])
    assert len(choose_rules(["novelty", "long"])) == 2


def test_rules_in_a_module_of_ones_own(module_path: Path) -> None:
    (module_path / "my_own_rules.py").write_text(
        "from replay.curation.rules import rule\n"
        "@rule('mine', signals=('mine',))\n"
        "def mine(record, context):\n"
        "    return {'mine': 1.0}\n"
    )
    (chosen,) = choose_rules(["mine"], ["my_own_rules"])
    assert chosen.rule.name == "mine"


@pytest.mark.parametrize("content", [None, "raise OSError('no such\\nthing')", "def (", "raise SystemExit(0)"])
def test_a_module_that_cannot_be_imported_is_one_line(module_path: Path, content: str | None) -> None:
    if content is not None:
        (module_path / "my_broken_rules.py").write_text(content)
    with pytest.raises(RuleError, match="module 'my_broken_rules' with rules cannot be imported: ") as caught:
        choose_rules(["success"], ["my_broken_rules"])
    assert "\n" not in str(caught.value)


def test_parameters_without_a_value() -> None:
    context = CurationContext({"threshold": None})
    assert context.optional_parameter("threshold") is None
    with pytest.raises(ValueError, match="'threshold' has no value"):
        context.parameter("threshold")
    with pytest.raises(KeyError):
        context.parameter("limit")
