"""The TLS connections of a server's callers: how many have begun, which of them came to a call, and who the others are.

TLS ends a handshake without a valid certificate by itself, and tells nobody. What is known is that a connection began,
and, by the first call on it, that its caller was authenticated. Those of which no such call was seen within QUIET_S are
counted, and logged in one line a second at most. Whose they may be, the kernel's table of connections says: all that
were there when one began, but for those who called. So an address is a hint, and the count is what holds.

Linux only; elsewhere the line has no addresses.
"""

from __future__ import annotations

import ipaddress
import logging
import sys
import threading
import time
import urllib.parse
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

PEERS_MAX = 4_096
"""Connections that are remembered as having come to a call, and those that may have begun within QUIET_S."""

QUIET_S = 2.0
"""Time in which an honest caller has made its handshake and first call."""

REPORT_S = 1.0
"""Least time between two lines."""

LOOKS_MAX = 10
"""Most looks at the kernel's table between two lines."""

_SEEN_MAX = 64
_NAMED_MAX = 4
_ESTABLISHED = "01"
_TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))

_log = logging.getLogger(__name__)


class Connections:
    """See the head of this module. For any number of threads.

    Args:
      clock: monotonic time (s).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._ports: set[int] = set()
        self._begun = self._identified = self._reported = 0
        self._young: deque[float] = deque(maxlen=PEERS_MAX)
        # What gRPC calls those that came to a call, and their addresses.
        self._peers: OrderedDict[str, str] = OrderedDict()
        self._seen: OrderedDict[str, str] = OrderedDict()
        self._looks = 0
        self._reported_s = clock()

    def listens_at(self, port: int) -> None:
        """Callers connect to this port from now on."""
        with self._lock:
            self._ports.add(port)

    def begin(self) -> None:
        """A connection has begun: its handshake asks for our certificate."""
        with self._lock:
            self._begun += 1
            self._young.append(self._clock())
            self._looks += 1
            ports = frozenset(self._ports) if self._looks <= LOOKS_MAX else frozenset()
        found = established(ports) if ports else []
        with self._lock:
            for address in found:
                _remember(self._seen, address, address, _SEEN_MAX)

    def identify(self, peer: str) -> None:
        """An authenticated call has come on the connection from `peer`, as gRPC names it."""
        with self._lock:
            known = self._peers.get(peer)
            self._identified += known is None
            _remember(self._peers, peer, known or _address(peer), PEERS_MAX)

    def counts(self) -> tuple[int, int]:
        """How many have begun, and by how many of them no authenticated call has come (yet)."""
        with self._lock:
            return self._begun, max(0, self._begun - self._identified)

    def report(self) -> None:
        """Logs those that have come to no call since the last time, if there are any and it is time for a line."""
        with self._lock:
            now_s = self._clock()
            if now_s - self._reported_s < REPORT_S:
                return
            while self._young and self._young[0] <= now_s - QUIET_S:
                self._young.popleft()
            # One that took its time may have called since: then there are fewer than were reported.
            quiet = max(0, self._begun - len(self._young) - self._identified)
            new, self._reported = quiet - self._reported, quiet
            self._looks = 0
            if new <= 0:
                if not self._young:
                    self._seen.clear()
                return
            self._reported_s = now_s
            callers = set(self._peers.values())
            strangers = [address for address in self._seen if address not in callers]
            self._seen.clear()
        _log.warning(
            "%d TLS connection(s) came to no authenticated call, %d since the start: no handshake with a certificate "
            "that is valid here, or nothing asked within %g s; %s",
            new,
            quiet,
            QUIET_S,
            _named(strangers),
        )


def established(ports: Collection[int]) -> list[str]:
    """Addresses ("HOST:PORT", "[HOST]:PORT") that have a connection to one of our ports; [] where nobody can tell."""
    found = []
    for table in _TABLES:
        try:
            rows = table.read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        found += [address for row in rows for address in _remote(row.split(), ports)]
    return found


def _remote(row: list[str], ports: Collection[int]) -> Iterator[str]:
    """The address at the other end, where a row of the kernel's table is a connection to one of the ports."""
    local, remote, state = row[1:4]
    if state == _ESTABLISHED and int(local.rpartition(":")[2], 16) in ports:
        host, _, port = remote.rpartition(":")
        yield _joined(_host(host), int(port, 16))


def _host(text: str) -> str:
    """An address out of the kernel's table: words of 32 bits in the byte order of the machine, in hexadecimal."""
    words = (int(text[start : start + 8], 16) for start in range(0, len(text), 8))
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    return str(ipaddress.ip_address(packed))


def _address(peer: str) -> str:
    """As `established` has it, out of "ipv4:127.0.0.1:99" and "ipv6:%5B::1%5D:99"."""
    host, _, port = urllib.parse.unquote(peer).partition(":")[2].rpartition(":")
    try:
        return _joined(host.strip("[]"), int(port))
    except ValueError:
        # Of a Unix socket, or of a kind that is not known yet.
        return peer


def _joined(host: str, port: int) -> str:
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return f"{mapped}:{port}" if mapped is not None else f"[{address}]:{port}"
    return f"{address}:{port}"


def _named(addresses: list[str]) -> str:
    if not addresses:
        return "from whom is not known"
    more = len(addresses) - _NAMED_MAX
    return f"maybe from {', '.join(addresses[-_NAMED_MAX:])}" + (f" and {more} more" if more > 0 else "")


def _remember(known: OrderedDict[str, str], key: str, address: str, most: int) -> None:
    """Among the newest `most`."""
    known[key] = address
    known.move_to_end(key)
    if len(known) > most:
        known.popitem(last=False)
