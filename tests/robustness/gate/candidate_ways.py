"""Candidates and environments that try everything, on real safety services over gRPC: one for CartPole, and one with an
environment that does what its candidates ask of it.

After each way nothing more is released than before, what was decided is in the ledger, and the service goes on.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np

from actors.environments.catalog import make_vector
from actors.seeds import TRAINING_SEED_END
from policies.artifact import artifact_digest
from policies.inference import make_policy
from policies.testing import make_artifact, make_spec
from policies.trust import UntrustedError
from protos import transport
from protos.safety.v1 import safety_pb2, safety_pb2_grpc
from replay.settings import SettingError
from safety.client import OfferRefused, SafetyClient, SafetyUnavailable
from safety.config import SafetyConfig
from safety.testing import constant_artifact, nan_artifact, overflowing_artifact
from tests.robustness.gate import small_gate
from tests.robustness.gate.hostile_environments import EPISODE_STEPS, MISCHIEF
from tests.robustness.gate.small_gate import CONFIG, FALLING, GOOD, HOSTILE, HOSTILE_CONFIG, UNSAFE, evaluate
from tests.robustness.gate.ways import Group, got_through
from tests.safety.safety_process import RUN, running

WAIT_S = 60.0


class Served(NamedTuple):
    """A safety service: its root directory, a client, its address."""

    root: Path
    client: SafetyClient
    address: str

    def rejected(self, artifact: bytes) -> str:
        """Why a candidate is rejected; it must not become a release, by whatever its verdict says."""
        verdict = evaluate(self.client, artifact)
        signed = next(s for s in self.client.verdicts() if small_gate.verdict_in(s).verdict_id == verdict.verdict_id)
        with contextlib.suppress(UntrustedError):
            got_through(small_gate.trust(self.root).check_past_release(signed, artifact_digest(artifact)))
        if verdict.approved or verdict.release_number:
            got_through(verdict)
        if not any(entry.fields.get("verdict_id") == verdict.verdict_id for entry in small_gate.entries(self.root)):
            got_through(f"verdict {verdict.verdict_id} is not in the ledger")
        return f"rejected: {verdict.reason}"

    def refused(self, requests: list[safety_pb2.EvaluateRequest]) -> str:
        """Why an offer is refused, of which nothing must remain."""
        before = small_gate.entries(self.root)
        with transport.channel(self.address) as channel:
            try:
                answers = list(safety_pb2_grpc.SafetyStub(channel).Evaluate(iter(requests), timeout=WAIT_S))
            except grpc.RpcError as error:
                if small_gate.entries(self.root) != before:
                    got_through("the ledger has grown")
                return f"{error.code().name}: {error.details()}"
        return got_through(answers)


class Services:
    """The two services, each started when the first way needs it."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self._directory, self._stack = directory, stack

    @functools.cached_property
    def cartpole(self) -> Served:
        """With GOOD as release 1."""
        root = self._directory / "cartpole"
        _, client = self._stack.enter_context(small_gate.serving(root))
        if not evaluate(client, GOOD).approved:
            raise RuntimeError("what is good is not approved")
        return Served(root, client, f"unix:{root / 'safety.sock'}")

    @functools.cached_property
    def hostile(self) -> Served:
        """With the harmless candidate as release 1."""
        root = self._directory / "hostile"
        _, client = self._stack.enter_context(small_gate.serving(root, HOSTILE_CONFIG, HOSTILE))
        if not evaluate(client, mischief("none")).approved:
            raise RuntimeError("what is harmless is not approved")
        return Served(root, client, f"unix:{root / 'safety.sock'}")

    def does_not_start(self, config: SafetyConfig) -> str:
        """Why a service does not start with these settings."""
        root = self._directory / "unsound"
        root.mkdir(exist_ok=True)
        try:
            with running(root, config) as client:
                return got_through(client.trust())
        except SettingError as error:
            return f"SettingError: {error}"


@contextlib.contextmanager
def _services(directory: Path) -> Iterator[Services]:
    with contextlib.ExitStack() as stack:
        yield Services(directory, stack)


CANDIDATES = Group("candidates", _services)


def mischief(name: str) -> bytes:
    """A candidate that asks the hostile environment for it."""
    return constant_artifact(MISCHIEF.index(name), len(MISCHIEF)).to_bytes()


