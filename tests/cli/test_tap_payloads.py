"""`mesh tap --payloads`: what it shows of a real mesh, and to whom it does not."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from typing import TYPE_CHECKING

import pytest
import trio
from click.testing import CliRunner

import mesh
from mesh.cli import main
from tests.cli.conftest import Mesh, read_line, start
from tests.cli.test_tap import taps_so_far

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVICE = """
import sys
from abc import abstractmethod
import mesh

class Accounts(mesh.Contract, name="accounts", version="1.0.0"):
    @mesh.method(tap=True)
    @abstractmethod
    async def open(self, user: str, password: str = "") -> dict[str, str]: ...

    @mesh.method
    @abstractmethod
    async def close(self, user: str) -> None: ...

class Service(Accounts):
    async def open(self, user, password=""):
        if user == "nobody":
            raise mesh.NotFound("no such user", reason="NO_USER", details={"token": password})
        return {"user": user, "token": password}

    async def close(self, user):
        pass

async def ready(client):
    await client.call("mesh", "status")
    print("ready", flush=True)

mesh.run(Service(), ready, name="accounts", gateway=sys.argv[1])
"""
CALLS = (
    ("open", {"user": "ada\x1b[31m", "password": "5up3r"}),
    ("open", {"user": "nobody", "password": "5up3r"}),
    ("close", {"user": "ada"}),
)


@pytest.fixture(scope="module", name="bank")
def make_bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A shell with a gateway that allows payloads to be shown, and the service `accounts`."""
    shell = Mesh(tmp_path_factory.mktemp("run"))
    socket = f"unix:{tmp_path_factory.mktemp('socket')}/mesh.sock"
    listen = ["--listen", socket, "--listen", "tcp:127.0.0.1:0"]
    with shell.gateway("--allow-tap-payloads", *listen) as (_, ready):
        shell.env["MESH_GATEWAY"], shell.env["TCP"] = ready["addresses"]
        with start([sys.executable, "-c", SERVICE, socket], shell.env) as process:
            assert read_line(process) == "ready\n"
            yield shell


def call(shell: Mesh) -> None:
    """Make these calls."""

    async def make() -> None:
        async with mesh.connect("shop", gateway=shell.env["MESH_GATEWAY"]) as client:
            for method, params in CALLS:
                with contextlib.suppress(mesh.NotFound):
                    await client.call("accounts", method, params)

    trio.run(make)


def test_parameters_and_answers_are_shown_below_their_calls(bank: Mesh) -> None:
    with bank.start("tap", "--payloads", "--count", "3") as process:
        assert "CALL" in read_line(process)
        call(bank)
        told, notes = process.communicate(timeout=30)
    assert (process.returncode, notes) == (0, "")
    assert "5up3r" not in told
    assert "\x1b" not in told
    assert [re.sub(r" +", " ", line).strip() for line in told.splitlines() if line[0] == " "] == [
        r'params {"user":"ada\u001b[31m","password":"[redacted]"}',
        r'result {"user":"ada\u001b[31m","token":"[redacted]"}',
        'params {"user":"nobody","password":"[redacted]"}',
        'details {"token":"[redacted]"}',
        "no payloads the contract of this method does not say tap=True",
    ]


def test_programs_are_told_the_same(bank: Mesh) -> None:
    before = taps_so_far(bank)
    with bank.start("tap", "--payloads", "--json", "--method", "open", "--count", "2") as process:
        while taps_so_far(bank) == before:
            assert process.poll() is None
        call(bank)
        told, notes = process.communicate(timeout=30)
    assert (process.returncode, notes) == (0, "")
    assert "5up3r" not in told
    ok, failed = (json.loads(line)["payloads"] for line in told.splitlines())
    assert json.loads(ok["answer"]["text"])["token"] == "[redacted]"
    assert (failed["params"]["encoding"], failed["params"]["state"]) == ("msgpack", "whole")


def test_a_gateway_that_does_not_allow_it_says_whose_that_is(served: Mesh) -> None:
    result = served("tap", "--payloads")
    assert (result.returncode, result.stdout) == (1, "")
    assert "whoever operates it can start it with" in result.stderr
    assert "MESH_ALLOW_TAP_PAYLOADS" in result.stderr


def test_over_tcp_they_are_refused(bank: Mesh) -> None:
    result = bank("tap", "--payloads", "--gateway", bank.env["TCP"])
    assert (result.returncode, result.stdout) == (1, "")
    assert "shown to the gateway's own user" in result.stderr
    assert "has no user that the system vouches for" in result.stderr


def test_it_is_a_setting_like_the_others(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text("allow_tap_payloads = true\n")
    show = ["gateway", "--print-config", "--json"]

    def value(*arguments: str, **variables: str) -> tuple[bool, str]:
        result = CliRunner().invoke(main, [*show, *arguments], env=variables)
        told = json.loads(result.stdout)["allow_tap_payloads"]
        return told["value"], told["source"]

    assert value() == (False, "default")
    assert value("--config", str(file)) == (True, "file")
    assert value("--config", str(file), MESH_ALLOW_TAP_PAYLOADS="off") == (False, "variable")
    assert value("--allow-tap-payloads", MESH_ALLOW_TAP_PAYLOADS="no") == (True, "argument")
