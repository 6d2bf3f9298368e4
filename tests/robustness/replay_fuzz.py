"""Messages at random to a real replay process: each gets a status with a reason, and the store stays what it was.

    python -m tests.robustness.replay_fuzz --examples 20000 --seed 0

An example is a valid message of some call, altered: bytes replaced, cut out, doubled or cut off, numbers made extreme,
fields put where others belong. What the service takes in all the same must be stored as it was sent, and everything
else must leave no trace. Now and then, and at the end, the whole store is read and its chain verified. Prints
progress and, last, one line of JSON.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import itertools
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from protos import transport
from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2, replay_pb2_grpc
from replay.chain import verify_chain
from replay.reader import StoreReader
from tests.robustness.replay_records import make_header, make_origin, payload_of
from tests.robustness.replay_service import Service, service

TIMEOUT_S = 20.0
WAIT_S = 0.3
"""After this long a draw that nothing can satisfy is left; it is no fault of the service's."""

CHECK_EVERY = 1_000
ROW_BYTES = 8
EXTREME = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)

STATUS_ALLOWED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNKNOWN,
}
"""Of these UNKNOWN only where gRPC itself could not read a request: then its reason says so."""

_HEX_SHOWN = 1_000
_UNREADABLE = "Error parsing message"


class FuzzFailure(AssertionError):
    """The service did what it must not; the message holds the call and the message sent."""


class Fuzzer:
    """Sends altered messages to one service."""

    def __init__(self, running: Service, seed: int) -> None:
        self._running = running
        self._random = random.Random(seed)
        self._channel = transport.channel(running.address)
        self._stub = replay_pb2_grpc.ReplayStub(self._channel)
        self._numbers = itertools.count()
        self.statuses: collections.Counter[str] = collections.Counter()

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def example(self) -> None:
        """Sends one. Raises FuzzFailure."""
        call = "Append" if self._random.random() < 0.3 else self._random.choice(sorted(_CALLS))
        message = self._altered(_CALLS[call](self))
        if call == "Append":
            opening, batch = self._append()
            if self._random.random() < 0.3:
                self._send("Append", [self._altered(opening), batch.SerializeToString()])
            else:
                self._send("Append", [opening.SerializeToString(), message, self._altered(batch)])
        else:
            self._send(call, [message])

    def check(self) -> int:
        """Reads the whole store and returns its records. Raises FuzzFailure."""
        if not self._running.is_alive():
            raise FuzzFailure(f"the service died\n{self._story()}")
        reader = StoreReader(self._running.store)
        try:
            report = verify_chain(reader)
            stats = self._stub.Stats(replay_pb2.StatsRequest(), timeout=TIMEOUT_S)
            if (report.next_position, stats.damaged_records) != (stats.appended_records, 0):
                raise FuzzFailure(f"the chain ends at {report.next_position}, the service says {stats}")
            for start in range(report.first_position, report.next_position, 256):
                for record in reader.read(range(start, min(start + 256, report.next_position))):
                    if hashlib.sha256(record.payload).digest() != record.header.payload_digest:
                        raise FuzzFailure(f"position {record.position} was stored with another payload than it says")
        finally:
            reader.close()
        return report.next_position

    def _send(self, call: str, messages: Sequence[bytes]) -> None:
        path = f"/temper.replay.v1.Replay/{call}"
        try:
            if call in ("Append", "Sample"):
                timeout_s = TIMEOUT_S if call == "Append" else WAIT_S
                for _ in self._bare("stream_stream", path)(iter(messages), timeout=timeout_s):
                    pass
            elif call == "List":
                for _ in self._bare("unary_stream", path)(messages[0], timeout=TIMEOUT_S):
                    pass
            else:
                answer = self._bare("unary_unary", path)(messages[0], timeout=TIMEOUT_S)
                if call == "SetTable":
                    self._loosen(replay_pb2.SetTableResponse.FromString(answer).stats.spec)
            code, details = grpc.StatusCode.OK, ""
        except grpc.RpcError as error:
            code, details = error.code(), str(error.details())
        self.statuses[f"{call} {code.name}"] += 1
        faults = []
        if code not in STATUS_ALLOWED or (code == grpc.StatusCode.DEADLINE_EXCEEDED and call != "Sample"):
            faults.append("status")
        if code == grpc.StatusCode.UNKNOWN and _UNREADABLE not in details:
            faults.append("status")
        if code != grpc.StatusCode.OK and not details.strip():
            faults.append("no reason")
        if faults:
            sent = [message.hex()[:_HEX_SHOWN] for message in messages]
            raise FuzzFailure(f"{call} ended with {code.name}: {details!r} ({faults}); sent {sent}\n{self._story()}")

    def _loosen(self, spec: replay_pb2.TableSpec) -> None:
        """Lets a table that was made hold nobody up: nobody draws from it."""
        spec.samples_per_insert, spec.error_buffer, spec.min_size = 0.0, 1e12, 1
        self._stub.SetTable(replay_pb2.SetTableRequest(spec=spec), timeout=TIMEOUT_S)

    def _bare(self, kind: str, path: str) -> Any:
        return getattr(self._channel, kind)(path, None, None)

    def _append(self) -> tuple[replay_pb2.AppendRequest, replay_pb2.AppendRequest]:
        run_id = f"actor-0.fuzz-{self._random.randrange(50)}"
        origin = make_origin(run_id, ROW_BYTES)
        first = self._random.choice((0, 0, next(self._numbers) % 40))
        batch = replay_pb2.AppendRequest()
        for sequence in range(first, first + self._random.randint(1, 4)):
            payload = payload_of(run_id, sequence, ROW_BYTES)
            header = make_header(run_id, sequence)
            header.sequence = sequence
            header.payload_digest = hashlib.sha256(payload).digest()
            batch.batch.records.append(common_pb2.Record(header=header, payload=payload))
        return replay_pb2.AppendRequest(open=origin), batch

    def _altered(self, message: Any) -> bytes:
        """Its bytes, of which something is otherwise, or nothing."""
        for _ in range(self._random.choice((0, 1, 1, 2))):
            self._alter_field(message)
        data = bytearray(message.SerializeToString())
        for _ in range(self._random.choice((0, 0, 0, 1, 2, 5))):
            at = self._random.randrange(len(data) + 1)
            length = self._random.choice((1, 1, 2, 8, 40))
            choice = self._random.random()
            if choice < 0.4:
                data[at : at + length] = self._random.randbytes(length)
            elif choice < 0.6:
                del data[at : at + length]
            elif choice < 0.8:
                data[at:at] = data[max(0, at - length) : at]
            elif choice < 0.9:
                del data[at:]
            else:
                data[at:at] = b"\xff" * 9 + b"\x01"
        return bytes(data)

    def _alter_field(self, message: Any) -> None:
        """Puts an extreme value into one of the fields, however deep."""
        set_fields = list(message.ListFields())
        if not set_fields:
            return
        descriptor, value = self._random.choice(set_fields)
        repeated = hasattr(value, "append") or hasattr(value, "add")
        if descriptor.message_type is not None and not hasattr(value, "keys"):
            self._alter_field(self._random.choice(list(value)) if repeated and len(value) else value)
        elif hasattr(value, "keys") or repeated:
            message.ClearField(descriptor.name)
        elif isinstance(value, bool):
            setattr(message, descriptor.name, not value)
        elif isinstance(value, int):
            try:
                setattr(message, descriptor.name, self._random.choice(EXTREME))
            except ValueError:
                setattr(message, descriptor.name, -1 if descriptor.has_presence else 0)
        elif isinstance(value, float):
            number = self._random.choice((float("nan"), float("inf"), -1.0, 1e308, 0.0))
            setattr(message, descriptor.name, number)
        elif isinstance(value, str):
            setattr(message, descriptor.name, self._random.choice(("", "x" * 70_000, "\0", "../..", "é" * 300)))
        elif isinstance(value, bytes):
            setattr(message, descriptor.name, self._random.randbytes(self._random.choice((0, 1, 31, 33, 5_000))))

    def _story(self) -> str:
        return self._running.server.story() if self._running.server is not None else ""