def offer(artifact: bytes, **changes: Any) -> safety_pb2.EvaluateRequest:
    """The first message of an evaluation, but for `changes`."""
    fields: dict[str, Any] = {
        "run_id": RUN,
        "version": 1,
        "digest": artifact_digest(artifact),
        "total_bytes": len(artifact),
    }
    return safety_pb2.EvaluateRequest(offer=safety_pb2.CandidateOffer(**{**fields, **changes}))


def with_header(change: Callable[[dict[str, dict[str, object]]], object]) -> bytes:
    """The good artifact with another header."""
    length = int.from_bytes(GOOD[:8], "little")
    header = json.loads(GOOD[8 : 8 + length])
    change(header)
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + GOOD[8 + length :]


@CANDIDATES.way(r"rejected: .*not finite")
def nan_parameter(scene: Services) -> str:
    """A candidate with one parameter that is NaN."""
    return scene.cartpole.rejected(nan_artifact().to_bytes())


@CANDIDATES.way(r"rejected: .*logits are not finite")
def logits_that_overflow(scene: Services) -> str:
    """Finite parameters whose logits are not."""
    return scene.cartpole.rejected(overflowing_artifact().to_bytes())


@CANDIDATES.way(r"rejected: .*header claims")
def pickle_as_an_artifact(scene: Services) -> str:
    """A pickle that would write a file where it is loaded."""
    return scene.cartpole.rejected(b"cposix\nsystem\n(S'touch pickled'\ntR.")


@CANDIDATES.way(r"rejected: .*header claims 1152921504606846976 of")
def header_of_an_exabyte(scene: Services) -> str:
    """A file of a few bytes that says its header has 2**60."""
    return scene.cartpole.rejected(struct.pack("<Q", 2**60) + GOOD[8:])


@CANDIDATES.way(r"rejected: .*not valid safetensors")
def tensor_of_terabytes(scene: Services) -> str:
    """A header in which a tensor has 2**40 elements, and no bytes for them."""

    def grow(header: dict[str, dict[str, object]]) -> None:
        header["policy/bias"]["shape"] = [2**20, 2**20]

    return scene.cartpole.rejected(with_header(grow))


@CANDIDATES.way(r"rejected: .*specification is not valid: .*(must be in|the limit is)")
def network_of_terabytes(scene: Services) -> str:
    """A specification of a network that would need 4 TB, so that whoever makes it runs out of memory."""

    def widen(header: dict[str, dict[str, object]]) -> None:
        spec = json.loads(str(header["__metadata__"]["spec"]))
        spec["network"]["hidden_sizes"] = [2**20, 2**20]
        header["__metadata__"]["spec"] = json.dumps(spec, sort_keys=True, separators=(",", ":"))

    return scene.cartpole.rejected(with_header(widen))


@CANDIDATES.way(r"rejected: .*unknown \['hidden'\]")
def tensor_that_nobody_asked_for(scene: Services) -> str:
    """One tensor more than the specification has, which some other reader may take for the policy."""

    def add(header: dict[str, dict[str, object]]) -> None:
        header["hidden"] = header.pop("value/bias")

    return scene.cartpole.rejected(with_header(add))


@CANDIDATES.way(r"rejected: .*a key twice")
def two_policies_in_one_file(scene: Services) -> str:
    """A header that names one tensor twice: two readers may see two policies."""
    length = int.from_bytes(GOOD[:8], "little")
    header = GOOD[8 : 8 + length].rstrip()
    text = header[:-1] + b',"policy/bias":' + json.dumps(json.loads(header)["policy/bias"]).encode() + b"}"
    return scene.cartpole.rejected(struct.pack("<Q", len(text)) + text + GOOD[8 + length :])


@CANDIDATES.way(r"rejected: .*metadata is not exactly one text named 'spec'")
def metadata_with_more_in_it(scene: Services) -> str:
    """Metadata beside the specification, such as a verdict of its own."""

    def add(header: dict[str, dict[str, object]]) -> None:
        header["__metadata__"]["verdict"] = "approved"

    return scene.cartpole.rejected(with_header(add))


@CANDIDATES.way(r"rejected: .*header")
def empty_artifact(scene: Services) -> str:
    """No bytes at all."""
    return scene.cartpole.rejected(b"")


