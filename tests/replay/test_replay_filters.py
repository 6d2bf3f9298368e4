"""The filter language against plain Python, and that nothing but a filter is taken for one."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.common.v1 import common_pb2
from replay.filters import (
    CHARACTERS_MAX,
    DEPTH_MAX,
    FilterError,
    field_reader,
    parse_filter,
    shifted_filter,
    unshifted_filter,
)
from replay.record import LoggedRecord
from replay.record_fields import FIELDS

RECORD = LoggedRecord(
    7,
    common_pb2.RecordHeader(
        sequence=2**63,
        steps=20,
        lane=3,
        environment_seed=11,
        episode=4,
        task_id="sort/long",
        policies=[
            common_pb2.PolicySpan(version=8, digest=b"\xab" * 32),
            common_pb2.PolicySpan(first_step=9, version=10, digest=b"\xcd" * 32),
        ],
        start_time_ns=1_500_000_000,
        end_time_ns=2_000_000_000,
        signals={"success": 0.0, "return/mean": -2.5, "level": 3.0},
        parents=[1, 2],
        transformation="relabelled",
        encoding=common_pb2.PAYLOAD_ENCODING_ZSTD,
    ),
    common_pb2.Origin(
        actor_id="actor-0003",
        run_id="run-9",
        environment=common_pb2.EnvironmentIdentity(id="CartPole-v1", version="gymnasium 1", code_digest=b"\x01" * 32),
        config_digest=b"\x02" * 32,
        source_revision="abc",
    ),
    marks=common_pb2.RecordMarks(signals={"success": 1.0, "novelty": 0.25}, quarantine=2),
)

EMPTY = LoggedRecord(0, common_pb2.RecordHeader(), common_pb2.Origin())


def test_every_field_is_read() -> None:
    assert {name: field_reader(name)(RECORD) for name in FIELDS} == {
        "position": 7,
        "actor_id": "actor-0003",
        "run_id": "run-9",
        "environment": "CartPole-v1",
        "environment_version": "gymnasium 1",
        "environment_digest": "01" * 32,
        "task_id": "sort/long",
        "lane": 3,
        "sequence": 2**63,
        "steps": 20,
        "episode": 4,
        "seed": 11,
        "policy_version": 8,
        "policy_version_max": 10,
        "policy_digest": "ab" * 32,
        "config_digest": "02" * 32,
        "source_revision": "abc",
        "start_time": 1.5,
        "end_time": 2.0,
        "transformation": "relabelled",
        "parents": 2,
        "encoding": "zstd",
        "quarantined": True,
    }
    assert field_reader("signals.success")(RECORD) == 1.0  # that of the marks hides that of the header
    assert field_reader('signals["return/mean"]')(RECORD) == -2.5


def test_what_a_record_lacks_is_none() -> None:
    for name in ("policy_version", "policy_version_max", "policy_digest", "signals.success"):
        assert field_reader(name)(EMPTY) is None
    assert field_reader("encoding")(EMPTY) == "raw"
    assert field_reader("encoding")(LoggedRecord(0, common_pb2.RecordHeader(encoding=9), common_pb2.Origin())) == "9"  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["1", "steps + 1", "foo", "", "signals", "signals.a.b", "has(signals.a)"])
def test_a_field_is_named_by_a_name(text: str) -> None:
    with pytest.raises(FilterError):
        field_reader(text)


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("", True),
        ("  ", True),
        ("signals.success == 1 and not quarantined", False),
        ("signals.success == 1 and quarantined", True),
        ("quarantined == True", True),
        ("signals['return/mean'] / steps < -0.1", True),
        ("1 < policy_version <= 8 < policy_version_max", True),
        ("8 < policy_version < 1 / 0", False),
        ("position in [5, -7, 7.0]", True),
        ("-signals.level in (-3, 5)", True),
        ("task_id not in {'a', 'sort'}", True),
        ("sequence == 9223372036854775808", True),
        ("sequence == 9223372036854775809", False),
        ("startswith(actor_id, 'actor-') and contains(task_id, '/')", True),
        ("startswith(actor_id, 'ctor-') or contains(task_id, '//')", False),
        ("has(signals.novelty) and not has(signals['no such'])", True),
        ("signals.novelty", True),
        ("signals.missing", False),
        ("not signals.missing", True),
        ("signals.missing != 1", False),
        ("signals.missing not in [1]", False),
        ("signals.missing + 1 > 0 or -signals.missing < 0", False),
        ("steps / (position - 7) >= 0", False),
        ("1e308 * 10 > 1e308", True),
        (f"{10**400} / 3 > 0", False),
        ("end_time - start_time == +0.5", True),
        ("'a' < task_id", True),
        ("True", True),
        ("not True", False),
    ],
)
def test_what_passes(text: str, accepted: bool) -> None:
    found = parse_filter(text)
    assert found(RECORD) is accepted
    assert found.text == text
    assert repr(found) == f"parse_filter({text!r})"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("foo == 1", "there is no field 'foo' at column 1 .* known are position, actor_id, .* signals.NAME, has"),
        ("steps > 1 and signals", "there is no field 'signals' at column 15 "),
        ('"é" == actor_id and foo', "there is no field 'foo' at column 21 "),
        ("signals.a.b > 1", "there is no field 'signals.a.b'"),
        ("signals[steps] > 1", "there is no field"),
        ("origin.actor_id == 'a'", "there is no field"),
        ("open('f')", "there is no function 'open' at column 1 .* known are"),
        ("steps.__class__", "there is no field"),
        ("().__class__", "there is no field"),
        ("(lambda: 1)()", "there is no function"),
        ("[x for x in [1]]", "ListComp is not part"),
        ("f'{steps}' == '20'", "JoinedStr is not part"),
        ("steps if steps else 1", "IfExp is not part"),
        ("(y := 1) == 1", "NamedExpr is not part"),
        ("steps ** 9 > 1", "Pow is none of the operators"),
        ("~steps > 1", "Invert is not part"),
        ("steps is 1", "Is is not one of the comparisons"),
        ("steps == 'a'", "a number is compared with a text"),
        ("quarantined == 1", "a truth value is compared with a number"),
        ("'a' + 'b' == 'ab'", "arithmetic with a text"),
        ("-task_id == 1", "arithmetic with a text"),
        ("not steps + quarantined", "arithmetic with a truth value"),
        ("task_id in 'abc'", "in needs a list"),
        ("position in [steps]", "may hold constants only"),
        ("position in ['a']", "looked for in a list with a text"),
        ("position in [-'a']", "arithmetic with a text"),
        ("position in [None]", "neither number nor string"),
        ("startswith(task_id)", "is used otherwise than startswith"),
        ("contains(task_id, actor_id)", "is used otherwise than contains"),
        ("startswith(steps, 'a')", "is asked of a number"),
        ("has(steps > 1)", "is used otherwise than has"),
        ("has(signals.a, key=1)", "is used otherwise than has"),
        ("1j == 1", "neither number nor string"),
        ("steps ==", "invalid syntax at column 9 of"),
        ("  position > ", "invalid syntax at column 11 of the filter 'position >'"),
        ("'\u00e9' == task_id and", "invalid syntax at column 19 of"),
        ("steps == 1; steps", "invalid syntax at column 11 of"),
        ("steps 1", "invalid syntax at column 7 of"),
        ("(steps\n 1 2)", r"invalid syntax.* at column 2 of"),
        ("(steps >\r\n  foo)", "there is no field 'foo' at column 13 of"),
        ("(steps == 1", "'\\(' was never closed at column 1 of"),
        ("steps in [1] in [2]", "the list after in is compared with something else as well, at column 10 of"),
        ("a\nb", "invalid syntax"),
        ("\x00", "null bytes"),
        ("'\ud800' == task_id", "surrogates not allowed"),
        ("not " * 70 + "True", f"nested more than {DEPTH_MAX} deep"),
        ("-" * 4_000 + "1", f"nested more than {DEPTH_MAX} deep"),
        ("(" * 500 + ")" * 500, "too many nested parentheses"),
        ("x" * (CHARACTERS_MAX + 1), f"4097 characters is not read: at most {CHARACTERS_MAX}"),
        ("a" + ".b" * 2_000, "there is no field"),
    ],
)
def test_what_is_no_filter(text: str, message: str) -> None:
    with pytest.raises(FilterError, match=message) as caught:
        parse_filter(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1_500


def test_a_filter_says_whether_marks_matter() -> None:
    assert not parse_filter("").reads_marks
    assert not parse_filter("steps > 1 and startswith(task_id, 'a')").reads_marks
    assert parse_filter("steps > 1 or quarantined").reads_marks
    assert parse_filter("has(signals.a)").reads_marks


Oracle = Callable[[], Any]
Term = tuple[str, Oracle]
"""The text of an expression, and what it is of RECORD in plain Python; None: missing."""

ARITHMETIC = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
COMPARISONS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

NUMBERS: list[tuple[str, Any]] = [
    ("position", 7),
    ("steps", 20),
    ("signals.success", 1.0),
    ("signals['return/mean']", -2.5),
    ("signals.nothing", None),
    ("end_time", 2.0),
]
TEXTS = [("task_id", "sort/long"), ("actor_id", "actor-0003"), ("transformation", "relabelled")]


def _constant(value: Any) -> Term:
    return repr(value), lambda: value


def _computed(left: Term, sign: str, right: Term) -> Term:
    def oracle() -> Any:
        first, second = left[1](), right[1]()
        if first is None or second is None or (sign == "/" and second == 0):
            return None
        return ARITHMETIC[sign](first, second)

    return f"({left[0]} {sign} {right[0]})", oracle


def _negated(term: Term) -> Term:
    return f"-{term[0]}", lambda: None if term[1]() is None else -term[1]()


def _compared(first: Term, links: list[tuple[str, Term]]) -> Term:
    def oracle() -> bool:
        left = first[1]()
        for sign, term in links:
            right = term[1]()
            if left is None or right is None or not COMPARISONS[sign](left, right):
                return False
            left = right
        return True

    return f"({first[0]} {' '.join(f'{sign} {term[0]}' for sign, term in links)})", oracle


def _looked_for(term: Term, inside: bool, values: list[Any]) -> Term:
    def oracle() -> bool:
        return term[1]() is not None and (term[1]() in values) is inside

    return f"({term[0]} {'in' if inside else 'not in'} {values!r})", oracle


def _joined(parts: list[Term], word: str) -> Term:
    function = all if word == "and" else any
    return f"({f' {word} '.join(text for text, _ in parts)})", lambda: function([bool(oracle()) for _, oracle in parts])


def _not(term: Term) -> Term:
    return f"not {term[0]}", lambda: not term[1]()


_whole = st.integers(-30, 30)
_terms: st.SearchStrategy[Term] = st.recursive(
    st.one_of(
        st.sampled_from(NUMBERS).map(lambda item: (item[0], lambda: item[1])),
        st.one_of(st.integers(0, 30), st.sampled_from([0.0, 0.5, 2.5])).map(_constant),
    ),
    lambda terms: st.one_of(
        st.builds(_computed, terms, st.sampled_from([*ARITHMETIC]), terms), st.builds(_negated, terms)
    ),
    max_leaves=6,
)
_texts: st.SearchStrategy[Term] = st.one_of(
    st.sampled_from(TEXTS).map(lambda item: (item[0], lambda: item[1])),
    st.sampled_from(["", "sort/long", "actor", 'it\'s "so"\n']).map(_constant),
)


def _comparison(terms: st.SearchStrategy[Term]) -> st.SearchStrategy[Term]:
    return st.builds(
        _compared, terms, st.lists(st.tuples(st.sampled_from([*COMPARISONS]), terms), min_size=1, max_size=3)
    )


_conditions: st.SearchStrategy[Term] = st.recursive(
    st.one_of(
        _comparison(_terms),
        _comparison(_texts),
        st.builds(_looked_for, _terms, st.booleans(), st.lists(_whole, max_size=4)),
        st.builds(_looked_for, _texts, st.booleans(), st.lists(st.sampled_from(["", "sort/long", "x"]), max_size=3)),
    ),
    lambda parts: st.one_of(
        st.builds(_joined, st.lists(parts, min_size=2, max_size=4), st.sampled_from(["and", "or"])),
        parts.map(_not),
    ),
    max_leaves=6,
)


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(condition=_conditions)
def test_the_same_as_plain_python(condition: Term) -> None:
    text, oracle = condition
    assert parse_filter(text)(RECORD) is bool(oracle())


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(
    text=st.one_of(
        st.text(max_size=60),
        st.lists(
            st.sampled_from(
                [*"()[]{}.,:'+-*/<>=!~1", " and ", " or ", " not ", " in ", "signals", "steps", "has", "\n"]
            ),
            max_size=20,
        ).map("".join),
    )
)
def test_any_text_is_a_filter_or_refused(text: str) -> None:
    try:
        accepts = parse_filter(text)
    except FilterError:
        return
    assert accepts(RECORD) in (True, False)
    assert accepts(EMPTY) in (True, False)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(condition=_conditions, spaces=st.tuples(st.text(" ", max_size=2), st.text(" ", max_size=2)))
def test_a_shifted_filter_says_the_same_of_a_part_of_the_log(condition: Term, spaces: tuple[str, str]) -> None:
    text = f"{spaces[0]}{condition[0]}{spaces[1]}"
    for first in (0, 7, 2**48):
        shifted = shifted_filter(text, first)
        there = LoggedRecord(7 - first, RECORD.header, RECORD.origin, marks=RECORD.marks)
        assert parse_filter(shifted)(there) is parse_filter(text)(RECORD)
        assert unshifted_filter(shifted, first) == text


@pytest.mark.parametrize(
    ("text", "shifted"),
    [
        ("", ""),
        ("steps > 1", "steps > 1"),
        ("1<position<3", "1<(position + 5)<3"),
        ("'position' == task_id and not -position", "'position' == task_id and not -(position + 5)"),
        ("signals.position < position", "signals.position < (position + 5)"),
        ("signals['position'] == 1", "signals['position'] == 1"),
        ("signals.return > position", "signals.return > (position + 5)"),
        ("'\u00e9\u2028' == task_id\\\n or position in [1]", "'\u00e9\u2028' == task_id\\\n or (position + 5) in [1]"),
        ("(position + 5) > 5", "((position + 5) + 5) > 5"),
        ('""" it\'s """ == task_id or position > 1', '""" it\'s """ == task_id or (position + 5) > 1'),
    ],
)
def test_only_the_field_is_shifted(text: str, shifted: str) -> None:
    assert shifted_filter(text, 5) == shifted
    assert unshifted_filter(shifted, 5) == text


