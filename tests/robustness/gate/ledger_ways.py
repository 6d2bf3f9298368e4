"""A safety service's directory tampered with: ledger, head, keys, secret, incumbents; and settings changed in between.

A real safety service makes one directory, with releases 1 and 2 of which 1 is revoked, two rejections, and an
evaluation that was broken off. Each way has a copy of it, and asks a docket, as the service opens it, or an audit, as
anybody can make it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from policies.artifact import artifact_digest
from policies.durable import replace_file
from policies.signing import SigningKey
from protos.safety.v1 import safety_pb2
from safety.begun_evaluations import BROKEN_OFF
from safety.docket import Docket
from safety.history import VERDICT
from safety.ledger import Ledger
from safety.suites.manifest import criteria_digest, draw_seeds, seed_commitment, seed_manifest_digest
from safety.suites.spec import suite_from_settings
from safety.trials.levels import Schedule
from safety.verdicts import Offer, Rule, statement_in
from tests.robustness.gate.small_gate import (
    BETTER,
    CONFIG,
    FALLING,
    GOOD,
    UNSAFE,
    audited,
    entries,
    evaluate,
    incumbent_file,
    key_directory,
    read_trees,
    refused_to_open,
    resigned,
    secret_file,
    service_directory,
    serving,
    signing_key_file,
    trust,
    verify_key_file,
    write_head,
    write_trees,
)
from tests.robustness.gate.ways import Group, got_through
from tests.safety.safety_process import CARTPOLE, RUN

LAX = dataclasses.replace(CONFIG, violation_rate_max=0.9, risk_margin=0.9)


class Template:
    """The directory, of which ways get copies; and one of another service."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count()
        self.root, self.another = directory / "root", directory / "another"
        with serving(self.root) as (_, client):
            verdicts = [evaluate(client, artifact) for artifact in (GOOD, UNSAFE)]
        break_off_one(self.root)
        with serving(self.root) as (_, client):
            verdicts.append(evaluate(client, BETTER))
            client.renew_lease(RUN)
            client.revoke(RUN, 1, "it learnt from poisoned records")
            verdicts.append(evaluate(client, FALLING))
        with serving(self.another) as (_, client):
            verdicts.append(evaluate(client, GOOD))
        if [verdict.approved for verdict in verdicts] != [True, False, True, False, True]:
            raise RuntimeError(f"the verdicts are not those they should be: {verdicts}")
        if problem := audited(self.root):
            raise RuntimeError(f"a ledger that nobody has touched does not pass: {problem}")
        kinds = [entry.kind for entry in entries(self.root)]
        self.verdicts = [number for number, kind in enumerate(kinds) if kind == VERDICT]
        self.broken_off = kinds.index(BROKEN_OFF)

    def copy(self) -> Path:
        """A copy that may be spoilt."""
        copy = self._directory / f"copy-{next(self._numbers)}"
        shutil.copytree(self.root, copy, ignore=shutil.ignore_patterns("*.sock"))
        return copy

    def after(self, change: Callable[[list[dict[str, Any]]], object]) -> Path:
        """A copy whose ledger was changed by somebody who can write every file and compute every digest."""
        copy = self.copy()
        trees = read_trees(copy)
        change(trees)
        write_trees(copy, trees)
        return copy


def break_off_one(root: Path) -> None:
    """Begins an evaluation as a service that is killed in it, and opens the directory again."""

    def opened() -> contextlib.closing[Docket]:
        return contextlib.closing(Docket(service_directory(root), RUN, keys=key_directory(root)))

    with opened() as docket:
        offer = Offer(RUN, 1, artifact_digest(FALLING), len(FALLING))
        suite = suite_from_settings(CONFIG, CARTPOLE)
        level = docket.next_level(Schedule(suite.error_rate, suite.error_schedule))
        docket.begin(offer, Rule(criteria_digest(suite), bytes(32), suite), level)
    with opened():
        pass


@contextlib.contextmanager
def _template(directory: Path) -> Iterator[Template]:
    yield Template(directory)


