"""The README is true: its services run when pasted, and its rooms exist."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import mesh
from tests.contracts.test_typing import mypy, pyright

if TYPE_CHECKING:
    from tests.contracts.test_typing import Check

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def _block(after: str) -> str:
    match = re.search(re.escape(after) + r"\n\n```python\n(.*?)```", README, re.DOTALL)
    assert match is not None, f"no Python block follows {after!r}"
    return match[1]


def test_the_services_of_the_readme_run_when_pasted(tmp_path: Path) -> None:
    """Gateway, services and caller as processes, in the order that suits them least."""
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    environment.pop("MESH_GATEWAY", None)
    files = {
        "users.py": _block("`users.py`:"),
        "orders.py": _block("`orders.py`:"),
        "shop.py": _block("From your own program:"),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert sum(len(files[name].strip().splitlines()) for name in ("users.py", "orders.py")) <= 22

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
        )

    running = [start("orders.py"), start("users.py")]
    try:
        gateway = start("-m", "mesh.cli", "gateway", "--admin", "127.0.0.1:0", "--json")
        running.append(gateway)
        assert gateway.stdout is not None
        gateway.stdout.readline()
        shop = subprocess.run(
            [sys.executable, "shop.py"],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert "'for': 'Ada'" in shop.stdout
        called = subprocess.run(
            [sys.executable, "-m", "mesh.cli", "call", "orders", "place", '{"user_id": "123"}'],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        answer = json.loads(called.stdout)
        assert answer["for"] == "Ada"
        assert answer["chain"] == ["orders.place"]
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            assert process.wait(20) == 0
            if process.stdout is not None:
                process.stdout.close()


def test_the_contract_of_the_readme_its_service_and_its_caller_run(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    environment.pop("MESH_GATEWAY", None)
    for name in ("contracts.py", "service.py", "caller.py"):
        text = _block(f"`{name}`:")
        assert len([line for line in text.splitlines() if line]) <= 15
        (tmp_path / name).write_text(text)

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, *arguments], env=environment, cwd=tmp_path)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    running = [start("-m", "mesh.cli", "gateway", "--admin", "none"), start("service.py")]
    try:
        # The command waits for both to be up for longer than the contract's two seconds.
        call = ["call", "users", "get", '{"user_id": "123"}', "--timeout", "30"]
        assert json.loads(run("-m", "mesh.cli", *call).stdout) == {"name": "Ada"}
        called = run("caller.py")
        assert (called.stdout, called.stderr) == ("Hello Ada\nThere is no 124\n", "")
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            assert process.wait(20) == 0


def test_the_tests_of_the_readme_pass(tmp_path: Path) -> None:
    """As a user runs them, who has pytest and pytest-trio beside the mesh."""
    for name in ("contracts.py", "service.py", "test_service.py", "test_greeting.py"):
        text = _block(f"`{name}`:")
        assert len([line for line in text.splitlines() if line]) <= 15
        (tmp_path / name).write_text(text)
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert tested.stdout.splitlines()[-1].startswith("2 passed in "), tested.stdout


@pytest.mark.parametrize("check", [mypy, pyright])
def test_contract_service_caller_and_tests_of_the_readme_are_typed(
    check: Check, tmp_path: Path
) -> None:
    names = ("contracts.py", "service.py", "caller.py", "test_service.py", "test_greeting.py")
    for name in names:
        (tmp_path / name).write_text(_block(f"`{name}`:"))
    assert check(tmp_path) == {}


def test_every_room_that_the_readme_names_exists() -> None:
    rooms = README.split("## Where each thing lives")[1].split("##")[0]
    paths = re.findall(r"`((?:mesh|telemetry|tests)/[\w/.]*)`", rooms)
    assert len(paths) > 15
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert missing == []
    named = set(re.findall(r"`(\w+)`", rooms))
    gateway = {path.stem for path in (ROOT / "mesh/gateway").glob("[a-z]*.py")}
    hidden = {"core", "forwarding"}
    assert gateway - named <= hidden, "rooms of the gateway that the README leaves out"


def test_the_readme_names_the_metrics_that_exist() -> None:
    from mesh_telemetry import FAMILIES

    table = README.split("## Metrics")[1].split("##")[0]
    named = set(re.findall(r"`(mesh_[a-z_]+)`", table))
    assert named
    assert named <= set(FAMILIES)


def test_the_readme_tells_what_every_method_of_the_gateway_s_own_service_does() -> None:
    from mesh.gateway.builtin import METHODS

    table = README.split("The service `mesh` is the gateway's own")[1].split("\n\n")[1]
    named = [name for row in table.splitlines()[2:] for name in row.split("|")[1].split(", ")]
    assert sorted(name.strip(" `") for name in named) == sorted(METHODS)


async def test_the_traces_of_a_program_s_own_gateway_are_read_as_the_readme_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    program = "async def read(gateway):\n" + textwrap.indent(
        _block("In the gateway's own program:"), "    "
    )
    scope: dict[str, Any] = {}
    exec(program, scope)  # noqa: S102 - the README's own lines
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("users", gateway=gateway) as users,
    ):

        @users.method()
        async def get() -> None:
            raise mesh.NotFound("there is no such user")

        with mesh.traced(), pytest.raises(mesh.NotFound):
            await users.call("users", "get")
        with trio.fail_after(10):
            while not [one for one in await gateway.traces.find() if one.complete]:
                await trio.testing.wait_all_tasks_blocked(0.01)
        await scope["read"](gateway)
    found, rows, *drawing, trace = capsys.readouterr().out.splitlines()
    assert found.endswith(" users forced")
    assert "(0, 'users', 'users.get', " in rows
    assert drawing[0].startswith("users.get by users  not_found after ")
    assert trace == "4 True []"


def test_the_lines_for_systemd_install_what_the_units_run() -> None:
    lines = README.split("## Under systemd")[1].split("```sh\n")[1].split("```")[0]
    unit = (ROOT / "deploy/systemd/mesh-gateway.service").read_text()
    start = re.search(r"^ExecStart=(\S+)/bin/mesh gateway --config (\S+)$", unit, re.MULTILINE)
    assert start is not None
    folder, file = start.groups()
    assert f"python3 -m venv {folder} " in lines
    assert f"{folder}/bin/pip install ." in lines
    assert f"touch {file}\n" in lines
    sock = (ROOT / "deploy/systemd/mesh-gateway.socket").read_text()
    for name, says in (("ListenStream", "MESH_GATEWAY=unix:{}"), ("SocketGroup", "--system {} ")):
        value = re.search(rf"^{name}=(\S+)$", sock, re.MULTILINE)
        assert value is not None
        assert says.format(value[1]) in lines
