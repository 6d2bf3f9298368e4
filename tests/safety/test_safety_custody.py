"""Keys, secret, incumbents and lease numbers: made once, kept, and refused when damaged or exposed."""

from __future__ import annotations

import itertools
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from policies.artifact import artifact_digest
from policies.durable import replace_file
from policies.signing import SigningKey, VerifyKey
from safety.custody import Custody, CustodyError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_first_start_makes_keys_and_secret_and_later_ones_keep_them(tmp_path: Path) -> None:
    first = Custody(tmp_path, first_start=True)
    again = Custody(tmp_path, first_start=False)
    assert first.signing_key.verify_key.raw == again.signing_key.verify_key.raw
    assert first.secret == again.secret
    assert len(first.secret) == 32
    assert VerifyKey.load(tmp_path / "verify_key.pem").raw == first.signing_key.verify_key.raw
    assert mode(tmp_path / "signing_key.pem") == mode(tmp_path / "evaluation_secret") == 0o600


def test_two_services_have_different_secrets(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, two = Custody(tmp_path / "a", first_start=True), Custody(tmp_path / "b", first_start=True)
    assert one.secret != two.secret
    assert one.signing_key.verify_key.raw != two.signing_key.verify_key.raw


@pytest.mark.parametrize("name", ["signing_key.pem", "evaluation_secret"])
def test_what_is_lost_is_not_made_again(tmp_path: Path, name: str) -> None:
    Custody(tmp_path, first_start=True)
    (tmp_path / name).unlink()
    with pytest.raises(CustodyError, match="missing"):
        Custody(tmp_path, first_start=False)


@pytest.mark.parametrize("name", ["signing_key.pem", "evaluation_secret"])
def test_what_others_can_read_is_not_used(tmp_path: Path, name: str) -> None:
    Custody(tmp_path, first_start=True)
    (tmp_path / name).chmod(0o640)
    with pytest.raises(CustodyError, match="chmod 600"):
        Custody(tmp_path, first_start=False)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    Custody(tmp_path, first_start=True)
    for name, damaged in (("evaluation_secret", b"short"), ("lease_number", b"many"), ("signing_key.pem", b"no key")):
        whole = (tmp_path / name).read_bytes() if (tmp_path / name).exists() else None
        replace_file(tmp_path / name, damaged, 0o600)
        with pytest.raises(CustodyError, match=name):
            Custody(tmp_path, first_start=False)
        (tmp_path / name).unlink() if whole is None else replace_file(tmp_path / name, whole, 0o600)
    Custody(tmp_path, first_start=False)


def test_a_foreign_public_key_is_refused_and_a_missing_one_is_made_again(tmp_path: Path) -> None:
    custody = Custody(tmp_path, first_start=True)
    SigningKey.generate().verify_key.save(tmp_path / "verify_key.pem")
    with pytest.raises(CustodyError, match="public half"):
        Custody(tmp_path, first_start=False)
    (tmp_path / "verify_key.pem").unlink()
    Custody(tmp_path, first_start=False)
    assert VerifyKey.load(tmp_path / "verify_key.pem").raw == custody.signing_key.verify_key.raw


def test_an_unfinished_first_start_is_taken_up_again(tmp_path: Path) -> None:
    Custody(tmp_path, first_start=True)
    for name in ("verify_key.pem", "evaluation_secret"):
        (tmp_path / name).unlink()
    Custody(tmp_path, first_start=True)
    Custody(tmp_path, first_start=False)


@pytest.mark.parametrize("decide", [Custody.next_lease_number, lambda custody: custody.keep_incumbent(b"one")])
def test_without_its_ledger_a_service_that_has_decided_does_not_start_anew(
    tmp_path: Path, decide: Callable[[Custody], object]
) -> None:
    decide(Custody(tmp_path, first_start=True))
    with pytest.raises(CustodyError, match="ledger is gone"):
        Custody(tmp_path, first_start=True)
    Custody(tmp_path, first_start=False)


def test_incumbents_are_kept_checked_and_forgotten(tmp_path: Path) -> None:
    custody = Custody(tmp_path, first_start=True)
    for artifact in (b"one", b"two"):
        custody.keep_incumbent(artifact)
        custody.keep_incumbent(artifact)
    assert custody.incumbent(artifact_digest(b"one")) == b"one"
    custody.forget_incumbents_except([artifact_digest(b"two")])
    with pytest.raises(CustodyError, match="cannot be read"):
        custody.incumbent(artifact_digest(b"one"))
    (tmp_path / "incumbents" / artifact_digest(b"two").hex()).write_bytes(b"tow")
    with pytest.raises(CustodyError, match="damaged"):
        custody.incumbent(artifact_digest(b"two"))


def test_lease_numbers_ascend_also_over_restarts(tmp_path: Path) -> None:
    custody, numbers = Custody(tmp_path, first_start=True), []
    for _ in range(3):
        numbers += [custody.next_lease_number() for _ in range(1500)]
        custody = Custody(tmp_path, first_start=False)
    assert numbers[0] == 1
    assert all(before < after for before, after in itertools.pairwise(numbers))
