"""Confines the process that runs candidates, from the moment on in which it does: what it may read, and little else.

A candidate is data, but it acts in an environment, and that is code which somebody wrote. After `confine` this process

  - reads and executes the interpreter, the directories on sys.path, the system's libraries, and what it is told to;
  - writes nothing but /dev/null and what was open before: its log, up to a size, and its pipes;
  - opens no socket of any family, signals and traces no process but itself and its children, and changes no other's
    limits and no file's mode or owner, not even as root, whose capabilities it gives up;
  - has little of the service's environment, a working directory that it cannot list, and bounds on memory and files.

It cannot see the safety service's directory, keys, runs, or the home directory: nobody names those. Where one of them
lies inside a directory on sys.path, name it as hidden: its files cannot be read then, but for their names. What there
is depends on the kernel, and `Confinement` says it: Landlock (Linux 5.13; TCP from 6.7, signals from 6.12) and seccomp.
Without Landlock files can be read, and written up to a size, as the user of the service can: a bound of 0 bytes would
also end the log.

    python -m safety.confinement.confine     confines itself and prints what is in force, as JSON

Not bounded: time and the number of processes (limits on those belong to the user, not to the process; the service
kills the whole group of a worker that takes too long), and what is learnt from a file's existence, size and times.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import resource
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safety.confinement import landlock
from safety.confinement.syscall_filter import refuse_calls

FILE_BYTES_MAX = 64 * 1024**2
"""The log grows no longer than this; a worker that goes on printing gets an error instead of the disk."""

OPEN_FILES_MAX = 256

KEPT_VARIABLES = frozenset(
    (
        *("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ"),
        *("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
        *("SDL_VIDEODRIVER", "SDL_AUDIODRIVER", "MUJOCO_GL"),
    )
)
"""What is left of the environment; anything else may be somebody's password."""

NOWHERE = "/nonexistent"
"""The home directory from then on."""

