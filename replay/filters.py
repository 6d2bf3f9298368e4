"""The filter language: which records are meant, said as an expression over their provenance and signals.

    signals.success == 1 and not quarantined
    environment == "CartPole-v1" and 100 <= policy_version < 200
    task_id in ["sort", "merge"] and signals["return/mean"] / steps > 0.5
    startswith(actor_id, "actor-00") or has(signals.duplicate_of)

The syntax is that of a Python expression, cut down to: and, or, not; comparisons, chained as well; `in` and `not in` a
list of constants; + - * / of numbers; numbers, strings, True, False; the fields of record_fields.py; signals.NAME or
signals["any name"]; has(signals.NAME), startswith(TEXT, "..."), contains(TEXT, "..."). The empty filter accepts every
record. Nothing of it is executed as Python: the syntax tree is read once, and each node it may hold becomes a closure.

What a record lacks is missing: a signal of that name, the quotient of a division by zero. Every comparison with it is
false, `!=` and `not in` included; so is it by itself, and what is computed from it is missing too. Kinds are checked
before any record is seen: numbers, texts and truth values do not compare with each other.

Exceptions: FilterError (a ValueError) for a text that is no filter; evaluating one raises nothing.
"""

from __future__ import annotations

import ast
import keyword
import operator
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from replay.record import LoggedRecord
from replay.record_fields import FIELDS, NUMBER, TEXT, TRUTH, Field, Read, Value, signal

CHARACTERS_MAX = 4_096
DEPTH_MAX = 64

