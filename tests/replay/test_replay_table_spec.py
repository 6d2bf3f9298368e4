"""Specifications of tables: the one-line form, and what no table can be told."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.replay.v1 import replay_pb2
from replay.limiter import min_size_limiter, queue_limiter, ratio_limiter
from replay.table_spec import KINDS, TableSpecError, check_spec, format_spec, limiter_of, parse_spec


def test_the_one_line_form_is_read() -> None:
    assert parse_spec("prioritised per signal=td_error payload_bytes_max=2GiB age_s_max=60") == replay_pb2.TableSpec(
        kind="prioritised",
        name="per",
        min_size=1,
        error_buffer=1024.0,
        priority_exponent=0.6,
        priority_signal="td_error",
        payload_bytes_max=2 * 1024**3,
        age_s_max=60.0,
    )
    assert parse_spec("curated good filter='signals.success == 1 and not quarantined' min_size=9") == (
        replay_pb2.TableSpec(
            kind="curated",
            name="good",
            min_size=9,
            error_buffer=1024.0,
            filter="signals.success == 1 and not quarantined",
        )
    )
    assert parse_spec("fresh queue").error_buffer == 128.0


@pytest.mark.parametrize(
    ("text", "size_bytes"), [("5", 5), ("7B", 7), ("3K", 3_000), ("100MB", 10**8), ("4GiB", 4 * 2**30), ("1T", 10**12)]
)
def test_bytes_have_units(text: str, size_bytes: int) -> None:
    assert parse_spec(f"uniform old payload_bytes_max={text}").payload_bytes_max == size_bytes


_numbers = st.one_of(st.integers(0, 10**12).map(float), st.floats(0.0, 1e9))


@st.composite
def _specs(draw: st.DrawFn) -> replay_pb2.TableSpec:
    kind = draw(st.sampled_from(KINDS))
    spec = replay_pb2.TableSpec(kind=kind, name=draw(st.from_regex(r"\A[A-Za-z0-9._-]{1,64}\Z")), min_size=1)
    spec.payload_bytes_max = draw(st.integers(0, 2**64 - 1))
    spec.age_s_max = draw(st.floats(0.0, 1e9))
    if kind == "fresh":
        spec.error_buffer = draw(st.floats(1.0, 1e6))
        return spec
    spec.min_size = draw(st.integers(1, 10**6))
    spec.records_max = draw(st.one_of(st.just(0), st.integers(10**6, 2**64 - 1)))
    spec.samples_per_insert = draw(st.one_of(st.just(0.0), st.floats(1e-6, 1e6)))
    spec.error_buffer = draw(st.floats(2e6, 1e12))
    if kind == "prioritised":
        spec.priority_exponent = draw(st.floats(0.0, 4.0))
        spec.priority_signal = draw(st.text(st.characters(codec="utf-8"), max_size=20))
    elif kind == "stratified":
        spec.stratify_by = draw(st.sampled_from(["task_id", "signals.success", 'signals["it\'s so"]']))
    elif kind == "curated":
        spec.filter = draw(st.sampled_from(["steps > 1", "task_id == \"a 'b'\"", "quarantined or 1 < 2"]))
    return spec


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(spec=_specs())
def test_what_is_written_is_read_back(spec: replay_pb2.TableSpec) -> None:
    check_spec(spec)
    assert parse_spec(format_spec(spec)) == spec


def test_only_what_is_not_said_anyway_is_written() -> None:
    assert format_spec(parse_spec("prioritised per exponent=0.6 min_size=1 records_max=5")) == (
        "prioritised per records_max=5"
    )
    spec = "curated good samples_per_insert=0.5 error_buffer=30 filter='signals.success == 1'"
    assert format_spec(parse_spec(spec)) == spec


def test_a_limiter_is_what_is_told() -> None:
    assert limiter_of(parse_spec("fresh queue error_buffer=7")) == queue_limiter(7)
    assert limiter_of(parse_spec("uniform old min_size=7")) == min_size_limiter(7)
    ratio = "stratified s by=task_id min_size=7 samples_per_insert=3 error_buffer=20"
    assert limiter_of(parse_spec(ratio)) == ratio_limiter(3.0, 7, 20.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be KIND NAME key=value"),
        ("uniform", "must be KIND NAME key=value"),
        ("uniform min_size=3", "must be KIND NAME key=value"),
        ("ring a", "is of kind 'ring'; kinds are fresh, uniform, prioritised, stratified, curated"),
        ("uniform 'a b'", "table name 'a b' must match"),
        ("uniform " + "a" * 65, "must match"),
        ("uniform 'a", "cannot be read: No closing quotation"),
        ("uniform a b", "'b' is no key=value; settings are samples_per_insert, min_size"),
        ("uniform a size=1", "'size=1' is none of its settings; settings are"),
        ("uniform a min_size=1 min_size=2", "'min_size=2' stands twice"),
        ("uniform a min_size=1.5", "min_size = '1.5' is not a whole number"),
        ("uniform a min_size=-1", "is not a whole number"),
        ("uniform a age_s_max=soon", "age_s_max = 'soon' is not a number of seconds"),
        ("uniform a payload_bytes_max=3XB", "not a number of bytes, such as 100MB or 4GiB"),
        ("uniform a payload_bytes_max=99999999999T", "not a number of bytes"),
        ("uniform a min_size=0", "min_size = 0 must be at least 1: nothing can be drawn"),
        ("uniform a min_size=9 records_max=8", "min_size = 9 exceeds records_max = 8: nothing would ever be drawn"),
        ("uniform a age_s_max=nan", "age_s_max = nan must be finite"),
        ("uniform a age_s_max=-1", "must be finite, not negative"),
        ("uniform a samples_per_insert=inf", "must be finite"),
        ("uniform a samples_per_insert=1e-7", "must be 0 .* or at least 1e-06"),
        ("uniform a samples_per_insert=1e7", "at most 1e.06"),
        ("uniform a samples_per_insert=4 error_buffer=1", "table 'a': max_diff - min_diff = 2.0 is too small"),
        ("uniform a exponent=1", "exponent = 1.0 means nothing to it: only prioritised tables have it"),
        ("stratified a by=task_id filter=steps", "filter = 'steps' means nothing to it"),
        ("prioritised a exponent=5", "exponent = 5.0 must be finite, not negative, and at most 4"),
        ("prioritised a signal=" + "s" * 257, "more than 256 characters"),
        ("stratified a", "names no field: without one there are no strata"),
        ("stratified a by=foo", "table 'a': there is no field 'foo' .* known are position"),
        ("stratified a by='steps > 1'", "not the name of one field"),
        ("curated a", "filter = '' is empty: a table of every record is a uniform one"),
        ("curated a filter='steps >'", "table 'a': invalid syntax at column"),
        ("fresh a error_buffer=0.5", "must be at least 1: no record could ever be appended"),
        ("fresh a error_buffer=9 records_max=8", "exceeds records_max = 8: records would go before their turn"),
        ("fresh a samples_per_insert=2", "means nothing to it: only uniform, "),
        ("fresh a min_size=2", "means nothing to it: only uniform, "),
    ],
)
def test_what_no_table_can_be_told(text: str, message: str) -> None:
    with pytest.raises(TableSpecError, match=message) as caught:
        parse_spec(text)
    assert "\n" not in str(caught.value)


def test_an_empty_specification_is_refused() -> None:
    with pytest.raises(TableSpecError, match="kinds are"):
        check_spec(replay_pb2.TableSpec())
    check_spec(replay_pb2.TableSpec(name="q", kind="fresh", error_buffer=1.0))
    with pytest.raises(TableSpecError, match="min_size = 0"):
        check_spec(replay_pb2.TableSpec(name="u", kind="uniform"))
