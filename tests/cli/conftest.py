"""Real processes for the tests of the command: each is waited for by its first line."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SERVICE = """
import sys
import mesh

def users(client):
    @client.method()
    async def get(user: str) -> dict[str, str]:
        if user == "nobody":
            raise mesh.NotFound("there is no user 'nobody'", reason="USER_NOT_FOUND",
                                details={"user": user})
        return {"user": user, "name": user.title()}

    @client.method()
    async def nested(user: str) -> object:
        return await client.call("users", "get", user)

    @client.method()
    async def many(calls: int) -> None:
        for _ in range(calls):
            await client.call("users", "get", "ada")

    @client.method()
    async def bug() -> None:
        raise ZeroDivisionError("by \\x1b[31mzero\\x1b[0m")

    @client.method()
    async def wait() -> None:
        import trio
        print("waiting", flush=True)
        await trio.sleep_forever()

async def ready(client):
    await client.call("mesh", "status")
    print("ready", flush=True)

mesh.run(users, ready, name="users", gateway=sys.argv[1])
"""


class Mesh:
    """A shell: it runs the command, with an environment of its own."""

    def __init__(self, folder: Path) -> None:
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in {"NO_COLOR", "FORCE_COLOR", "COLUMNS"} and not name.startswith("MESH_")
        }
        self.env = {**kept, "XDG_RUNTIME_DIR": str(folder), "TERM": "xterm-256color"}

    def __call__(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "mesh.cli", *arguments],
            env=self.env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @contextlib.contextmanager
    def start(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Start the command; it is killed at the block's end if it has not ended by then."""
        with start([sys.executable, "-m", "mesh.cli", *arguments], self.env) as process:
            yield process

    @contextlib.contextmanager
    def gateway(self, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
        """Have a gateway; yields it and what it announced."""
        with self.start("gateway", "--json", "--admin", "127.0.0.1:0", *arguments) as process:
            yield process, json.loads(read_line(process))

    @contextlib.contextmanager
    def service(self, address: str) -> Iterator[subprocess.Popen[str]]:
        """Have the service `users`, registered."""
        with start([sys.executable, "-c", SERVICE, address], self.env) as process:
            assert read_line(process) == "ready\n"
            yield process


@contextlib.contextmanager
def start(command: list[str], env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Start a process with pipes."""
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_line(process: subprocess.Popen[str]) -> str:
    """The next line of a process's standard output; the error output where it has ended."""
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    assert line, process.stderr.read()
    return line


@pytest.fixture(name="shell")
def make_shell(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    """A shell whose default gateway is its own: its socket is in a new directory."""
    return Mesh(tmp_path_factory.mktemp("run"))


@pytest.fixture(name="next_line")
def get_next_line() -> Callable[[subprocess.Popen[str]], str]:
    """The function that reads a process's next line."""
    return read_line


@pytest.fixture(scope="module", name="served")
def make_served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A shell with a gateway at its default address, and the service `users`."""
    shell = Mesh(tmp_path_factory.mktemp("run"))
    with shell.gateway() as (_, ready):
        shell.env["MESH_GATEWAY"] = ready["addresses"][0]
        with shell.service(ready["addresses"][0]):
            yield shell