LEDGER = Group("ledger", _template)


def refused(root: Path) -> str:
    """Why the service does not start on a directory, and why an audit of its ledger fails."""
    reason = refused_to_open(root)
    return f"service: {reason}; audit: {audited(root) or got_through('the ledger passes an audit')}"


@LEDGER.way(r"LedgerError: the ledger ends at entry \d+, its head names entry \d+: entries were cut off")
def ledger_truncated(scene: Template) -> str:
    """The last two entries cut off."""
    root = scene.copy()
    path = service_directory(root) / "ledger.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    return refused_to_open(root)


@LEDGER.way(r"audit: LedgerError: the kept head is of entry \d+, but the ledger ends before .*: it was cut off")
def last_entry_removed_and_the_head_edited(scene: Template) -> str:
    """The newest rejection taken out of both files; who kept the head of an earlier audit sees it."""
    kept = entries(scene.root)[-1]
    root = scene.after(lambda trees: trees.pop())
    return f"audit: {audited(root, (kept.index, kept.digest)) or got_through('the ledger passes')}"


@LEDGER.way(r"LedgerError: .* line \d+ does not continue the chain")
def entry_edited(scene: Template) -> str:
    """A rejection turned into an approval in the file."""
    root = scene.copy()
    path = service_directory(root) / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    at = scene.verdicts[1]
    lines[at] = lines[at].replace(b'"approved":false', b'"approved":true')
    path.write_bytes(b"".join(lines))
    return refused(root)


@LEDGER.way(r"service: LedgerError: ledger entry \d+ does not say what its verdict says.*audit: LedgerError")
def entry_edited_and_the_chain_made_again(scene: Template) -> str:
    """The same, and every digest after it computed anew."""
    change = {"approved": True, "reason": "", "release_number": 2}
    return refused(scene.after(lambda trees: trees[scene.verdicts[1]].update(change)))


@LEDGER.way(r"LedgerError: .* line \d does not continue the chain")
def entries_swapped(scene: Template) -> str:
    """Two lines of the file change places."""
    root = scene.copy()
    path = service_directory(root) / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1], lines[2] = lines[2], lines[1]
    path.write_bytes(b"".join(lines))
    return refused(root)


@LEDGER.way(r"service: LedgerError: ledger entry \d .*audit: LedgerError")
def entries_swapped_and_the_chain_made_again(scene: Template) -> str:
    """Two verdicts change places, and every digest is computed anew."""
    first, second = scene.verdicts[:2]

    def swap(trees: list[dict[str, Any]]) -> None:
        trees[first], trees[second] = trees[second], trees[first]

    return refused(scene.after(swap))


@LEDGER.way(r"service: LedgerError: ledger entry \d+ holds no verdict signed by .*audit: LedgerError")
def forged_verdict_inserted(scene: Template) -> str:
    """An approval of what was rejected, signed by a stranger in the name of the key, with the chain made again."""

    def insert(trees: list[dict[str, Any]]) -> None:
        trees.append(resigned(trees[scene.verdicts[1]], SigningKey.generate(), _approve))

    return refused(scene.after(insert))


@LEDGER.way(r"service: LedgerError: ledger entry \d+ .*audit: LedgerError")
def genuine_verdict_inserted_twice(scene: Template) -> str:
    """A genuine approval entered once more at the end, so that its release would have a second number."""
    return refused(scene.after(lambda trees: trees.append(dict(trees[scene.verdicts[0]]))))


@LEDGER.way(r"service: LedgerError: ledger entry \d+ holds no verdict signed by .*audit: LedgerError")
def verdict_of_another_ledger_spliced_in(scene: Template) -> str:
    """The approval of another safety service, with its own key, put at the end."""
    spliced = next(tree for tree in read_trees(scene.another) if tree["kind"] == VERDICT)
    return refused(scene.after(lambda trees: trees.append(spliced)))