@CANDIDATES.way(r"rejected: .*safetensors")
def truncated_artifact(scene: Services) -> str:
    """The good artifact without its last parameter."""
    return scene.cartpole.rejected(GOOD[:-4])


@CANDIDATES.way(r"rejected: .*safetensors")
def bytes_after_the_artifact(scene: Services) -> str:
    """The good artifact with a program behind it."""
    return scene.cartpole.rejected(GOOD + b"#!/bin/sh\n")


@CANDIDATES.way(r"rejected: .*observations <f4 \[3\], the environment has <f4 \[4\]")
def candidate_of_another_shape(scene: Services) -> str:
    """A policy that observes three numbers where the environment has four."""
    return scene.cartpole.rejected(make_artifact(make_spec((3,), 2)).to_bytes())


@CANDIDATES.way(r"rejected: .*3 actions, the environment has 2 actions")
def candidate_with_more_actions(scene: Services) -> str:
    """A policy with an action that the environment does not have."""
    return scene.cartpole.rejected(make_artifact(make_spec((4,), 3)).to_bytes())


@CANDIDATES.way(r"rejected: the artifact has \d+ bytes, the limit is 67108864: it was not read")
def oversize_artifact(scene: Services) -> str:
    """A candidate above the limit; its bytes are not even sent."""
    big = offer(GOOD, total_bytes=CONFIG.artifact_bytes_max + 1, digest=artifact_digest(b"big"))
    with transport.channel(scene.cartpole.address) as channel:
        *_, answer = safety_pb2_grpc.SafetyStub(channel).Evaluate(iter([big]), timeout=WAIT_S)
    verdict = small_gate.verdict_in(answer.verdict)
    if verdict.approved:
        got_through(verdict)
    return f"rejected: {verdict.reason}"


@CANDIDATES.way(r"INVALID_ARGUMENT: .*nothing was evaluated")
def digest_of_another_artifact(scene: Services) -> str:
    """The unsafe artifact offered under the digest of one that was approved."""
    requests = [offer(UNSAFE, digest=artifact_digest(GOOD)), safety_pb2.EvaluateRequest(data=UNSAFE)]
    return scene.cartpole.refused(requests)


@CANDIDATES.way(r"INVALID_ARGUMENT: more than the \d+ bytes that were offered")
def more_bytes_than_offered(scene: Services) -> str:
    """An upload that does not stop at its size."""
    return scene.cartpole.refused([offer(GOOD), *(4 * [safety_pb2.EvaluateRequest(data=GOOD)])])


@CANDIDATES.way(r"INVALID_ARGUMENT: .*nothing was evaluated")
def fewer_bytes_than_offered(scene: Services) -> str:
    """An upload that ends early."""
    return scene.cartpole.refused([offer(GOOD), safety_pb2.EvaluateRequest(data=GOOD[:-1])])


@CANDIDATES.way(r"INVALID_ARGUMENT: .*must be its offer")
def artifact_without_an_offer(scene: Services) -> str:
    """Bytes before anybody has said what they are."""
    return scene.cartpole.refused([safety_pb2.EvaluateRequest(data=GOOD), offer(GOOD)])


@CANDIDATES.way(r"INVALID_ARGUMENT: run_id is 'another-run'")
def candidate_of_another_run(scene: Services) -> str:
    """A candidate offered in the name of another run."""
    return scene.cartpole.refused([offer(GOOD, run_id="another-run"), safety_pb2.EvaluateRequest(data=GOOD)])


@CANDIDATES.way(r"rejected: .*(violation|severe|rate)")
def candidate_that_violates(scene: Services) -> str:
    """A high return with a cost in half of the episodes."""
    return scene.cartpole.rejected(UNSAFE)


@CANDIDATES.way(r"rejected: capability_non_inferiority .*beyond the accepted loss")
def candidate_that_lost_its_return(scene: Services) -> str:
    """No cost at all, and next to no return: far below the incumbent."""
    return scene.cartpole.rejected(FALLING)


@CANDIDATES.way(r"^one verdict for 4 offers, rejected: ")
def tried_until_it_passes(scene: Services) -> str:
    """The same unsafe candidate offered again and again, as other versions, for luckier seeds."""
    served = scene.cartpole
    reason = served.rejected(UNSAFE)
    before = len(served.client.verdicts())
    verdicts = {evaluate(served.client, UNSAFE, version).verdict_id for version in (2, 3, 4)}
    first = evaluate(served.client, UNSAFE)
    if verdicts != {first.verdict_id} or len(served.client.verdicts()) != before:
        got_through(verdicts)
    return f"one verdict for 4 offers, {reason}"