def _table_spec(fuzzer: Fuzzer) -> Any:
    kind = fuzzer._random.choice(("fresh", "uniform", "prioritised", "stratified", "curated"))
    spec = replay_pb2.TableSpec(name=f"{kind}-1", kind=kind, min_size=1, error_buffer=100.0)
    spec.stratify_by = "actor_id" if kind == "stratified" else ""
    spec.filter = "steps > 1" if kind == "curated" else ""
    spec.priority_exponent = 0.6 if kind == "prioritised" else 0.0
    return replay_pb2.SetTableRequest(spec=spec)


_CALLS: dict[str, Callable[[Fuzzer], Any]] = {
    "Append": lambda fuzzer: fuzzer._append()[1],
    "Sample": lambda _: replay_pb2.SampleRequest(table="uniform", batch_size=3, keys_only=True),
    "List": lambda _: replay_pb2.ListRequest(from_position=1, limit=3, filter="steps > 2 and lane < 3"),
    "Annotate": lambda _: replay_pb2.AnnotateRequest(
        annotations=[replay_pb2.Annotation(position=2, signals={"mark": 1.0}), replay_pb2.Annotation(position=7)]
    ),
    "Quarantine": lambda _: replay_pb2.QuarantineRequest(filter="position == 1", why="drawn by lot", dry_run=True),
    "UpdatePriorities": lambda _: replay_pb2.UpdatePrioritiesRequest(
        table="per", positions=[1, 2, 3], priorities=[0.5, 1.0, 2.0]
    ),
    "SetTable": _table_spec,
    "Stats": lambda _: replay_pb2.StatsRequest(),
    "Locate": lambda _: replay_pb2.LocateRequest(),
    "ListQuarantines": lambda _: replay_pb2.ListQuarantinesRequest(),
}


def run_fuzz(examples: int, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Sends so many messages. Raises FuzzFailure; returns what came of them."""
    started_s = time.monotonic()
    with service(tables=["prioritised per exponent=0.6"]) as running:
        fuzzer = Fuzzer(running, seed)
        try:
            for number in range(1, examples + 1):
                fuzzer.example()
                if number % CHECK_EVERY == 0:
                    say(f"{number} messages in {time.monotonic() - started_s:.0f} s, {fuzzer.check()} records stored")
            records = fuzzer.check()
        finally:
            fuzzer.close()
        # What was left behind must not keep a service from starting.
        running.kill()
        running.start()
        again = Fuzzer(running, seed)
        try:
            if again.check() != records:
                raise FuzzFailure(f"{records} records before a restart, {again.check()} after it")
        finally:
            again.close()
    statuses = dict(sorted(fuzzer.statuses.items()))
    return {"messages": examples, "seed": seed, "records": records, "statuses": statuses}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 if the service did nothing that it must not."""
    parser = argparse.ArgumentParser(
        prog="replay_fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=20_000, help="messages to send (default 20000)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (default 0)")
    options = parser.parse_args(arguments)
    try:
        result = run_fuzz(options.examples, options.seed, lambda line: print(line, flush=True))
    except FuzzFailure as error:
        print(f"replay_fuzz: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"fuzz": "replay", **result}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