@LEDGER.way(r"service: LedgerError: ledger entry \d+ .*run.*audit: LedgerError")
def verdict_of_another_run_by_the_same_key(scene: Template) -> str:
    """The last verdict, signed by the genuine key as one about another run, at its place in the chain."""
    key = SigningKey.load(signing_key_file(scene.root))

    def replace(trees: list[dict[str, Any]]) -> None:
        trees[-1] = resigned(trees[-1], key, lambda verdict: setattr(verdict, "run_id", "another-run"))
        trees[-1]["run_id"] = "another-run"

    return refused(scene.after(replace))


@LEDGER.way(r"service: LedgerError: ledger entry \d+ .*audit: LedgerError")
def rejection_relabelled(scene: Template) -> str:
    """The kind of a rejection changed to one that nobody reads, so that its candidate may try again."""
    return refused(scene.after(lambda trees: trees[scene.verdicts[1]].update(kind="note")))


@LEDGER.way(r"service: LedgerError: ledger entry \d+ begins evaluation 4 .* is evaluation 3 of run.*audit: LedgerError")
def broken_off_evaluation_edited_away(scene: Template) -> str:
    """An evaluation that was broken off taken out of the middle, so that nobody sees that it was, chain made again."""

    def take_out(trees: list[dict[str, Any]]) -> None:
        del trees[scene.broken_off - 1 : scene.broken_off + 1]

    return refused(scene.after(take_out))


@LEDGER.way(r"service: LedgerError: ledger entry 10 does not say .*, or stands out of place.*audit: LedgerError")
def begin_of_an_evaluation_edited_away(scene: Template) -> str:
    """A verdict without the entry that its evaluation began, as if it had cost nothing until it came."""
    return refused(scene.after(lambda trees: trees.pop(scene.verdicts[-1] - 1)))


@LEDGER.way(r"service: LedgerError: ledger entry \d+ begins evaluation 3 .* is evaluation 6 of run.*audit: LedgerError")
def number_of_an_evaluation_replayed(scene: Template) -> str:
    """The evaluation that was broken off begun once more at the end, for its seeds and its share of the error rate."""
    return refused(scene.after(lambda trees: trees.append(dict(trees[scene.broken_off - 1]))))


@LEDGER.way(r"service: LedgerError: ledger entry \d+ begins evaluation 7 .* is evaluation 6 of run.*audit: LedgerError")
def number_of_an_evaluation_skipped(scene: Template) -> str:
    """The next evaluation left out, whose seeds somebody has learnt."""

    def skip(trees: list[dict[str, Any]]) -> None:
        trees.append({**trees[scene.verdicts[-1] - 1], "evaluation": 7, "lifetime_index": 7})

    return refused(scene.after(skip))


@LEDGER.way(r"service: LedgerError: the ledger commits to another key for evaluation 7 than follows from the secret")
def commitment_of_an_evaluation_edited(scene: Template) -> str:
    """The newest entry, of an evaluation that was broken off, commits to a key of somebody who wrote both files."""
    root = scene.copy()
    break_off_one(root)
    trees = read_trees(root)[:-1]
    trees[-1]["next_seed_commitment"] = seed_commitment(b"x" * 32).hex()
    write_trees(root, trees)
    return f"service: {refused_to_open(root)}"


@LEDGER.way(r"service: LedgerError: ledger entry \d+ .*audit: LedgerError")
def revocation_taken_out(scene: Template) -> str:
    """The revocation of release 1 taken out of the middle, and every digest computed anew."""
    at = next(number for number, tree in enumerate(read_trees(scene.root)) if tree["kind"] == "revocation")
    return refused(scene.after(lambda trees: trees.pop(at)))


@LEDGER.way(r"CustodyError: .*for a ledger that is gone: restore it")
def ledger_deleted(scene: Template) -> str:
    """Ledger and head deleted, so that the service would start anew under the same key."""
    root = scene.copy()
    for name in ("ledger.jsonl", "ledger.head"):
        (service_directory(root) / name).unlink()
    return refused_to_open(root)


