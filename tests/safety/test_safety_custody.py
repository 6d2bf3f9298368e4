"""Keys, incumbents and lease numbers of one service: made once, kept, and refused when they are not what they were."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from policies.artifact import artifact_digest
from policies.durable import replace_file
from policies.key_chain import KeyChain
from policies.signing import LEASE_TYPE, VERDICT_TYPE, SignatureError, SigningKey, VerifyKey
from safety.keys.custody import Custody, CustodyError
from safety.keys.history import OPENED
from safety.ledger import Ledger, LedgerError

RUN = "run-1"


class Bench:
    """A directory with a ledger, and custodies over it, as a docket opens them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "safety"
        self.keys = directory / "keys"
        self.directory.mkdir()
        self.ledger = Ledger(self.directory)

    def open(self) -> Custody:
        return Custody(self.directory, RUN, self.ledger.entries(), self.keys)

    def begin(self) -> Custody:
        custody = self.open()
        identity = {"run_id": RUN, **custody.opening(5)}
        custody.follow(self.ledger.append(OPENED, lambda _: identity))
        return custody


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    try:
        yield bench
    finally:
        bench.ledger.close()


def test_what_is_signed_follows_from_the_first_key_and_a_restart_changes_nothing(bench: Bench) -> None:
    first = bench.begin()
    anchor = VerifyKey.load(bench.directory / "verify_key.pem")
    assert anchor.raw == first.verify_key.raw
    for custody in (first, bench.open()):
        assert custody.secret == first.secret
        verdict, lease = custody.sign(VERDICT_TYPE, b"verdict"), custody.sign(LEASE_TYPE, b"lease")
        assert KeyChain(anchor, RUN).verify(verdict, VERDICT_TYPE) == b"verdict"
        assert KeyChain(anchor, RUN).verify(lease, LEASE_TYPE) == b"lease"
        assert (verdict.key_id, len(verdict.certificates)) == (anchor.key_id, 0)
        assert lease.key_id != anchor.key_id
        for signed, other in ((verdict, LEASE_TYPE), (lease, VERDICT_TYPE)):
            with pytest.raises(SignatureError):
                KeyChain(anchor, RUN).verify(signed, other)


def test_nothing_is_signed_before_the_ledger_binds_the_keys(bench: Bench) -> None:
    with pytest.raises(CustodyError, match="its ledger is not open"):
        bench.open().sign(LEASE_TYPE, b"lease")


@pytest.mark.parametrize("name", ["verdict_key.pem", "lease_key.pem", "evaluation_secret"])
def test_what_is_lost_is_not_made_again(bench: Bench, name: str) -> None:
    bench.begin()
    kept = (bench.keys / name).read_bytes()
    (bench.keys / name).unlink()
    with pytest.raises(CustodyError, match=f"{name} is missing.*restore it"):
        bench.open()
    replace_file(bench.keys / name, kept, 0o600)
    bench.open()


def test_lost_keys_altogether_say_where_they_were_and_what_to_do(bench: Bench, tmp_path: Path) -> None:
    bench.begin()
    bench.keys.rename(tmp_path / "elsewhere")
    with pytest.raises(
        CustodyError, match=f"key directory {bench.keys} is missing, but the ledger of run run-1"
    ) as lost:
        Custody(bench.directory, RUN, bench.ledger.entries())
    assert "TEMPER_KEYS" in str(lost.value)
    assert not bench.keys.exists()


@pytest.mark.parametrize("name", ["verdict_key.pem", "lease_key.pem"])
def test_another_key_than_the_ledger_names_is_refused(bench: Bench, name: str) -> None:
    bench.begin()
    (bench.keys / name).unlink()
    SigningKey.generate().save(bench.keys / name)
    with pytest.raises(CustodyError, match=r"the ledger of run run-1 names [0-9a-f]{16}: restore that one"):
        bench.open()


def test_a_foreign_public_key_is_refused_and_a_missing_one_is_written_again(bench: Bench) -> None:
    anchor = bench.begin().verify_key
    SigningKey.generate().verify_key.save(bench.directory / "verify_key.pem")
    with pytest.raises(CustodyError, match="public half"):
        bench.open()
    (bench.directory / "verify_key.pem").unlink()
    bench.open()
    assert VerifyKey.load(bench.directory / "verify_key.pem").raw == anchor.raw


def test_damaged_files_are_refused(bench: Bench) -> None:
    bench.begin()
    number = bench.directory / "lease_number"
    for path, damaged in ((bench.keys / "verdict_key.pem", b"no key"), (number, b"many")):
        whole = path.read_bytes() if path.exists() else None
        replace_file(path, damaged, 0o600)
        with pytest.raises(CustodyError, match=path.name):
            bench.open()
        path.unlink() if whole is None else replace_file(path, whole, 0o600)
    bench.open()


