"""`mesh dashboards rules` and `runbook`, as processes, with contracts in files and at a gateway."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import mesh.testing
from mesh.cli.dashboards.rules import _promises, _schemas
from mesh_dashboards.burning import Promise
from mesh_dashboards.rules import rules, to_yaml
from mesh_dashboards.runbooks import runbook, runbooks
from tests.cli.conftest import Mesh, read_line, start
from tests.cli.terminals import terminal
from tests.contracts.shop import Orders

CONTRACTS = """
from abc import abstractmethod
import mesh

class Users(mesh.Contract, name="users", version="1.0.0"):
    @mesh.method(slo=mesh.slo(within=0.2, target=0.95))
    @abstractmethod
    async def get(self) -> int: ...

    @mesh.method
    @abstractmethod
    async def put(self) -> int: ...

class Orders(mesh.Contract, name="orders", version="1.0.0"):
    @mesh.method(slo=0.5)
    @abstractmethod
    async def place(self) -> int: ...

nothing = None
"""
OTHERS = """
from abc import abstractmethod
import mesh
print("hello")

class Users(mesh.Contract, name="users", version="2.0.0"):
    @mesh.method(slo=mesh.slo(within=0.25, success=None))
    @abstractmethod
    async def get(self) -> int: ...
"""
FAULTY = {
    "leaves": ("raise SystemExit(0)", "SystemExit: 0 ({path}, line 1)"),
    "divides": ("\n1 / 0", "ZeroDivisionError: division by zero ({path}, line 2)"),
    "no_python": ("x = 1\ndef", "SyntaxError: invalid syntax (no_python.py, line 2)"),
    "deeper": ("import no_such", "ModuleNotFoundError: No module named 'no_such' ({path}, line 1)"),
    "odd": (
        "class Odd(BaseException): pass\nraise Odd('is\\nit')",
        "odd.Odd: is\\nit ({path}, line 2)",
    ),
}
SERVICE = """
import sys
import mesh
from contracts import Orders, Users

class Service(Users, Orders):
    async def get(self): return 1
    async def put(self): return 2
    async def place(self): return 3

async def ready(client):
    await client.call("mesh", "status")
    print("ready", flush=True)