@LEDGER.way(r"LedgerError: .*its head names entry -1")
def head_deleted(scene: Template) -> str:
    """The separate head deleted, without which nobody could see that entries were cut off."""
    root = scene.copy()
    (service_directory(root) / "ledger.head").unlink()
    return refused_to_open(root)


@LEDGER.way(r"LedgerError: the ledger's entry \d+ is not the one that its head names")
def head_of_another_ledger(scene: Template) -> str:
    """The head names the right place with another digest."""
    root = scene.copy()
    write_head(root, {"index": len(entries(root)) - 1, "digest": bytes(32).hex()})
    return refused_to_open(root)


@LEDGER.way(r"LedgerError: .* is not readable")
def head_of_garbage(scene: Template) -> str:
    """The head overwritten."""
    root = scene.copy()
    (service_directory(root) / "ledger.head").write_bytes(b"approved")
    return refused_to_open(root)


@LEDGER.way(r"^the torn line is dropped: no release")
def torn_line_that_says_approved(scene: Template) -> str:
    """Half an entry at the end, as a crash leaves it, that begins with an approval."""
    root = scene.copy()
    with (service_directory(root) / "ledger.jsonl").open("ab") as file:
        file.write(b'{"approved":true,"artifact_digest":"' + artifact_digest(UNSAFE).hex().encode())
    Ledger(service_directory(root)).close()
    found = entries(root)
    if found[-1].kind != "recovered" or audited(root) or len(found) != len(entries(scene.root)) + 1:
        got_through(found[-1])
    return "the torn line is dropped: no release"


@LEDGER.way(r"CustodyError: .* is missing")
def signing_key_deleted(scene: Template) -> str:
    """The key deleted, so that a new one would be made, to which old verdicts mean nothing."""
    root = scene.copy()
    signing_key_file(root).unlink()
    return refused_to_open(root)


@LEDGER.way(r"CustodyError: .* is key [0-9a-f]{16}, the ledger of run run-1 names [0-9a-f]{16}")
def signing_key_replaced(scene: Template) -> str:
    """The attacker's own private key in its place."""
    root = scene.copy()
    signing_key_file(root).unlink()
    SigningKey.generate().save(signing_key_file(root))
    return refused_to_open(root)


@LEDGER.way(r"service: CustodyError: .* names [0-9a-f]{16}.*audit: LedgerError: ledger entry 0 does not name keys")
def both_halves_of_the_key_replaced(scene: Template) -> str:
    """The attacker's own key, private and public."""
    root = scene.copy()
    key = SigningKey.generate()
    signing_key_file(root).unlink()
    key.save(signing_key_file(root))
    key.verify_key.save(verify_key_file(root))
    return refused(root)


@LEDGER.way(r"CustodyError: .*public half")
def public_key_replaced(scene: Template) -> str:
    """The attacker's public key, for those who start next to believe."""
    root = scene.copy()
    SigningKey.generate().verify_key.save(verify_key_file(root))
    return refused_to_open(root)


@LEDGER.way(r"CustodyError: .*chmod 600")
def signing_key_shown_to_all(scene: Template) -> str:
    """The private key made readable for every user of the machine."""
    root = scene.copy()
    signing_key_file(root).chmod(0o644)
    return refused_to_open(root)


@LEDGER.way(r"CustodyError: .* is missing")
def secret_deleted(scene: Template) -> str:
    """The secret of the held-out seeds deleted, so that a new one would be drawn."""
    root = scene.copy()
    secret_file(root).unlink()
    return refused_to_open(root)


@LEDGER.way(r"CustodyError: .*(belongs to|secret)")
def secret_replaced(scene: Template) -> str:
    """A secret that the attacker knows, and all held-out seeds with it."""
    root = scene.copy()
    replace_file(secret_file(root), b"k" * 32, 0o600)
    return refused_to_open(root)


def manifest(key: bytes, verdict: safety_pb2.VerdictStatement) -> bytes:
    """What a verdict of as many episodes says of the seeds of another key."""
    return seed_manifest_digest({each.name: draw_seeds(key, each.name, each.episodes) for each in verdict.slices})


