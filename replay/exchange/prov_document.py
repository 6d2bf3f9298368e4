"""A PROV-JSON document (W3C member submission of 24 April 2013), written statement by statement.

The format groups statements by their kind, so each kind is written to a file of its own first, and these are joined at
the end: a document of any length takes no memory. The same statements in the same order give the same bytes.

Exceptions: ExportFailed where the disk does not take it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

from replay.exchange.output import failing

KINDS = ("entity", "activity", "agent", "wasGeneratedBy", "used", "wasAssociatedWith", "wasDerivedFrom")
"""The kinds of statements, in the order of the document."""

Value = str | Mapping[str, str]
"""Of an attribute: text, or a typed literal {"$": text, "type": name}."""

_COPY_BYTES = 1024 * 1024


class ProvDocument:
    """A document being written, as a context manager.

    Args:
      path: of the file.
      prefixes: namespaces by prefix; "prov" and "xsd" are there.
    """

    def __init__(self, path: Path, prefixes: Mapping[str, str]) -> None:
        self._path = path
        self._prefixes = prefixes
        self._opened = contextlib.ExitStack()
        self._parts: dict[str, IO[str]] = {}
        self._statements = 0

    def __enter__(self) -> ProvDocument:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        joined = False
        try:
            if error is None:
                self._join()
                joined = True
        finally:
            # Closing writes as well, which is of no interest any more once something has failed.
            with failing(self._path) if joined else contextlib.suppress(OSError):
                self._opened.close()

    def element(self, kind: str, name: str, attributes: Mapping[str, Value]) -> None:
        """An entity, activity or agent; each name once."""
        self._add(kind, name, attributes)

    def relation(self, kind: str, attributes: Mapping[str, Value]) -> None:
        """A relation, which needs no name of its own."""
        self._statements += 1
        self._add(kind, f"_:r{self._statements}", attributes)

    def _add(self, kind: str, name: str, attributes: Mapping[str, Value]) -> None:
        with failing(self._path):
            part = self._parts.get(kind)
            if part is None:
                part = self._parts[kind] = self._opened.enter_context(
                    tempfile.TemporaryFile("w+", encoding="utf-8", dir=self._path.parent)  # noqa: SIM115  the stack's
                )
            else:
                part.write(",\n")
            part.write(f"{_json(name)}: {_json(attributes)}")

    def _join(self) -> None:
        with failing(self._path), self._path.open("w", encoding="utf-8", newline="\n") as file:
            file.write(f'{{\n"prefix": {_json(self._prefixes)}')
            for kind in KINDS:
                if kind in self._parts:
                    file.write(f",\n{_json(kind)}: {{\n")
                    self._parts[kind].seek(0)
                    shutil.copyfileobj(self._parts[kind], file, _COPY_BYTES)
                    file.write("\n}")
            file.write("\n}\n")


def typed(value: object, kind: str) -> Value:
    """A typed literal; `kind` is an XML Schema type such as "unsignedLong"."""
    return {"$": str(value), "type": f"xsd:{kind}"}


def qualified_name(name: str) -> Value:
    """A literal that is the name of something."""
    return typed(name, "QName")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
