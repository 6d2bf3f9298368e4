"""The safety service, its evaluator and its clients killed in the middle: nothing is released that has no verdict, and
the same candidate, offered again, gets one verdict.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil

from policies.artifact import artifact_digest
from protos import transport
from protos.safety.v1 import safety_pb2, safety_pb2_grpc
from safety.begun_evaluations import BROKEN_OFF, EVALUATION
from safety.client import SafetyClient, SafetyUnavailable
from safety.docket import Docket
from safety.history import VERDICT
from safety.ledger import LedgerEntry
from safety.suites.manifest import seed_commitment
from tests.robustness.gate import small_gate
from tests.robustness.gate.candidate_ways import mischief, offer
from tests.robustness.gate.small_gate import CONFIG, GOOD, HOSTILE, evaluate, serving
from tests.robustness.gate.ways import Group, got_through
from tests.safety.safety_process import CARTPOLE, RUN, ServiceProcess, parameters_of

STEPS_MAX = 40
"""More steps than an approval has from its end to its answer."""

HANGING_S = 0.5
"""By then an evaluation that hangs is under way."""

SLOW = small_gate.HOSTILE_CONFIG
WAIT_S = 60.0


class KilledService(ServiceProcess):
    """A service that kills itself before the `step`-th of its steps to the disk, counted from when it is armed."""

    def __init__(self, root: Path, step: int) -> None:
        self._armed, self._step = root / "armed", step
        self._armed.unlink(missing_ok=True)
        parameters = json.dumps(parameters_of(root, CONFIG, CARTPOLE, None))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.robustness.gate.killed_service", parameters, str(self._armed)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        if self.process.stdout is None:
            raise RuntimeError("a service without output")
        self.address = self.process.stdout.readline().decode().strip()

    def arm(self) -> None:
        """From now on its steps count."""
        unfinished = self._armed.with_suffix(".tmp")
        unfinished.write_text(str(self._step))
        unfinished.rename(self._armed)


class Killing:
    """A directory per way."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def root(self, name: str) -> Path:
        """A fresh directory for a service; its path must be short."""
        root = self._directory / name
        root.mkdir()
        return root


@contextlib.contextmanager
def _killing(directory: Path) -> Iterator[Killing]:
    yield Killing(directory)


KILLS = Group("kills", _killing)


def verdicts_of(root: Path, artifact: bytes) -> list[LedgerEntry]:
    """The ledger's verdicts about an artifact."""
    digest = artifact_digest(artifact).hex()
    return [entry for entry in verdicts_in(root) if entry.fields["artifact_digest"] == digest]


def verdicts_in(root: Path) -> list[LedgerEntry]:
    """All of the ledger's verdicts."""
    return [entry for entry in small_gate.entries(root) if entry.kind == VERDICT]


def undecided(client: SafetyClient, artifact: bytes) -> str:
    """Why there is no verdict; raises GotThrough where there is one."""
    try:
        return got_through(evaluate(client, artifact))
    except SafetyUnavailable as error:
        return str(error)


def one_verdict(root: Path, client: SafetyClient, artifact: bytes, *, approved: bool) -> str:
    """Offers a candidate twice, which must give one verdict that is in the ledger once, in a ledger that verifies."""
    first, second = evaluate(client, artifact), evaluate(client, artifact)
    entries = verdicts_of(root, artifact)
    numbers = [entry.fields["release_number"] for entry in small_gate.entries(root) if entry.fields.get("approved")]
    if first != second or first.approved != approved or len(entries) != 1:
        got_through(f"{first}, {len(entries)} entries")
    if numbers != list(range(1, len(numbers) + 1)) or small_gate.audited(root):
        got_through(f"releases {numbers}; audit: {small_gate.audited(root)}")
    return "then one verdict"


@KILLS.way(r"^killed before each of \d{1,2} steps to the disk; nothing was answered, then one verdict")
def service_killed_before_each_step_to_the_disk(scene: Killing) -> str:
    """SIGKILL before the first, the second, ... sync, rename or link that an approval needs until it is answered."""
    root = scene.root("steps")
    steps, undone, said = 0, b"", ""
    while True:
        candidate = small_gate.good(steps)
        service = KilledService(root, steps + 1)
        try:
            with SafetyClient(service.address) as client:
                if undone:
                    said = one_verdict(root, client, undone, approved=True)
                service.arm()
                try:
                    evaluate(client, candidate)
                    break
                except SafetyUnavailable:
                    if len(verdicts_of(root, candidate)) > 1:
                        got_through(verdicts_of(root, candidate))
        finally:
            service.kill()
        steps, undone = steps + 1, candidate
        if steps > STEPS_MAX:
            raise RuntimeError(f"no answer after {steps} steps")
    if steps < 5:
        raise RuntimeError(f"only {steps} steps to the disk: the count does not work")
    return f"killed before each of {steps} steps to the disk; nothing was answered, {said}"


