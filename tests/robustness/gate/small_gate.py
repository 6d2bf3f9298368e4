"""What the ways need to know of the gate's settings, files and formats: all of it is here, so that it is in one place.

The settings make a gate that decides in well under a second: lenient limits, so that what is good passes also when it
is the fiftieth candidate of its run and shares the error rate with all before it.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from actors.config import EnvironmentConfig
from policies.durable import replace_file
from policies.signing import VERDICT_TYPE, SigningKey, VerifyKey, sign
from policies.trust import TrustPolicy
from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2
from safety.audit import audit_ledger
from safety.canonical_json import canonical_json
from safety.client import SafetyClient
from safety.config import SafetyConfig
from safety.docket import Docket
from safety.in_toto import SIGNATURE_FIELD, sign_in_toto
from safety.ledger import LedgerEntry, read_ledger
from safety.testing import balancing_artifact, cartpole_artifact, drifting_artifact, falling_artifact
from safety.verdicts import ledger_fields, statement_in
from tests.robustness.gate.ways import got_through
from tests.safety.safety_process import CARTPOLE, RUN, ServiceProcess, parameters_of

CONFIG = SafetyConfig(
    episodes=40, error_rate=0.4, violation_rate_max=0.3, return_margin=0.5, patience=0, lanes=40, evaluation_s_max=30.0
)
"""For CartPole: what balances passes, what drifts off violates too often, what falls loses too much return."""

HOSTILE_CONFIG = dataclasses.replace(CONFIG, evaluation_s_max=4.0, worker_memory_bytes_max=768 * 1024**2)
HOSTILE = EnvironmentConfig(name="gym:tests.robustness.gate.hostile_environments:Hostile-v0")

GOOD, BETTER = balancing_artifact().to_bytes(), cartpole_artifact((0.1, 0.2, 3.0, 1.0)).to_bytes()
UNSAFE, FALLING = drifting_artifact().to_bytes(), falling_artifact().to_bytes()

EVALUATION_S_MAX = 30.0


def good(number: int) -> bytes:
    """One of many artifacts that pass, no two of them alike."""
    return cartpole_artifact((0.5, 0.5, 3.0, 1.0 + 0.001 * number)).to_bytes()


def service_directory(root: Path) -> Path:
    """The safety service's directory, where the service's root directory is `root`."""
    return root / "safety"


def key_directory(root: Path) -> Path:
    """Where its private keys are."""
    return root / "keys"


def signing_key_file(root: Path) -> Path:
    """The private key that signs verdicts."""
    return key_directory(root) / "verdict_key.pem"


def verify_key_file(root: Path) -> Path:
    """Its public half, as others read it."""
    return service_directory(root) / "verify_key.pem"


def secret_file(root: Path) -> Path:
    """The secret of the held-out seeds."""
    return key_directory(root) / "evaluation_secret"


def incumbent_file(root: Path, digest: bytes) -> Path:
    """The artifact of a release, as the safety service keeps it."""
    return service_directory(root) / "incumbents" / digest.hex()


def trust(root: Path) -> TrustPolicy:
    """What an actor of the run believes."""
    return TrustPolicy(VerifyKey.load(verify_key_file(root)), RUN)


@contextlib.contextmanager
def serving(
    root: Path, config: SafetyConfig = CONFIG, environment: EnvironmentConfig = CARTPOLE
) -> Iterator[tuple[ServiceProcess, SafetyClient]]:
    """The safety service in a process of its own, and a client of it."""
    root.mkdir(exist_ok=True)
    parameters = parameters_of(root, config, environment, None) | {"keys": str(key_directory(root))}
    service = ServiceProcess(parameters)
    try:
        with SafetyClient(parameters["address"]) as client:
            yield service, client
    finally:
        service.kill()


def evaluate(client: SafetyClient, artifact: bytes, version: int = 1) -> safety_pb2.VerdictStatement:
    """What the service decides about a candidate."""
    return verdict_in(client.evaluate(artifact, RUN, version, EVALUATION_S_MAX))


def verdict_in(signed: common_pb2.SignedStatement) -> safety_pb2.VerdictStatement:
    """The verdict in a signed statement."""
    return safety_pb2.VerdictStatement.FromString(signed.payload)


def refused_to_open(root: Path, run_id: str = RUN) -> str:
    """Why the safety service does not start on a directory."""
    try:
        docket = Docket(service_directory(root), run_id, keys=key_directory(root))
        try:
            docket.incumbent()
        finally:
            docket.close()
    except Exception as error:  # noqa: BLE001 - whatever keeps it from starting; which one is the way's to say
        return f"{type(error).__name__}: {error}"
    return got_through("the safety service opens the directory")


def entries(root: Path) -> list[LedgerEntry]:
    """The ledger, read as anybody can."""
    return list(read_ledger(service_directory(root)))


def audited(root: Path, kept_head: tuple[int, bytes] | None = None) -> str:
    """Why an audit fails; "" where it does not."""
    try:
        audit_ledger(entries(root), trust(root).verify_key, RUN, kept_head)
    except Exception as error:  # noqa: BLE001 - likewise
        return f"{type(error).__name__}: {error}"
    return ""


def read_trees(root: Path) -> list[dict[str, Any]]:
    """The ledger's lines as JSON."""
    return [json.loads(line) for line in (service_directory(root) / "ledger.jsonl").read_bytes().splitlines()]


def write_trees(root: Path, trees: list[dict[str, Any]]) -> None:
    """Writes ledger and head as somebody would who can write every file and compute every digest."""
    previous = bytes(32).hex()
    lines = []
    for index, tree in enumerate(trees):
        body = {**{key: value for key, value in tree.items() if key != "digest"}, "index": index, "previous": previous}
        previous = hashlib.sha256(canonical_json(body)).hexdigest()
        lines.append(canonical_json({**body, "digest": previous}) + b"\n")
    (service_directory(root) / "ledger.jsonl").write_bytes(b"".join(lines))
    write_head(root, {"index": len(trees) - 1, "digest": previous})


def write_head(root: Path, head: dict[str, Any]) -> None:
    """Writes the ledger's head."""
    replace_file(service_directory(root) / "ledger.head", canonical_json(head) + b"\n", 0o600)


def resigned(
    tree: dict[str, Any], key: SigningKey, change: Callable[[safety_pb2.VerdictStatement], object]
) -> dict[str, Any]:
    """A verdict's line after `change` of its statement, signed by `key` in the name of the key that signed before."""
    before = statement_in(tree)
    statement = verdict_in(before)
    change(statement)
    signed = sign(key, VERDICT_TYPE, statement.SerializeToString(deterministic=True))
    signed.key_id = before.key_id
    fields = {**ledger_fields(signed, statement, tree["evaluation"]), SIGNATURE_FIELD: sign_in_toto(key, statement)}
    return {**tree, **fields, "statement": base64.b64encode(signed.SerializeToString(deterministic=True)).decode()}


def error_level(verdict: safety_pb2.VerdictStatement) -> float:
    """The share of the run's error rate at which a candidate was tested; 0 where the gate does not share it."""
    return float(verdict.error_level)
