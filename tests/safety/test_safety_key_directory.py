"""Where private keys may lie, and whose they are: apart, for their owner alone, and of one run."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from policies.durable import replace_file
from policies.signing import KeyFileError, SigningKey
from safety.keys.directory import KeyDirectory, default_place, place_of

RUN = "run-1"
LEDGER, OTHER = b"\x01" * 32, b"\x02" * 32


@pytest.fixture
def service(tmp_path: Path) -> Path:
    directory = tmp_path / "run" / "safety"
    directory.mkdir(parents=True)
    return directory


def made(place: Path, service: Path) -> KeyDirectory:
    """Keys that belong to a ledger."""
    keys = KeyDirectory(place, RUN, service, None)
    keys.bind(LEDGER)
    return keys


def test_it_is_made_for_its_owner_alone_and_opened_again(tmp_path: Path, service: Path) -> None:
    place = tmp_path / "a" / "b" / "keys"
    mask = os.umask(0)
    try:
        first = made(place, service)
    finally:
        os.umask(mask)
    assert {stat.S_IMODE(each.stat().st_mode) for each in (place, place.parent, place.parent.parent)} == {0o700}
    assert {path.name for path in place.iterdir()} == {"run", "verdict_key.pem", "lease_key.pem", "evaluation_secret"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in place.iterdir()} == {0o600}
    again = KeyDirectory(place, RUN, service, LEDGER)
    assert again.secret == first.secret
    assert len(first.secret) == 32
    for purpose in ("verdict", "lease"):
        assert again.key(purpose).verify_key.raw == first.key(purpose).verify_key.raw
    assert first.key("verdict").verify_key.raw != first.key("lease").verify_key.raw


def test_two_runs_have_different_keys(tmp_path: Path, service: Path) -> None:
    one, two = (KeyDirectory(tmp_path / name, RUN, service, None) for name in ("a", "b"))
    assert one.secret != two.secret
    assert one.key("lease").verify_key.raw != two.key("lease").verify_key.raw


def test_by_default_it_is_named_after_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_KEYS", str(tmp_path / "k"))
    assert default_place(RUN) == tmp_path / "k" / RUN
    monkeypatch.delenv("TEMPER_KEYS")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", "")
    assert default_place(RUN) == tmp_path / "home" / ".local" / "state" / "temper" / "keys" / RUN
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert default_place(RUN) == tmp_path / "state" / "temper" / "keys" / RUN


@pytest.mark.parametrize("run_id", ["", "..", "../x", "a/b", ".hidden", "x" * 200])
def test_a_run_id_that_is_no_name_needs_a_place(run_id: str) -> None:
    with pytest.raises(KeyFileError, match="say with --keys"):
        default_place(run_id)


def test_the_service_finds_its_keys_where_they_were_or_where_it_is_told(
    tmp_path: Path, service: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPER_KEYS", str(tmp_path / "first"))
    place = place_of(service, RUN)
    made(place, service)
    monkeypatch.setenv("TEMPER_KEYS", str(tmp_path / "second"))
    assert place_of(service, RUN) == place
    (tmp_path / "second").mkdir()
    moved = place.rename(tmp_path / "second" / RUN)
    assert place_of(service, RUN) == moved
    KeyDirectory(moved, RUN, service, LEDGER).bind(LEDGER)
    monkeypatch.delenv("TEMPER_KEYS")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "third"))
    assert place_of(service, RUN) == moved


def test_it_must_be_apart(tmp_path: Path, service: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(service)
    for place in (service, service / "keys", service / "incumbents" / ".." / "keys", link / "keys"):
        with pytest.raises(KeyFileError, match="keys must be apart"):
            KeyDirectory(place, RUN, service, None)
    assert list(service.iterdir()) == []


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o720])
def test_a_directory_for_others_too_is_refused(tmp_path: Path, service: Path, mode: int) -> None:
    made(tmp_path / "keys", service)
    (tmp_path / "keys").chmod(mode)
    with pytest.raises(KeyFileError, match=f"has mode {mode:04o}.*chmod 700"):
        KeyDirectory(tmp_path / "keys", RUN, service, LEDGER)


@pytest.mark.parametrize("name", ["verdict_key.pem", "evaluation_secret", "run"])
def test_a_file_for_others_too_is_refused(tmp_path: Path, service: Path, name: str) -> None:
    made(tmp_path / "keys", service)
    (tmp_path / "keys" / name).chmod(0o640)
    with pytest.raises((KeyFileError, PermissionError), match="chmod 600"):
        KeyDirectory(tmp_path / "keys", RUN, service, LEDGER).key("verdict")


def test_somebody_elses_directory_is_refused(tmp_path: Path, service: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "keys", service)
    monkeypatch.setattr("safety.keys.directory.os.geteuid", lambda: 4711)
    with pytest.raises(KeyFileError, match="this is user 4711"):
        KeyDirectory(tmp_path / "keys", RUN, service, LEDGER)


def test_another_runs_keys_are_refused(tmp_path: Path, service: Path) -> None:
    made(tmp_path / "keys", service)
    for ledger in (None, OTHER):
        with pytest.raises(KeyFileError, match="belongs to run 'run-1', this is run 'run-2'"):
            KeyDirectory(tmp_path / "keys", "run-2", service, ledger)
    with pytest.raises(KeyFileError, match="belongs to another ledger of run 'run-1'"):
        KeyDirectory(tmp_path / "keys", RUN, service, OTHER)
    with pytest.raises(KeyFileError, match="have signed for a ledger that is gone"):
        KeyDirectory(tmp_path / "keys", RUN, service, None)


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path, service: Path) -> None:
    place = tmp_path / "ssh"
    place.mkdir(mode=0o700)
    (place / "id_ed25519").touch(0o600)
    with pytest.raises(KeyFileError, match="does not say whose keys it holds"):
        KeyDirectory(place, RUN, service, None)
    assert [path.name for path in place.iterdir()] == ["id_ed25519"]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"run_id": "run-1", "ledger": "xyz"}'])
def test_a_damaged_owner_is_refused(tmp_path: Path, service: Path, content: bytes) -> None:
    made(tmp_path / "keys", service)
    replace_file(tmp_path / "keys" / "run", content, 0o600)
    with pytest.raises(KeyFileError, match="does not say whose keys these are"):
        KeyDirectory(tmp_path / "keys", RUN, service, LEDGER)


def test_a_short_secret_is_refused(tmp_path: Path, service: Path) -> None:
    made(tmp_path / "keys", service)
    replace_file(tmp_path / "keys" / "evaluation_secret", b"short", 0o600)
    with pytest.raises(KeyFileError, match="does not have 32 bytes"):
        KeyDirectory(tmp_path / "keys", RUN, service, LEDGER)


def test_what_an_interrupted_write_left_is_removed(tmp_path: Path, service: Path) -> None:
    keys = made(tmp_path / "keys", service)
    left = keys.place / ".verdict_key.next.pem.4711"
    SigningKey.generate().save(left)
    KeyDirectory(keys.place, RUN, service, LEDGER)
    assert not left.exists()


def test_a_prepared_key_is_taken_up_or_thrown_away(tmp_path: Path, service: Path) -> None:
    keys = made(tmp_path / "keys", service)
    old = keys.key("lease").verify_key
    keys.prepare("lease")
    new = keys.prepare("lease").verify_key
    beside = keys.place / "lease_key.next.pem"
    assert stat.S_IMODE(beside.stat().st_mode) == 0o600
    assert keys.settle("lease", new).verify_key.raw == new.raw
    assert not beside.exists()
    assert keys.key("lease").verify_key.raw == new.raw
    keys.prepare("lease")
    assert keys.settle("lease", new).verify_key.raw == new.raw
    assert not beside.exists()
    with pytest.raises(KeyFileError, match=f"names {old.key_id}: restore that one"):
        keys.settle("lease", old)
