"""Where a process's certificates come from, and that no command listens or calls over a network without."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.config import RunConfig
from launch.config_file import read_config, write_config
from launch.errors import BadInput
from launch.preflight import check
from launch.recipes import make_recipe
from launch.securing import secure_process
from launch.transport import TransportConfig
from protos import transport_security
from protos.transport import AddressError
from protos.transport_errors import CertificateError
from replay.settings import SettingError
from tests.launch.made_up_store import temper
from tests.protos.installation import Installation, process_is

FAR = "192.0.2.1:1"


@pytest.fixture(autouse=True)
def process_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TEMPER_CERTIFICATES", "")
    monkeypatch.delenv("TEMPER_INSECURE_NETWORK", raising=False)
    with process_is(transport_security.current()):
        yield


def test_the_command_line_counts_before_the_environment_and_this_before_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation = Installation(tmp_path / "keys")
    flag, environment, config = (installation.issue(name, "read") for name in ("flag", "environment", "config"))
    settings = TransportConfig(certificates=str(config))

    def used(given: str = "") -> Path | None:
        secure_process(settings, given)
        return transport_security.current().certificates

    assert used() == config
    assert os.environ["TEMPER_CERTIFICATES"] == str(config), "what it starts has them too"
    monkeypatch.setenv("TEMPER_CERTIFICATES", str(environment))
    assert used() == environment
    assert used(str(flag)) == flag
    monkeypatch.delenv("TEMPER_CERTIFICATES")
    secure_process(TransportConfig())
    assert transport_security.current().certificates is None


def test_files_that_cannot_be_used_are_found_at_the_start(tmp_path: Path) -> None:
    before = transport_security.current()
    with pytest.raises(CertificateError, match="cannot be read"):
        secure_process(TransportConfig(), str(tmp_path))
    assert transport_security.current() is before


def test_a_network_is_refused_at_the_start_unless_it_is_declared_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    for addresses in ((FAR,), ("unix:/a", f"127.0.0.1:1,{FAR}")):
        with pytest.raises(AddressError, match="is on a network"):
            secure_process(TransportConfig(), "", *addresses)
        secure_process(TransportConfig(insecure_network=True), "", *addresses)
        monkeypatch.setenv("TEMPER_INSECURE_NETWORK", "1")
        secure_process(TransportConfig(), "", *addresses)
        monkeypatch.delenv("TEMPER_INSECURE_NETWORK")


COMMON = ("--config", "config.toml", "--run-id", "r")
COMMANDS = {
    "replay": ("replay", "serve", "--config", "config.toml", "--directory", "d", "--listen", FAR),
    "safety": ("safety", "serve", *COMMON, "--directory", "d", "--listen", "unix:/s", "--replay", FAR),
    "learner": (
        *("learner", *COMMON, "--run-dir", "d", "--trust", "k"),
        *("--replay", "unix:/r", "--safety", FAR, "--listen", "unix:/p"),
    ),
    "actor": ("actor", *COMMON, "--trust", "k", "--replay", "unix:/r", "--policy", FAR),
    "inference": ("policy", "serve", "--run-id", "r", "--trust", "k", "--policy", FAR, "--listen", "unix:/i"),
    "auditor": ("replay", "auditor", "--config", "config.toml", "--replay", FAR),
    "stats": ("replay", "stats", FAR),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_refuses_a_plain_network_and_takes_certificates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_config(make_recipe("catch"), tmp_path / "config.toml")
    done = temper(capsys, *COMMANDS[name])
    assert (done.status, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert f"{FAR} is on a network" in done.err
    if name != "stats":
        done = temper(capsys, *COMMANDS[name], "--certificates", "nowhere")
        assert (done.status, len(done.err.splitlines())) == (2, 1)
        assert "nowhere/key.pem cannot be read" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml"]


def test_the_settings_are_written_and_read_back(tmp_path: Path) -> None:
    config = RunConfig("catch", transport=TransportConfig("/etc/c", ("read", "watch"), insecure_network=True))
    write_config(config, tmp_path / "config.toml")
    assert read_config(tmp_path / "config.toml").transport == config.transport
    with pytest.raises(SettingError, match=r"transport.local_roles = \('root',\) is out of range"):
        write_config(RunConfig("catch", transport=TransportConfig(local_roles=("root",))), tmp_path / "config.toml")
        read_config(tmp_path / "config.toml")


def test_a_run_on_one_machine_needs_every_local_role() -> None:
    config = RunConfig("catch", transport=TransportConfig(local_roles=("append", "sample")))
    with pytest.raises(BadInput, match="local_roles lacks administer, evaluate, offer, read, revoke, watch"):
        check(config)
