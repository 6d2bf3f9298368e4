"""A filter of system calls (seccomp), for what Landlock has no rules for: sockets of every family, modes and owners of
files, other processes' memory and limits. What is filtered answers EPERM.

It is a short list of what is refused and no list of what is allowed: numerical libraries and simulators make whatever
calls they like. See seccomp(2).

Exceptions: OSError where the kernel refuses; NotImplementedError for a processor whose calls are not numbered here.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

# Name of the machine: its number in AUDIT_ARCH_*, then the numbers of the calls.
_X86_64, _AARCH64 = "x86_64", "aarch64"
_ARCHITECTURES = {_X86_64: 0xC000003E, _AARCH64: 0xC00000B7}

REFUSED = {
    # A Unix socket with a path is no concern of Landlock's, nor is UDP: the services of this very user listen on such.
    "socket": {_X86_64: 41, _AARCH64: 198},
    # It can open and connect what the calls that are filtered cannot.
    "io_uring_setup": {_X86_64: 425, _AARCH64: 425},
    "ptrace": {_X86_64: 101, _AARCH64: 117},
    "process_vm_readv": {_X86_64: 310, _AARCH64: 270},
    "process_vm_writev": {_X86_64: 311, _AARCH64: 271},
    # A key that others may read is a key that is not used any more.
    "chmod": {_X86_64: 90},
    "fchmod": {_X86_64: 91, _AARCH64: 52},
    "fchmodat": {_X86_64: 268, _AARCH64: 53},
    "fchmodat2": {_X86_64: 452, _AARCH64: 452},
    "chown": {_X86_64: 92},
    "fchown": {_X86_64: 93, _AARCH64: 55},
    "lchown": {_X86_64: 94},
    "fchownat": {_X86_64: 260, _AARCH64: 54},
    "setxattr": {_X86_64: 188, _AARCH64: 5},
    "lsetxattr": {_X86_64: 189, _AARCH64: 6},
    "removexattr": {_X86_64: 197, _AARCH64: 14},
    "lremovexattr": {_X86_64: 198, _AARCH64: 15},
    "setxattrat": {_X86_64: 463, _AARCH64: 463},
    "removexattrat": {_X86_64: 466, _AARCH64: 466},
    "file_setattr": {_X86_64: 469, _AARCH64: 469},
    "utime": {_X86_64: 132},
    "utimes": {_X86_64: 235},
    "futimesat": {_X86_64: 261},
    "utimensat": {_X86_64: 280, _AARCH64: 88},
}

REFUSED_FOR_OTHERS = {"prlimit64": {_X86_64: 302, _AARCH64: 261}}
"""Calls whose first argument is a process: refused unless it is 0, the caller itself."""

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _FIRST_ARGUMENT_OFFSET = 0, 4, 16
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
_X32_CALLS = 0x40000000
"""Numbers from here on are those of a second table of the same calls on x86_64."""

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def refuse_calls() -> None:
    """Filters the calls above in this thread and in all that it starts, for good.

    The caller must have given up gaining privileges (PR_SET_NO_NEW_PRIVS). Raises OSError or NotImplementedError.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise NotImplementedError(f"no system calls are known for {machine}; known are {', '.join(_ARCHITECTURES)}")
    code = _instructions(machine)
    program = _Program(len(code) // 8, code)
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _instructions(machine: str) -> bytes:
    """The filter for a machine: little-endian instructions of 8 bytes, as seccomp(2) has them."""
    refuse = _instruction(_RETURN, _REFUSE)
    code = [
        _instruction(_LOAD, _ARCHITECTURE_OFFSET),
        # Calls of another architecture, such as 32-bit ones, have other numbers: none of them.
        _instruction(_EQUAL, _ARCHITECTURES[machine], then=1),
        refuse,
        _instruction(_LOAD, _NUMBER_OFFSET),
    ]
    if machine == _X86_64:
        code += [_instruction(_AT_LEAST, _X32_CALLS, otherwise=1), refuse]
    for numbers in REFUSED.values():
        if machine in numbers:
            code += [_instruction(_EQUAL, numbers[machine], otherwise=1), refuse]
    for numbers in REFUSED_FOR_OTHERS.values():
        code += [
            _instruction(_EQUAL, numbers[machine], otherwise=4),
            _instruction(_LOAD, _FIRST_ARGUMENT_OFFSET),
            _instruction(_EQUAL, 0, then=1),
            refuse,
            _instruction(_LOAD, _NUMBER_OFFSET),
        ]
    return b"".join([*code, _instruction(_RETURN, _ALLOW)])


def _instruction(code: int, operand: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("<HBBI", code, then, otherwise, operand)