@CANDIDATES.way(r"^3 digests, 3 candidates, on different seeds, the error level never grows: rejected: ")
def same_parameters_under_another_digest(scene: Services) -> str:
    """The unsafe candidate with blanks in its header: the same policy, another digest, fresh seeds."""
    length = int.from_bytes(UNSAFE[:8], "little")
    header, parameters = UNSAFE[8 : 8 + length], UNSAFE[8 + length :]
    verdicts = []
    for blanks in (8, 16, 24):
        text = header + blanks * b" "
        padded = struct.pack("<Q", len(text)) + text + parameters
        reason = scene.cartpole.rejected(padded)
        verdicts.append(evaluate(scene.cartpole.client, padded))
    seeds = {verdict.seed_manifest_digest for verdict in verdicts}
    levels = [small_gate.error_level(verdict) for verdict in verdicts]
    grows = levels != sorted(levels, reverse=True)
    if len(seeds) != 3 or len({verdict.verdict_id for verdict in verdicts}) != 3 or grows:
        got_through(verdicts)
    return f"3 digests, 3 candidates, on different seeds, the error level never grows: {reason}"


@CANDIDATES.way(r"rejected: release \d+ of this artifact was revoked")
def revoked_artifact_offered_again(scene: Services) -> str:
    """A release that was taken back, offered as if it were new."""
    served, artifact = scene.cartpole, small_gate.good(1)
    number = evaluate(served.client, artifact).release_number
    if not number:
        raise RuntimeError("what is good is not approved")
    served.client.revoke(RUN, number, "it learnt from poisoned records")
    return served.rejected(artifact)


@CANDIDATES.way(r"^0 of 8 training episodes violate; rejected: .*(violation|severe|rate)")
def good_behaviour_on_training_seeds_only(scene: Services) -> str:
    """A candidate without a single violation on the seeds it can have seen, that violates on all held-out ones."""
    artifact = constant_artifact(MISCHIEF.index("knows_its_seeds"), len(MISCHIEF))
    vector, policy, violating = make_vector(HOSTILE, 8), make_policy(artifact, "numpy"), 0
    observation = vector.reset(np.arange(8, dtype=np.intp), [TRAINING_SEED_END - 1 - lane for lane in range(8)])
    for _ in range(EPISODE_STEPS):
        action = policy.act(observation, np.random.default_rng(0)).action
        violating += int((vector.step(action, np.ones(8, np.bool_)).cost > 0).sum())
    vector.close()
    return f"{violating} of 8 training episodes violate; {scene.hostile.rejected(artifact.to_bytes())}"


@CANDIDATES.way(r"^two releases with two numbers, each signed for its own artifact$")
def race_of_two_candidates(scene: Services) -> str:
    """Two good candidates offered at the same time: both would be the next release."""
    served, artifacts = scene.cartpole, [small_gate.good(2), small_gate.good(3)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        signed = list(pool.map(lambda data: served.client.evaluate(data, RUN, 1, WAIT_S), artifacts))
    trust = small_gate.trust(served.root)
    numbers = set()
    for data, statement, other in zip(artifacts, signed, reversed(artifacts), strict=True):
        numbers.add(trust.check_past_release(statement, artifact_digest(data)).release_number)
        with contextlib.suppress(UntrustedError):
            got_through(trust.check_past_release(statement, artifact_digest(other)))
    if len(numbers) != 2 or small_gate.audited(served.root):
        got_through(numbers)
    return "two releases with two numbers, each signed for its own artifact"


@CANDIDATES.way(r"^4 offers at once, one verdict: rejected")
def race_of_a_candidate_with_itself(scene: Services) -> str:
    """The same unsafe candidate offered four times at once, so that one of them may be lucky."""
    served = scene.cartpole
    artifact = UNSAFE[:-1] + bytes([UNSAFE[-1] ^ 1])
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        verdicts = list(pool.map(lambda _: evaluate(served.client, artifact), range(4)))
    if len({verdict.verdict_id for verdict in verdicts}) != 1:
        got_through(verdicts)
    return f"4 offers at once, one verdict: {served.rejected(artifact)}"


@CANDIDATES.way(
    r"^\d+ of 16 offers turned away: .*(waiting already|uploaded already).*; leases were renewed; 0 approved"
)
def flood_of_offers(scene: Services) -> str:
    """More candidates at once than the queue has room for; leases must go on meanwhile, and nothing slips past."""
    served = scene.hostile

    def flood(number: int) -> bool | str:
        artifact = constant_artifact(MISCHIEF.index("hangs" if number == 0 else "raises"), len(MISCHIEF))
        artifact.parameters["value/bias"][0] = float(number)
        try:
            return evaluate(served.client, artifact.to_bytes()).approved
        except SafetyUnavailable as error:
            return str(error)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(flood, number) for number in range(16)]
        leases = {served.client.renew_lease(RUN).payload for _ in range(3)}
        results = [future.result(WAIT_S) for future in futures]
    turned_away = [result for result in results if isinstance(result, str)]
    if True in results or len(leases) != 3 or not turned_away:
        got_through(results)
    approved = sum(result is True for result in results)
    return f"{len(turned_away)} of 16 offers turned away: {turned_away[0]}; leases were renewed; {approved} approved"