@KILLS.way(r"^UNAVAILABLE.*, nothing in the ledger, then one verdict")
def service_killed_while_a_candidate_is_uploaded(scene: Killing) -> str:
    """SIGKILL when half of the candidate has come."""
    root, said = scene.root("upload"), ""
    sent, may_end = threading.Event(), threading.Event()

    def requests() -> Iterator[safety_pb2.EvaluateRequest]:
        yield offer(GOOD)
        yield safety_pb2.EvaluateRequest(data=GOOD[: len(GOOD) // 2])
        sent.set()
        may_end.wait(WAIT_S)

    with serving(root) as (service, _), transport.channel(service.address) as channel:
        call = safety_pb2_grpc.SafetyStub(channel).Evaluate(requests(), timeout=WAIT_S)
        sent.wait(WAIT_S)
        service.kill()
        try:
            got_through(list(call))
        except grpc.RpcError as error:
            said = error.code().name
        finally:
            may_end.set()
    if verdicts_of(root, GOOD):
        got_through("a verdict about half a candidate")
    with serving(root) as (_, client):
        return f"{said}, nothing in the ledger, {one_verdict(root, client, GOOD, approved=True)}"


@KILLS.way(r"does not answer.*; no verdict in the ledger; then as candidate 2 on other seeds: .*then one verdict")
def service_killed_while_it_evaluates(scene: Killing) -> str:
    """SIGKILL in the middle of the episodes, and the same candidate offered again, for the same seeds once more."""
    root, candidate = scene.root("evaluate"), mischief("hangs")
    heard: list[str] = []
    with serving(root, SLOW, HOSTILE) as (service, client):
        caller = threading.Thread(target=lambda: heard.append(undecided(client, candidate)))
        caller.start()
        time.sleep(HANGING_S)
        workers = psutil.Process(service.process.pid).children(recursive=True)
        service.kill()
        caller.join(WAIT_S)
    _, alive = psutil.wait_procs(workers, WAIT_S)
    if alive or not workers or not heard or verdicts_of(root, candidate):
        got_through(f"{alive}, {heard}, {verdicts_of(root, candidate)}")
    opened, *_ = small_gate.entries(root)
    with serving(root, SLOW, HOSTILE) as (_, client):
        again = evaluate(client, candidate)
        if seed_commitment(again.seed_key).hex() == opened.fields["seed_commitment"] or again.lifetime_index != 2:
            got_through(again)
        said = one_verdict(root, client, mischief("none"), approved=True)
    return f"{heard[0]}; no verdict in the ledger; then as candidate 2 on other seeds: {again.reason}, {said}"


@KILLS.way(r"^as candidates 1 to 5, never on the same seeds")
def service_killed_until_the_seeds_suit(scene: Killing) -> str:
    """SIGKILL in every evaluation, so that the one candidate would meet its seeds again, or choose among them."""
    root, candidate, seen = scene.root("choose"), mischief("hangs"), set()
    for number in range(1, 6):
        with serving(root, SLOW, HOSTILE) as (service, client):
            caller = threading.Thread(target=lambda: undecided(client, candidate))
            caller.start()
            while [entry.kind for entry in small_gate.entries(root)].count(EVALUATION) < number:
                time.sleep(0.01)
            service.kill()
            caller.join(WAIT_S)
        with contextlib.closing(Docket(small_gate.service_directory(root), RUN, keys=small_gate.key_directory(root))):
            *_, begun, broken_off = small_gate.entries(root)
        seen.add(broken_off.fields["seed_key"])
        if (begun.kind, broken_off.kind, begun.fields["lifetime_index"]) != (EVALUATION, BROKEN_OFF, number):
            got_through((begun, broken_off))
    if len(seen) != 5 or verdicts_in(root) or small_gate.audited(root):
        got_through((seen, verdicts_in(root), small_gate.audited(root)))
    return f"as candidates 1 to {number}, never on the same seeds"


@KILLS.way(r"^run again: .*took longer than.*; then one verdict")
def evaluator_killed_while_it_evaluates(scene: Killing) -> str:
    """SIGKILL to the evaluator process, so that a candidate is judged by half of its episodes, or not at all."""
    root, candidate = scene.root("worker"), mischief("hangs")
    with serving(root, SLOW, HOSTILE) as (service, client):
        answers: list[safety_pb2.VerdictStatement] = []
        caller = threading.Thread(target=lambda: answers.append(evaluate(client, candidate)))
        caller.start()
        time.sleep(HANGING_S)
        for worker in psutil.Process(service.process.pid).children():
            worker.kill()
        caller.join(WAIT_S)
        if answers[0].approved or answers[0].release_number:
            got_through(answers[0])
        said = one_verdict(root, client, mischief("none"), approved=True)
        return f"run again: {answers[0].reason}; {said}"


@KILLS.way(r"^rejected: .*killed by SIGKILL.*; then one verdict")
def evaluator_killed_again_and_again(scene: Killing) -> str:
    """SIGKILL to every evaluator process: the candidate is not judged, which is no approval."""
    root, ended = scene.root("workers"), threading.Event()
    with serving(root, SLOW, HOSTILE) as (service, client):

        def kill_all() -> None:
            while not ended.wait(0.002):
                for worker in psutil.Process(service.process.pid).children():
                    worker.kill()

        killer = threading.Thread(target=kill_all)
        killer.start()
        try:
            answer = evaluate(client, mischief("hangs"))
        finally:
            ended.set()
            killer.join(WAIT_S)
        if answer.approved or answer.release_number:
            got_through(answer)
        said = one_verdict(root, client, mischief("none"), approved=True)
        return f"rejected: {answer.reason}; {said}"


@KILLS.way(r"^3 times CANCELLED, then one verdict")
def client_gone_before_the_answer(scene: Killing) -> str:
    """A learner that breaks off and offers the same candidate again, for a second draw of seeds."""
    root = scene.root("client")
    with serving(root) as (service, client), transport.channel(service.address) as channel:
        codes = set()
        for _ in range(3):
            requests = [offer(GOOD), safety_pb2.EvaluateRequest(data=GOOD)]
            call = safety_pb2_grpc.SafetyStub(channel).Evaluate(iter(requests), timeout=WAIT_S)
            next(call)
            call.cancel()
            codes.add(call.code().name)
        return f"3 times {', '.join(codes)}, {one_verdict(root, client, GOOD, approved=True)}"