def test_an_unfinished_first_start_is_taken_up_again(bench: Bench) -> None:
    """Its keys have signed nothing: a lost one is made anew, and the others are kept."""
    first = bench.open()
    (bench.keys / "lease_key.pem").unlink()
    (bench.keys / "evaluation_secret").unlink()
    again = bench.begin()
    assert again.verify_key.raw == first.verify_key.raw
    bench.open()


def test_killed_before_the_keys_knew_of_their_ledger(bench: Bench) -> None:
    custody = bench.open()
    identity = {"run_id": RUN, **custody.opening(5)}
    bench.ledger.append(OPENED, lambda _: identity)
    assert bench.open().verify_key.raw == custody.verify_key.raw
    assert VerifyKey.load(bench.directory / "verify_key.pem").raw == custody.verify_key.raw


def test_keys_that_have_signed_do_not_sign_for_a_new_ledger(bench: Bench, tmp_path: Path) -> None:
    bench.begin()
    (tmp_path / "other").mkdir()
    other = Bench(tmp_path / "other")
    other.keys = bench.keys
    try:
        with pytest.raises(CustodyError, match="have signed for a ledger that is gone: restore it"):
            other.open()
    finally:
        other.ledger.close()


@pytest.mark.parametrize("decide", [Custody.next_lease_number, lambda custody: custody.keep_incumbent(b"one")])
def test_without_its_ledger_a_service_that_has_decided_does_not_start_anew(
    bench: Bench, decide: Callable[[Custody], object]
) -> None:
    decide(bench.open())
    with pytest.raises(CustodyError, match="for a ledger that is gone"):
        bench.open()


def test_without_its_ledger_no_keys_are_made_where_others_were(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPER_KEYS", str(tmp_path / "above"))
    bench.begin()
    with pytest.raises(CustodyError, match="for a ledger that is gone: restore it"):
        Custody(bench.directory, RUN, ())
    assert not (tmp_path / "above").exists()


def test_a_note_where_the_keys_are_is_believed_only_once_a_ledger_has_begun(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPER_KEYS", str(tmp_path / "above"))
    (bench.directory / "keys_at").write_text(f"{tmp_path / 'planted'}\n")
    fresh = Custody(bench.directory, RUN, bench.ledger.entries())
    assert fresh.keys.place == tmp_path / "above" / RUN
    assert not (tmp_path / "planted").exists()
    shutil.rmtree(tmp_path / "above")
    begun = bench.begin()
    assert (bench.directory / "keys_at").read_text() == f"{bench.keys}\n"
    assert Custody(bench.directory, RUN, bench.ledger.entries()).keys.place == begun.keys.place


def test_what_a_killed_process_was_writing_is_removed_at_the_next_start(bench: Bench) -> None:
    bench.begin()
    kept = {path.name for path in bench.directory.iterdir()} | {".hidden", "evaluator-0.log", ".77"}
    for name in kept:
        (bench.directory / name).touch()
    for name in (".ledger.head.4711", ".keys_at.1", ".verify_key.pem.77", ".lease_number.2", ".risk_monitor.json.3"):
        (bench.directory / name).write_bytes(b"half")
    bench.open()
    assert {path.name for path in bench.directory.iterdir()} == kept


def test_another_runs_directory_is_refused(bench: Bench) -> None:
    bench.begin()
    with pytest.raises(CustodyError, match="belongs to run 'run-1', this is run 'run-2'"):
        Custody(bench.directory, "run-2", bench.ledger.entries(), bench.keys)


def test_an_older_ledger_is_refused(bench: Bench) -> None:
    bench.open()
    bench.ledger.append(OPENED, lambda _: {"run_id": RUN, "key_id": "0" * 16})
    with pytest.raises(LedgerError, match="names no key: an older version began this ledger"):
        bench.open()


def test_keys_of_an_earlier_version_are_refused(bench: Bench) -> None:
    SigningKey.generate().save(bench.directory / "signing_key.pem")
    with pytest.raises(CustodyError, match="where an earlier version kept its key: start a new run"):
        bench.open()


def test_incumbents_are_kept_checked_and_forgotten(bench: Bench) -> None:
    custody = bench.begin()
    for artifact in (b"one", b"two"):
        custody.keep_incumbent(artifact)
        custody.keep_incumbent(artifact)
    assert custody.incumbent(artifact_digest(b"one")) == b"one"
    custody.forget_incumbents_except([artifact_digest(b"two")])
    with pytest.raises(CustodyError, match="cannot be read"):
        custody.incumbent(artifact_digest(b"one"))
    (bench.directory / "incumbents" / artifact_digest(b"two").hex()).write_bytes(b"tow")
    with pytest.raises(CustodyError, match="damaged"):
        custody.incumbent(artifact_digest(b"two"))


def test_lease_numbers_ascend_also_over_restarts(bench: Bench) -> None:
    custody, numbers = bench.begin(), []
    for _ in range(3):
        numbers += [custody.next_lease_number() for _ in range(1500)]
        custody = bench.open()
    assert numbers[0] == 1
    assert all(before < after for before, after in itertools.pairwise(numbers))
