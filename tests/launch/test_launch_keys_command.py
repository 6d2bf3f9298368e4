"""`temper keys`: what is made, with which permissions, what is shown, and bad input, which is one line and status 2."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from protos.transport_certificates import read_certificates
from protos.transport_security import Security
from tests.launch.made_up_store import Ended, temper
from tests.protos.installation import answering


@pytest.fixture
def keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """An authority's directory."""
    assert temper(capsys, "keys", "init", tmp_path / "keys").status == 0
    return tmp_path / "keys"


def _shown(capsys: pytest.CaptureFixture[str], directory: Path) -> tuple[int, dict[str, dict[str, object]]]:
    done = temper(capsys, "keys", "show", directory, "--json")
    shown = [json.loads(line) for line in done.lines]
    return done.status, {str(Path(str(each["path"])).parent.name): each for each in shown}


def test_an_authority_keeps_its_key_apart_and_to_itself(keys: Path) -> None:
    modes = {
        str(path.relative_to(keys)): f"{stat.S_IMODE(path.stat().st_mode):o}"
        for path in keys.rglob("*")
    }  # fmt: skip
    assert modes == {
        "authority": "700",
        "authority/key.pem": "600",
        "authority/certificate.pem": "644",
        "issued": "700",
        "trusted.pem": "644",
        "admitted.txt": "644",
    }
    (certificate,) = read_certificates(keys / "authority" / "certificate.pem")
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"