mesh.run(Service(), ready, gateway=sys.argv[1])
"""
PROMISES = (
    Promise("users", "get", success=0.999, within=0.2, target=0.95),
    Promise("orders", "place", success=0.999, within=0.5, target=0.99),
)
WARNING = (
    "warning: users.get: its 0.2 s are no bucket of mesh_call_duration_seconds: calls count as "
    "slow above the next one, 0.25 s\n"
)


@pytest.fixture(name="folder")
def make_folder(tmp_path: Path) -> Path:
    (tmp_path / "contracts.py").write_text(CONTRACTS)
    return tmp_path


def dashboards(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the installed command, which has no current directory on its path by itself."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("mesh")), "dashboards", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_rules_of_contracts_that_are_named(folder: Path) -> None:
    found = dashboards("rules", "contracts:Users", "contracts:Orders", folder=folder)
    assert (found.returncode, found.stderr) == (0, WARNING)
    assert found.stdout == to_yaml(rules(PROMISES))


def test_rules_of_the_contracts_at_a_gateway(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shell = Mesh(tmp_path_factory.mktemp("run"))
    with shell.gateway() as (_, ready):
        address = ready["addresses"][0]
        shell.env["PYTHONPATH"] = str(folder)
        with start([sys.executable, "-c", SERVICE, address], shell.env) as process:
            assert read_line(process) == "ready\n"
            found = dashboards("rules", "--gateway", address, "--json", "--job", "gateways")
    assert (found.returncode, found.stderr) == (0, WARNING)
    told = json.loads(found.stdout)
    objectives = {
        (rule["labels"]["job"], rule["labels"]["rpc_service"], rule["labels"]["rpc_method"])
        for group in told["groups"]
        for rule in group["rules"]
        if rule.get("record") == "mesh:slo_objective:ratio"
    }
    assert objectives == {("gateways", "users", "get"), ("gateways", "orders", "place")}
    assert 'job=\\"mesh-gateway\\"' not in found.stdout


def test_rules_link_to_where_the_runbooks_are() -> None:
    found = dashboards("rules", "--runbooks", "https://books.example/mesh")
    links = [
        rule["annotations"]["runbook_url"]
        for group in yaml.safe_load(found.stdout)["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    assert "https://books.example/mesh/MeshGatewayDown.md" in links


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["contracts"], "'contracts' is no MODULE:CLASS, such as shop.contracts:Orders"),
        (["nowhere:Users"], "nowhere:Users: ModuleNotFoundError: No module named 'nowhere'"),
        ([".contracts:Users"], "'.contracts:Users' is no MODULE:CLASS, such as shop.contracts"),
        (["--job", "\udcff"], r"--job '\udcff' is no UTF-8"),
        (["--runbooks", "https://\udcff"], r"--runbooks 'https://\udcff' is no UTF-8"),
        (["contracts:User"], "contracts:User: module 'contracts' has no attribute 'User'"),
        (["contracts:nothing"], "contracts:nothing: None is no contract: a subclass of"),
        (["contracts:Users", "--gateway", "unix:/x"], "name contracts or give --gateway; not both"),
    ],
)
def test_wrong_usage_is_told(folder: Path, arguments: list[str], complaint: str) -> None:
    found = dashboards("rules", *arguments, folder=folder)
    assert (found.returncode, found.stdout) == (2, "")
    assert complaint in found.stderr


@pytest.mark.parametrize("module", FAULTY)
def test_a_module_that_cannot_be_imported_is_told_with_kind_and_place(
    tmp_path: Path, module: str
) -> None:
    text, complaint = FAULTY[module]
    path = tmp_path / f"{module}.py"
    path.write_text(text)
    found = dashboards("rules", f"{module}:Users", folder=tmp_path)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == f"mesh: {module}:Users: {complaint.format(path=path)}\n"


def test_contracts_that_differ_are_told_and_what_modules_print_is_no_rule(folder: Path) -> None:
    (folder / "others.py").write_text(OTHERS)
    found = dashboards("rules", "others:Users", "contracts:Users", folder=folder)
    promise = Promise("users", "get", success=None, within=0.25, target=0.99)
    assert (found.returncode, found.stdout) == (0, to_yaml(rules([promise])))
    assert found.stderr == (
        "hello\nwarning: users.get: two contracts promise different things of it: slo(within=0.25, "
        "target=0.99, success=None) counts, slo(within=0.2, target=0.95, success=0.999) does not\n"
    )


@pytest.mark.trio
async def test_a_service_that_goes_meanwhile_is_left_out(
    local_mesh: mesh.testing.LocalMesh,
) -> None:
    """Its name was listed, and is served no more when it is asked about."""
    await local_mesh.serve(mesh.testing.mock(Orders))
    (found,) = await _schemas(local_mesh.client, ["gone", "orders"])
    assert (found["name"], "place" in found["methods"]) == ("orders", True)


@pytest.mark.parametrize(
    ("slo", "promise"),
    [
        ({"within": 1, "target": 0.9, "success": None}, Promise("a", "get", None, 1.0, 0.9)),
        ({"success": 0.9}, Promise("a", "get", 0.9, None, 0.99)),
        (0.5, Promise("a", "get", 0.999, 0.5, 0.99)),  # as older peers tell it
        ({"within": -1}, None),
        ({"target": "x"}, None),
        ({"success": 2}, None),
        ({"success": None}, None),
        ("soon", None),
        ([], None),
    ],
)
def test_schemas_at_a_gateway_may_say_anything(
    slo: Any, promise: Promise | None, capsys: pytest.CaptureFixture[str]
) -> None:
    found = list(_promises([{"name": "a", "methods": {"get": {"slo": slo}, "put": 1}}]))
    assert found == ([promise] if promise else [])
    assert ("a.get: left out: " in capsys.readouterr().err) == (promise is None)


@pytest.mark.parametrize("schema", [{}, {"methods": []}, {"methods": {'x"} or up': {"slo": 1}}}])
def test_schemas_without_methods_promise_nothing(schema: dict[str, Any]) -> None:
    assert list(_promises([{"name": "a", **schema}])) == []


def test_runbooks_are_listed_and_printed_as_they_were_written() -> None:
    assert dashboards("runbook").stdout.splitlines() == runbooks()
    assert dashboards("runbook", "MeshGatewayDown").stdout == runbook("MeshGatewayDown")
    told = json.loads(dashboards("runbook", "MeshGatewayDown", "--json").stdout)
    assert told == {"name": "MeshGatewayDown", "text": runbook("MeshGatewayDown")}
    assert json.loads(dashboards("runbook", "--json").stdout) == runbooks()


def test_a_runbook_that_does_not_exist_has_a_nearest_one() -> None:
    found = dashboards("runbook", "MeshGatewayDwn")
    assert (found.returncode, found.stdout) == (2, "")
    assert "there is no runbook 'MeshGatewayDwn'; did you mean MeshGatewayDown?" in found.stderr


def test_a_runbook_is_laid_out_on_a_terminal(tmp_path: Path) -> None:
    arguments = ("dashboards", "runbook", "MeshGatewayDown")
    with terminal(Mesh(tmp_path).env, *arguments, width=80, height=70) as screen:
        lines = screen.until(lambda lines: any("How to look" in line for line in lines))
    assert not any(line.startswith("#") for line in lines)