@CANDIDATES.way(r"^SettingError: .*safety\.episodes")
def empty_suite(scene: Services) -> str:
    """A suite without episodes, by which nothing can be shown and everything would pass."""
    return scene.does_not_start(SafetyConfig(episodes=0))


@CANDIDATES.way(r"^SettingError: .*safety\.episodes")
def suite_of_one_episode(scene: Services) -> str:
    """A suite of one episode."""
    return scene.does_not_start(SafetyConfig(episodes=1))


@CANDIDATES.way(r"^SettingError: ")
def limit_above_everything(scene: Services) -> str:
    """A limit that every candidate is below."""
    return scene.does_not_start(SafetyConfig(violation_rate_max=1.0))


@CANDIDATES.way(r"^OfferRefused: |^SafetyUnavailable: ")
def senseless_run_id(scene: Services) -> str:
    """A run id that would break out of what the seeds' key is made of."""
    try:
        return str(scene.cartpole.client.evaluate(GOOD, f"{RUN}\n1", 1, WAIT_S))
    except (OfferRefused, SafetyUnavailable) as error:
        return f"{type(error).__name__}: {error}"


def _misbehaves(name: str, sentence: str, expected: str) -> None:
    def attempt(scene: Services) -> str:
        return scene.hostile.rejected(mischief(name))

    attempt.__name__, attempt.__doc__ = f"environment_that_{name}", sentence
    CANDIDATES.way(rf"^rejected: .*{expected}")(attempt)


_KILLED = "killed by SIGKILL"
_STOPPED = "took longer than"
for _row in (
    ("raises", "An environment that crashes.", "RuntimeError: the simulator fell over"),
    ("exits", "One that ends its process.", "exited with status 3"),
    ("killed", "One that kills its process.", _KILLED),
    ("stops_itself", "One that stops its process.", _STOPPED),
    ("hangs", "One that hangs.", _STOPPED),
    ("endless", "One whose episodes do not end.", _STOPPED),
    ("garbage", "One that writes garbage to every descriptor it finds.", "did not answer as it must"),
    ("closes", "One that closes every descriptor it finds.", "closed its end"),
    ("forks", "One that leaves a child behind which holds the pipes open.", f"{_STOPPED}|exited"),
    ("hoards", "One that takes all memory.", "more memory"),
    ("nan_reward", "One whose reward is NaN.", "return of an episode is not finite"),
    ("infinite_reward", "One whose reward is infinite.", "return of an episode is not finite"),
    ("nan_cost", "One whose cost is NaN, which is not above zero.", "cost of a step is negative or NaN"),
    ("negative_cost", "One whose negative cost would pay for a violation.", "cost of a step is negative or NaN"),
    ("bad_observation", "One that observes something else than it said.", "shape"),
    ("writes_files", "One that writes the ledger.", "Permission"),
    ("reads_secrets", "One that reads the safety service's directory.", "Permission"),
    ("kills_the_service", "One that kills the safety service.", "not permitted"),
):
    _misbehaves(*_row)