@LEDGER.way(r"LedgerError: ledger entry \d+ reveals another key of held-out seeds than was committed to before it")
def seeds_of_a_key_nobody_committed_to(scene: Template) -> str:
    """A gate that draws keys until the candidate is lucky: it has the signing key, and signs which one it took."""
    key, chosen = SigningKey.load(signing_key_file(scene.root)), b"x" * 32

    def choose(verdict: safety_pb2.VerdictStatement) -> None:
        verdict.seed_key = chosen
        verdict.seed_manifest_digest = manifest(chosen, verdict)

    def replace(trees: list[dict[str, Any]]) -> None:
        trees[-1] = resigned(trees[-1], key, choose)

    if seed_commitment(chosen).hex() in (scene.root / "safety" / "ledger.jsonl").read_text():
        raise RuntimeError("the key was committed to after all")
    return refused(scene.after(replace))


@LEDGER.way(r"audit: LedgerError: verdict \d+ .*they were chosen")
def seeds_chosen(scene: Template) -> str:
    """A gate that evaluates on other seeds than those of the key that it committed to and reveals."""
    key = SigningKey.load(signing_key_file(scene.root))

    def choose(verdict: safety_pb2.VerdictStatement) -> None:
        verdict.seed_manifest_digest = manifest(b"x" * 32, verdict)

    def replace(trees: list[dict[str, Any]]) -> None:
        trees[-1] = resigned(trees[-1], key, choose)

    return f"audit: {audited(scene.after(replace)) or got_through('the ledger passes')}"


@LEDGER.way(r"CustodyError: .* is damaged")
def incumbent_edited(scene: Template) -> str:
    """The release that candidates are compared with, replaced by one that is easily beaten."""
    root = scene.copy()
    incumbent_file(root, artifact_digest(BETTER)).write_bytes(FALLING)
    return refused_to_open(root)


@LEDGER.way(r"CustodyError: .*cannot be read")
def incumbent_removed(scene: Template) -> str:
    """The same release deleted, so that there would be nothing to compare with."""
    root = scene.copy()
    incumbent_file(root, artifact_digest(BETTER)).unlink()
    return refused_to_open(root)


@LEDGER.way(r"(CustodyError|LedgerError): .*belongs to|LedgerError: .*run")
def directory_used_for_another_run(scene: Template) -> str:
    """Another run started on the directory, with the releases of this one as its own."""
    return refused_to_open(scene.copy(), "another-run")


@LEDGER.way(r"LedgerInUse: .* in use by another safety service")
def second_service_on_the_same_ledger(scene: Template) -> str:
    """A second safety service beside the first one, so that one could approve what the other rejects."""
    root = scene.copy()
    ledger = Ledger(service_directory(root))
    try:
        return refused_to_open(root)
    finally:
        ledger.close()


@LEDGER.way(r"^approved by criteria [0-9a-f]{8}, which are not ours \([0-9a-f]{8}\); rejected by ours: .*violation")
def criteria_downgraded_between_restarts(scene: Template) -> str:
    """A lax gate for one candidate, then the strict one again: the lax approval does not stand, and names its rule."""
    root = scene.copy()
    with serving(root, LAX) as (_, client):
        lax = evaluate(client, UNSAFE)
    with serving(root) as (_, client):
        again = evaluate(client, UNSAFE)
    if again.approved or not lax.approved or lax.criteria_digest == again.criteria_digest:
        got_through(again)
    trust(root).check_past_release(_signed(root, lax.verdict_id), artifact_digest(UNSAFE))
    lax_digest, ours = lax.criteria_digest.hex()[:8], again.criteria_digest.hex()[:8]
    return f"approved by criteria {lax_digest}, which are not ours ({ours}); rejected by ours: {again.reason}"


def _signed(root: Path, verdict_id: str) -> Any:
    return next(statement_in(tree) for tree in read_trees(root) if tree.get("verdict_id") == verdict_id)


def _approve(verdict: safety_pb2.VerdictStatement) -> None:
    verdict.approved, verdict.release_number, verdict.reason = True, 3, ""
