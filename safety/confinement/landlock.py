"""Landlock, by its system calls: a process gives up rights over files, TCP and signals that it can never have again.

Restricts the calling thread, and whatever it starts from then on; what it has open stays usable. Decides nothing: which
rights are kept is `safety.confinement.confine`'s business. See landlock(7) and the kernel's userspace-api/landlock.

Exceptions: OSError where the kernel refuses.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

EXECUTE, WRITE_FILE, READ_FILE, READ_DIRECTORY = 1 << 0, 1 << 1, 1 << 2, 1 << 3
TRUNCATE = 1 << 14
"""Rights over what lies beneath a path."""

READ = EXECUTE | READ_FILE | READ_DIRECTORY

_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | 1 << 15
"""Those that mean something where the path is a file."""

_KNOWN_RIGHTS = ((1, 13), (2, 14), (3, 15), (5, 16))
"""From which version of the interface on how many rights over files are known."""

NETWORK_ABI, SCOPE_ABI = 4, 6
"""Versions of the interface from which on TCP, and signals and abstract sockets, can be restricted."""

_BIND_AND_CONNECT_TCP = 0b11
_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1


class Rule(NamedTuple):
    """Rights that are kept over a file, or over a directory and all that is in it."""

    path: Path
    rights: int


def abi_version() -> int:
    """Version of the kernel's interface; 0 where there is none, or it is switched off."""
    try:
        return _call(_CREATE_RULESET, None, 0, _VERSION)
    except OSError:
        return 0


def restrict(rules: Iterable[Rule], abi: int) -> None:
    """Gives up every right that this version of the interface knows, but for those of the rules.

    The caller must have given up gaining privileges (PR_SET_NO_NEW_PRIVS). What a rule names and is not there is passed
    over. Raises OSError.
    """
    handled = (1 << max(count for version, count in _KNOWN_RIGHTS if version <= abi)) - 1
    attributes = struct.pack(
        "=QQQ",
        handled,
        _BIND_AND_CONNECT_TCP if abi >= NETWORK_ABI else 0,
        _ABSTRACT_SOCKETS_AND_SIGNALS if abi >= SCOPE_ABI else 0,
    )
    ruleset = _call(_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for rule in rules:
            _add(ruleset, rule, handled)
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _add(ruleset: int, rule: Rule, handled: int) -> None:
    try:
        place = os.open(rule.path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rights = rule.rights & handled
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= _OF_FILES
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, place), 0)
    finally:
        os.close(place)


def _call(number: int, *arguments: bytes | int | None) -> int:
    """A system call's result; raises OSError."""
    passed = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result: int = ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *passed)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