def test_what_is_issued_can_be_used_and_is_the_owners_alone(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--directory", keys, "--host", "replay.example", "--host", "10.0.0.7", "--host", "::1")
    done = temper(capsys, "keys", "issue", "sample,append", "replay-0", *words)
    assert done.status == 0
    assert "may append, sample, serves at replay.example, 10.0.0.7, ::1" in done.out
    place = keys / "issued" / "replay-0"
    assert stat.S_IMODE((place / "key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    identity = Security(place).credentials().identity
    assert (identity.name, sorted(identity.roles)) == ("replay-0", ["append", "sample"])
    assert identity.hosts == ("replay.example", "10.0.0.7", "::1")
    assert f"{identity.fingerprint} replay-0" in (keys / "admitted.txt").read_text()
    assert not (place / "admitted.txt").exists()


def test_a_kind_of_process_has_the_roles_it_needs(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("actor", "learner", "operator"):
        assert temper(capsys, "keys", "issue", kind, f"a-{kind}", "--directory", keys).status == 0
    status, shown = _shown(capsys, keys)
    assert status == 0
    assert shown["a-actor"]["roles"] == ["append", "watch"]
    assert shown["a-learner"]["roles"] == ["offer", "read", "sample"]
    assert len(shown["a-operator"]["roles"]) == 8  # type: ignore[arg-type]
    assert {str(each["problem"]) for each in shown.values()} == {""}


def test_one_is_issued_anew_and_the_one_before_is_not_admitted(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("keys", "issue", "actor", "a-0", "--directory", keys)
    first = temper(capsys, *words)
    old = (keys / "issued" / "a-0" / "certificate.pem").read_bytes()
    refused = temper(capsys, *words)
    assert (first.status, refused.status) == (0, 2)
    assert "a-0 exists: choose another name, or issue it anew with --replace" in refused.err
    assert (keys / "issued" / "a-0" / "certificate.pem").read_bytes() == old
    assert temper(capsys, *words, "--replace").status == 0
    lines = (keys / "admitted.txt").read_text().splitlines()
    _, shown = _shown(capsys, keys)
    assert lines[1:] == [f"{shown['a-0']['fingerprint']} a-0"]
    assert (keys / "issued" / "a-0" / "certificate.pem").read_bytes() != old


def test_show_tells_what_cannot_be_used(keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("good", "open", "foreign"):
        temper(capsys, "keys", "issue", "read", name, "--directory", keys)
    (keys / "issued" / "open" / "key.pem").chmod(0o644)
    temper(capsys, "keys", "init", tmp_path / "other")
    temper(capsys, "keys", "issue", "read", "stranger", "--directory", tmp_path / "other")
    (tmp_path / "other" / "issued" / "stranger").rename(keys / "issued" / "stranger")
    status, shown = _shown(capsys, keys)
    assert status == 1
    assert [name for name, each in shown.items() if each["problem"]] == ["open", "stranger"]
    assert "signed by no authority in" in str(shown["stranger"]["problem"])
    done = temper(capsys, "keys", "show", keys)
    assert done.status == 1
    assert sum("CANNOT BE USED: " in line for line in done.lines) == 2
    assert temper(capsys, "keys", "show", keys / "issued" / "good").status == 0


def test_another_authority_is_trusted_besides(keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = keys / "authority" / "certificate.pem"
    assert temper(capsys, "keys", "init", tmp_path / "new", "--trust", old, "--days", 30).status == 0
    temper(capsys, "keys", "issue", "read", "a", "--directory", tmp_path / "new", "--days", 90)
    credentials = Security(tmp_path / "new" / "issued" / "a").credentials()
    assert len(credentials.authorities) == 2
    # Not for longer than the authority itself.
    assert credentials.identity.until_s == credentials.authorities[0].not_valid_after_utc.timestamp()


def _issue(*words: str) -> tuple[str, ...]:
    return ("keys", "issue", *words, "--directory", "KEYS")


BAD_INPUT = {
    "an authority there already": (("keys", "init", "KEYS"), "authority exists: an authority is never replaced"),
    "no such file to trust": (("keys", "init", "new", "--trust", "nothing.pem"), "nothing.pem cannot be read: No such"),
    "a file to trust that is none": (("keys", "init", "new", "--trust", "KEYS/admitted.txt"), "holds no certificate"),
    "a place that cannot be written": (("keys", "init", "KEYS/trusted.pem/x"), "cannot be written: Not a directory"),
    "days without end": (("keys", "init", "new", "--days", "1e9"), "must be above 0 and at most 36500"),
    "days that are none": (_issue("read", "x", "--days", "nan"), "must be above 0 and at most 36500"),
    "no authority": (
        ("keys", "issue", "read", "x", "--directory", "nowhere"),
        "make one with temper keys init nowhere",
    ),
    "an unknown role": (_issue("root", "x"), "'root' is no role (append, "),
    "nothing to do": (_issue("replay", "x"), "would have no role and could not serve"),
    "a name that is a path": (_issue("read", "../x"), "must be 1 to 64 of A-Z"),
    "a host that is none": (_issue("read", "x", "--host", "a b"), "neither a host's name nor an address"),
    "a host without end": (_issue("read", "x", "--host", "a" * 250 + "!"), "neither a host's name nor an address"),
    "nothing to show": (("keys", "show", "nowhere"), "holds no certificates"),
    "no subcommand": (("keys",), "Expected one of {init, issue, show, callers}"),
    "an unsafe address": (("keys", "callers", "replay.example:1"), "is on a network, and there are no certificates"),
}


@pytest.mark.parametrize("case", BAD_INPUT, ids=lambda case: case.replace(" ", "-"))
def test_bad_input(
    keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    words, said = BAD_INPUT[case]
    before = sorted(tmp_path.rglob("*"))
    done = temper(capsys, *(word.replace("KEYS", "keys") for word in words))
    _is_bad_input(done, said)
    assert sorted(tmp_path.rglob("*")) == before


def _is_bad_input(done: Ended, said: str) -> None:
    assert (done.status, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1, done.err
    assert done.err.startswith("temper: ")
    assert said in done.err


def test_an_authority_whose_key_is_damaged_or_anothers_issues_nothing(
    keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    temper(capsys, "keys", "init", tmp_path / "other")
    issue = ("keys", "issue", "read", "x", "--directory", keys)
    (keys / "authority" / "key.pem").write_bytes((tmp_path / "other" / "authority" / "key.pem").read_bytes())
    _is_bad_input(temper(capsys, *issue), "key.pem is not the key of")
    (keys / "authority" / "key.pem").chmod(0o644)
    _is_bad_input(temper(capsys, *issue), "must be for its owner alone")
    assert list((keys / "issued").iterdir()) == []


def test_callers_are_counted(socket_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(Security(), f"unix:{socket_directory / 's'}") as address:
        done = temper(capsys, "keys", "callers", address, "--json")
        assert json.loads(done.out) == dict.fromkeys(
            ("denied_calls", "unauthenticated_calls", "connections", "unauthenticated_connections"), 0
        )
        assert "denied           0 calls" in temper(capsys, "keys", "callers", address).out
    down = temper(capsys, "keys", "callers", address)
    assert (down.status, down.out) == (1, "")