_SIGNALS = "signals"
_RESERVED = re.compile(
    r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(?P<signals>\bsignals\s*\.\s*)(?P<name>"""
    + "|".join(keyword.kwlist)
    + r")\b"
)
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|\Z)")
_FUNCTIONS = {
    "has": "has(signals.NAME)",
    "startswith": 'startswith(TEXT, "...")',
    "contains": 'contains(TEXT, "...")',
}
_Link = tuple[Callable[[Any, Any], bool], Callable[[LoggedRecord], Any]]
"""Of a comparison: whether it holds between what is left of it and what is right of it, and how to read the latter."""

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class FilterError(ValueError):
    """The text is no filter; the message says what is wrong at which column, and which names are known."""


class Filter:
    """A filter that was read from `text`: call it with a record. Make it with `parse_filter`."""

    __slots__ = ("_accepts", "position_spans", "reads_marks", "text")

    def __init__(
        self,
        text: str,
        accepts: Callable[[LoggedRecord], bool],
        *,
        reads_marks: bool,
        position_spans: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.text = text
        self.reads_marks = reads_marks
        """Whether marks can change its answer: it names a signal, or `quarantined`."""
        self.position_spans = position_spans
        """Where in `text` it names the field `position`, in order: the index of the first letter, and after the last.
        """
        self._accepts = accepts

    def __call__(self, record: LoggedRecord) -> bool:
        """Whether the record passes."""
        return self._accepts(record)

    def __repr__(self) -> str:
        return f"parse_filter({self.text!r})"


def parse_filter(text: str) -> Filter:
    """Reads a filter; "" accepts every record. Raises FilterError."""
    if not text.strip():
        return Filter(text, _constantly(True), reads_marks=False)
    compiler = _Compiler(text)
    read = compiler.expression(compiler.tree, 0).read
    return Filter(
        text,
        lambda record: bool(read(record)),
        reads_marks=compiler.reads_marks,
        position_spans=compiler.position_spans(),
    )


def shifted_filter(text: str, first_position: int) -> str:
    """What to ask of a log that lies at `first_position` in a larger one, where `text` is asked of the larger one.

    Raises FilterError for what is no filter, and for one that would become longer or deeper than a filter may be.
    """
    spans = parse_filter(text).position_spans
    if not first_position or not spans:
        return text
    shifted = text
    for start, end in reversed(spans):
        shifted = f"{shifted[:start]}{_shift(first_position)}{shifted[end:]}"
    try:
        parse_filter(shifted)
    except FilterError as error:
        raise FilterError(
            f"the filter {_shortened(text.strip())} names `position`, which is to be computed from that in a shard, "
            f"and so becomes too much: {error}"
        ) from None
    return shifted


def unshifted_filter(text: str, first_position: int) -> str:
    """The filter that `shifted_filter` has made this one of; any other is given back as it is."""
    try:
        spans = parse_filter(text).position_spans
    except FilterError:  # of another version
        return text
    shift = _shift(first_position)
    firsts = [start - shift.index("position") for start, _ in spans]
    if not first_position or not all(text.startswith(shift, max(first, 0)) for first in firsts):
        return text
    for first in reversed(firsts):
        text = f"{text[:first]}position{text[first + len(shift) :]}"
    return text


def _shift(first_position: int) -> str:
    return f"(position + {first_position})"


def field_reader(text: str) -> Read:
    """Reads the name of one field, such as "task_id" or "signals.success", and returns what reads it from a record.

    What it returns gives None where the record lacks the field. Raises FilterError for anything but a field's name.
    """
    compiler = _Compiler(text)
    if not isinstance(compiler.tree, ast.Name | ast.Attribute | ast.Subscript):
        raise compiler.error(compiler.tree, "this is not the name of one field", known=True)
    return compiler.field(compiler.tree).read


def _readable(text: str) -> str:
    """The text with signals.return, and those of other names that Python reserves, as Python will read them.

    A letter in its full-width form is no part of a reserved word, but to Python the same letter in a name: so no column
    moves.
    """

    def replace(match: re.Match[str]) -> str:
        if match["name"] is None:
            return match[0]  # a string: whatever it holds is meant
        return f"{match['signals']}{chr(ord(match['name'][0]) + 0xFEE0)}{match['name'][1:]}"

    return _RESERVED.sub(replace, text)


class _Compiler:
    """Turns one text into closures."""

    def __init__(self, text: str) -> None:
        self.reads_marks = False
        self._indent = len(text) - len(text.lstrip())
        self._text = text.strip()
        self._positions: list[ast.Name] = []
        if len(self._text) > CHARACTERS_MAX:
            raise FilterError(f"a filter of {len(self._text)} characters is not read: at most {CHARACTERS_MAX} may be")
        self._parsed = _readable(self._text)
        try:
            self.tree: ast.expr = ast.parse(self._parsed, mode="eval").body
        except SyntaxError as error:
            raise FilterError(
                f"{error.msg} at column {self._column(error)} of the filter {_shortened(self._text)}"
            ) from None
        except (RecursionError, MemoryError):  # both are how the parser says that it is nested too deeply
            raise FilterError(f"the filter {_shortened(self._text)} is nested more than {DEPTH_MAX} deep") from None
        except ValueError as error:
            raise FilterError(f"{error} in the filter {_shortened(self._text)}") from None

    def error(self, node: ast.AST, what: str, *, known: bool = False) -> FilterError:
        """The exception for what is wrong at `node`; with `known`, with the names that there are."""
        column = self._index(getattr(node, "lineno", 1), getattr(node, "col_offset", 0)) + 1
        names = ""
        if known:
            names = f"; known are {', '.join(FIELDS)}, signals.NAME, {', '.join(_FUNCTIONS.values())}"
        return FilterError(f"{what} at column {column} of the filter {_shortened(self._text)}{names}")

    def position_spans(self) -> list[tuple[int, int]]:
        """See Filter; of what `expression` has been asked for."""
        spans = {
            (self._index(node.lineno, node.col_offset), self._index(node.lineno, node.end_col_offset or 0))
            for node in self._positions  # one between two comparisons is there twice
        }
        return sorted((self._indent + start, self._indent + end) for start, end in spans)

    def _index(self, line_number: int, offset_bytes: int) -> int:
        """The index in the text of what Python's parser says is so many bytes into a line."""
        before, line = self._line(line_number)
        return before + len(line.encode()[:offset_bytes].decode(errors="replace"))

    def _line(self, number: int) -> tuple[int, str]:
        """How many characters are before a line, and the line, as Python's parser counts lines."""
        lines = _LINE.findall(self._parsed)
        return sum(map(len, lines[: number - 1])), lines[number - 1] if number <= len(lines) else ""

    def _column(self, error: SyntaxError) -> int:
        """Where the text goes wrong; after its end where that came too soon, of which the parser says column 0."""
        if not error.lineno or not error.offset:
            return len(self._text) + 1
        return min(self._line(error.lineno)[0] + error.offset, len(self._text) + 1)

    def _source(self, node: ast.AST) -> str:
        segment = ast.get_source_segment(self._parsed, node) or ""
        return _shortened(unicodedata.normalize("NFKC", segment))

    def expression(self, node: ast.expr, depth: int) -> Field:
        """Any expression."""
        if depth > DEPTH_MAX:
            raise self.error(node, f"nested more than {DEPTH_MAX} deep")
        match node:
            case ast.Constant():
                found = self._constant(node)
            case ast.Name() | ast.Attribute() | ast.Subscript():
                found = self.field(node)
            case ast.BoolOp():
                found = self._junction(node, depth + 1)
            case ast.UnaryOp():
                found = self._unary(node, depth + 1)
            case ast.BinOp():
                found = self._arithmetic(node, depth + 1)
            case ast.Compare():
                found = self._comparison(node, depth + 1)
            case ast.Call():
                found = self._call(node, depth + 1)
            case _:
                raise self.error(node, f"{type(node).__name__} is not part of the filter language", known=True)
        return found

    def field(self, node: ast.Name | ast.Attribute | ast.Subscript) -> Field:
        """A field by its name, or a signal."""
        match node:
            case ast.Name(id=name) if name in FIELDS:
                self.reads_marks |= name == "quarantined"
                if name == "position":
                    self._positions.append(node)
                return FIELDS[name]
            case (
                ast.Attribute(value=ast.Name(id=base), attr=name)
                | ast.Subscript(value=ast.Name(id=base), slice=ast.Constant(value=str(name)))
            ) if base == _SIGNALS:
                self.reads_marks = True
                return signal(name)
            case _:
                raise self.error(node, f"there is no field {self._source(node)}", known=True)

    def _constant(self, node: ast.Constant) -> Field:
        value = node.value
        match value:
            case bool():
                return Field(TRUTH, _constantly(value))
            case int() | float():
                return Field(NUMBER, _constantly(value))
            case str():
                return Field(TEXT, _constantly(value))
            case _:
                raise self.error(node, f"{value!r} is neither number nor string")

    def _junction(self, node: ast.BoolOp, depth: int) -> Field:
        reads = [self.expression(value, depth).read for value in node.values]
        if isinstance(node.op, ast.And):
            return Field(TRUTH, lambda record: all(read(record) for read in reads))
        return Field(TRUTH, lambda record: any(read(record) for read in reads))

    def _unary(self, node: ast.UnaryOp, depth: int) -> Field:
        operand = self.expression(node.operand, depth)
        read: Callable[[LoggedRecord], Any] = operand.read
        if isinstance(node.op, ast.Not):
            return Field(TRUTH, lambda record: not read(record))
        self._require_numbers(node, operand)
        match node.op:
            case ast.USub():
                return Field(NUMBER, lambda record: None if (value := read(record)) is None else -value)
            case ast.UAdd():
                return operand
            case _:
                raise self.error(node, f"{type(node.op).__name__} is not part of the filter language", known=True)

    def _arithmetic(self, node: ast.BinOp, depth: int) -> Field:
        function = _ARITHMETIC.get(type(node.op))
        if function is None:
            raise self.error(node, f"{type(node.op).__name__} is none of the operators + - * /")
        left, right = self.expression(node.left, depth), self.expression(node.right, depth)
        self._require_numbers(node, left, right)

        def read(record: LoggedRecord) -> Value:
            first, second = left.read(record), right.read(record)
            if first is None or second is None:
                return None
            try:
                result: Value = function(first, second)
            except (ZeroDivisionError, OverflowError):
                return None
            return result

        return Field(NUMBER, read)

    def _require_numbers(self, node: ast.expr, *operands: Field) -> None:
        for operand in operands:
            if operand.kind != NUMBER:
                raise self.error(node, f"arithmetic with a {operand.kind}, only numbers can be computed with,")

    def _comparison(self, node: ast.Compare, depth: int) -> Field:
        first = left = self.expression(node.left, depth)
        at = node.left
        links: list[_Link] = []
        for kind, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(kind, ast.In | ast.NotIn):
                links.append(self._membership(left, right, isinstance(kind, ast.In)))
                if right is not node.comparators[-1]:
                    raise self.error(right, "the list after in is compared with something else as well,")
            else:
                # Each operand once, also one between two comparisons: chains may lie in chains, 64 deep.
                following = self.expression(right, depth)
                links.append(self._link(at, left, kind, right, following))
                at, left = right, following
        if len(links) == 1:
            holds, read_other = links[0]
            return Field(TRUTH, lambda record: holds(first.read(record), read_other(record)))

        def all_hold(record: LoggedRecord) -> bool:
            one = first.read(record)
            for holds, read_other in links:
                other = read_other(record)
                if not holds(one, other):
                    return False
                one = other
            return True

        return Field(TRUTH, all_hold)

    def _link(self, at: ast.expr, left: Field, kind: ast.cmpop, right: ast.expr, following: Field) -> _Link:
        compare = _COMPARISONS.get(type(kind))
        if compare is None:
            raise self.error(right, f"{type(kind).__name__} is not one of the comparisons == != < <= > >= in")
        if left.kind != following.kind:
            raise self.error(at, f"a {left.kind} is compared with a {following.kind}, which is never true,")

        def holds(one: Any, other: Any) -> bool:
            return one is not None and other is not None and compare(one, other)

        return holds, following.read

    def _membership(self, left: Field, right: ast.expr, inside: bool) -> _Link:
        if not isinstance(right, ast.List | ast.Tuple | ast.Set):
            raise self.error(right, 'in needs a list of constants (of part of a text: contains(TEXT, "..."))')
        values = self._constants(right.elts, left.kind)
        return lambda one, _: one is not None and (one in values) == inside, _constantly(None)

    def _constants(self, nodes: Sequence[ast.expr], kind: str) -> frozenset[Value]:
        values: set[Value] = set()
        for node in nodes:
            negated = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
            constant = node.operand if isinstance(node, ast.UnaryOp) and negated else node
            if not isinstance(constant, ast.Constant):
                raise self.error(node, "a list after in may hold constants only, which this is not,")
            found = self._unary(node, 0) if isinstance(node, ast.UnaryOp) else self._constant(constant)
            if found.kind != kind:
                raise self.error(node, f"a {kind} is looked for in a list with a {found.kind}, which is never true,")
            value: Any = constant.value
            values.add(-value if negated else value)
        return frozenset(values)

    def _call(self, node: ast.Call, depth: int) -> Field:
        name = node.func.id if isinstance(node.func, ast.Name) else None
        if name not in _FUNCTIONS:
            raise self.error(node, f"there is no function {self._source(node.func)}", known=True)
        match node:
            case ast.Call(args=[ast.Attribute() | ast.Subscript() as argument], keywords=[]) if name == "has":
                read = self.field(argument).read
                return Field(TRUTH, lambda record: read(record) is not None)
            case ast.Call(args=[argument, ast.Constant(value=str(part))], keywords=[]) if name != "has":
                return self._text_function(argument, name, part, depth)
            case _:
                raise self.error(node, f"{name} is used otherwise than {_FUNCTIONS[name]}")

    def _text_function(self, argument: ast.expr, name: str, part: str, depth: int) -> Field:
        text = self.expression(argument, depth)
        if text.kind != TEXT:
            raise self.error(argument, f"{name} is asked of a {text.kind}, only texts can be,")
        read: Callable[[LoggedRecord], Any] = text.read
        if name == "startswith":
            return Field(TRUTH, lambda record: (value := read(record)) is not None and value.startswith(part))
        return Field(TRUTH, lambda record: (value := read(record)) is not None and part in value)


def _constantly(value: Value) -> Callable[[Any], Any]:
    return lambda _: value


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 200 else text[:200] + "...")