def test_what_was_never_shifted_is_given_back() -> None:
    for text in (
        "position > 3",
        "(position + 6) > 3",
        "(position + 5) > position",
        "no filter (position + 5)",
        "'(position + 5)' == task_id",
    ):
        assert unshifted_filter(text, 5) == text
    with pytest.raises(FilterError, match=f"names `position`.* at most {CHARACTERS_MAX}"):
        shifted_filter("position in [" + "1, " * ((CHARACTERS_MAX - 16) // 3) + "]", 5)


def test_chains_in_chains_are_read_once() -> None:
    """At twice the work for each level, sixty levels would never end."""
    text = "(steps > 1)"
    for _ in range(60):
        text = f"(True == {text} == True)"
    assert parse_filter(text)(RECORD)
    assert not parse_filter(text)(EMPTY)


def test_signals_may_have_names_that_python_reserves() -> None:
    header = common_pb2.RecordHeader(steps=1, signals={"return": 3.0, "in": 1.0}, task_id="signals.return")
    record = LoggedRecord(0, header, common_pb2.Origin())
    assert parse_filter("signals.return > 2 and has(signals . in)")(record)
    assert parse_filter("task_id == 'signals.return'")(record)
    assert field_reader("signals.return")(record) == 3.0
    with pytest.raises(FilterError, match=r"at column 24 of the filter 'signals\.return > 2 and stepz"):
        parse_filter("signals.return > 2 and stepz > 1")