# For libraries that are loaded late: where they are, the time zone, fonts, certificates; what processors there are.
_SYSTEM = (
    *("/usr", "/lib", "/lib64", "/lib32", "/bin", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d"),
    *("/etc/localtime", "/etc/timezone", "/etc/os-release", "/etc/passwd", "/etc/fonts", "/etc/ssl/certs"),
    *("/etc/alternatives", "/etc/mime.types", "/dev/urandom", "/dev/random", "/dev/zero"),
    *("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu"),
)
_MEMORY_BYTES_ALONE = 2**32
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITIES_VERSION = 0x20080522
_NO_CAPABILITIES_BUT_READING = 0b110
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: as root, a package that another user has installed can still be read."""


@dataclasses.dataclass(frozen=True)
class Confinement:
    """What is in force in a process.

    Attributes:
      landlock_abi: version of Landlock's interface; 0: none.
      files: reading and writing of files are restricted.
      network: TCP connections cannot be made or taken.
      signals: processes outside cannot be signalled.
      calls: system calls are filtered, and with them sockets of every family, and changes of modes and owners.
      gaps: what is not in force and why, or not for all, a sentence each.
    """

    landlock_abi: int
    files: bool
    network: bool
    signals: bool
    calls: bool
    gaps: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether all of it is in force."""
        return self.files and self.network and self.signals and self.calls and not self.gaps

    def describe(self) -> str:
        """One line for people."""
        parts = {"files": self.files, "TCP": self.network, "signals": self.signals, "system calls": self.calls}
        restricted = ", ".join(name for name, in_force in parts.items() if in_force) or "nothing but its size"
        means = f"Landlock {self.landlock_abi}" if self.landlock_abi else "no Landlock"
        return "; ".join([f"restricted: {restricted} ({means})", *self.gaps])


def confine(readable: Sequence[Path], memory_bytes: int, hidden: Sequence[Path] = ()) -> Confinement:
    """Confines this process and all that it starts, for good. To be called while it has one thread.

    Args:
      readable: files and directories that may be read besides, for environments with assets elsewhere.
      memory_bytes: most address space of this process, and of each that it starts.
      hidden: directories that must not be read although they lie inside one that may; their names can still be listed.

    Raises:
      OSError, ValueError: a limit that must hold cannot be set.
    """
    gaps = []
    if len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208 - a count
        gaps.append("threads that were started before it are not confined")
    rules, passed_over = _rules(readable, hidden)
    gaps += passed_over
    _forget_environment()
    sys.dont_write_bytecode = True
    os.chdir("/")
    _bound(memory_bytes)
    _give_up_privileges()
    abi = landlock.abi_version()
    if abi:
        try:
            landlock.restrict(rules, abi)
        except OSError as error:
            gaps.append(f"Landlock {abi} cannot be used ({error.strerror})")
            abi = 0
    if not abi:
        gaps.append("no Landlock: files can be read and written, and processes signalled, as the service's user can")
    elif abi < landlock.SCOPE_ABI:
        gaps.append(f"Landlock {abi} knows no scopes: processes outside can be signalled (Linux 6.12 or later)")
    calls = True
    try:
        refuse_calls()
    except (OSError, NotImplementedError) as error:
        calls = False
        gaps.append(f"system calls cannot be filtered ({error}): Unix sockets can be connected")
    return Confinement(
        landlock_abi=abi,
        files=abi > 0,
        network=calls or abi >= landlock.NETWORK_ABI,
        signals=abi >= landlock.SCOPE_ABI,
        calls=calls,
        gaps=tuple(gaps),
    )


def confinement_from_header(header: Mapping[str, Any]) -> Confinement:
    """The value whose fields were sent as JSON. Raises TypeError where they are not one's fields."""
    return Confinement(**{**header, "gaps": tuple(header.get("gaps", ()))})


def _rules(readable: Sequence[Path], hidden: Sequence[Path]) -> tuple[list[landlock.Rule], list[str]]:
    """What may be read and written, and a sentence for each entry of sys.path that may not."""
    cut_out = [Path(os.path.realpath(path)) for path in hidden]
    home = Path(os.path.realpath(Path.home()))
    named: list[str | Path] = [sys.prefix, sys.base_prefix, *readable]
    roots = [Path(os.path.realpath(path)) for path in named]
    passed_over = []
    for entry in sys.path:
        path = Path(os.path.realpath(entry or "."))
        if path == home or path in home.parents:
            passed_over.append(f"{path} on sys.path is not readable: it is, or is above, the home directory")
        else:
            roots.append(path)
    rules = [landlock.Rule(Path(path), landlock.READ) for path in _SYSTEM]
    rules.append(landlock.Rule(Path("/dev/null"), landlock.READ | landlock.WRITE_FILE | landlock.TRUNCATE))
    for root in roots:
        rules += _around(root, cut_out)
    return rules, passed_over


def _around(path: Path, cut_out: Sequence[Path]) -> Iterator[landlock.Rule]:
    """Rules to read all that lies in a directory but for what is cut out of it; none where it lies in that itself."""
    if any(each in path.parents for each in cut_out):
        return
    if not any(path == each or path in each.parents for each in cut_out):
        yield landlock.Rule(path, landlock.READ)
    elif path not in cut_out:
        # A right over a directory is one over all that is in it. Without this one nothing could be imported from here.
        yield landlock.Rule(path, landlock.READ_DIRECTORY)
        with contextlib.suppress(OSError):
            for child in sorted(path.iterdir()):
                if not child.is_symlink():
                    yield from _around(child, cut_out)


def _forget_environment() -> None:
    """Leaves little of the environment, also where the kernel put it when the process was started."""
    library = ctypes.CDLL(None)
    pointers = ctypes.POINTER(ctypes.c_void_p).in_dll(library, "environ")
    addresses: list[int] = []
    while pointers and (address := pointers[len(addresses)]) is not None:
        addresses.append(address)
    forgotten = [name for name in os.environb if os.fsdecode(name) not in KEPT_VARIABLES]
    for name in forgotten:
        del os.environb[name]
    for address in addresses:
        text = ctypes.string_at(address)
        if text.partition(b"=")[0] in forgotten:
            ctypes.memset(address, 0, len(text))
    os.environ["HOME"] = NOWHERE


def _bound(memory_bytes: int) -> None:
    """Limits that hold for this process and each that it starts."""
    limits = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: FILE_BYTES_MAX,
        resource.RLIMIT_NOFILE: OPEN_FILES_MAX,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for kind, wanted in limits.items():
        hard = resource.getrlimit(kind)[1]
        bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (bound, bound))


def _give_up_privileges() -> None:
    """No new privileges, none of those it has, and nobody else of this user can look into it. Raises OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    calls: list[tuple[Callable[..., int], tuple[object, ...]]] = [
        (library.prctl, (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)),
        (library.prctl, (_PR_SET_DUMPABLE, 0, 0, 0, 0)),
    ]
    if (machine := os.uname().machine) in _CAPSET:
        head = struct.pack("=Ii", _CAPABILITIES_VERSION, 0)
        kept = _NO_CAPABILITIES_BUT_READING & _effective_capabilities()
        data = struct.pack("=6I", kept, kept, 0, 0, 0, 0)
        calls.append((library.syscall, (ctypes.c_long(_CAPSET[machine]), head, data)))
    for call, arguments in calls:
        if call(*arguments) != 0:
            raise OSError(ctypes.get_errno(), f"privileges cannot be given up: {os.strerror(ctypes.get_errno())}")


def _effective_capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(confine((), _MEMORY_BYTES_ALONE))))
