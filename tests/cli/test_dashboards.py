"""`mesh dashboards`: what it writes, what it tells Grafana, and what it says when that fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner, Result

import mesh
from mesh.cli import main
from mesh_dashboards import shipped
from mesh_dashboards.runbooks import runbooks
from tests.certificates import Authority
from tests.cli.grafana import TOKEN, Grafana

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.conftest import Mesh

ROOT = Path(__file__).resolve().parents[2]
UIDS = ["mesh-gateway", "mesh-objectives", "mesh-overview", "mesh-service"]


def push(token: str, *arguments: str) -> Result:
    """The command within this process."""
    environment = {"GRAFANA_TOKEN": token}
    return CliRunner().invoke(main, ["dashboards", "push", *arguments], env=environment)


@pytest.fixture(name="grafana")
def have_grafana() -> Iterator[Grafana]:
    made = Grafana()
    with made.running():
        yield made


def admin_of(board: dict[str, Any]) -> tuple[str, str]:
    found = next(one for one in board["templating"]["list"] if one["name"] == "admin")
    return found["query"], found["current"]["value"]


def test_export_writes_what_is_shipped(shell: Mesh, tmp_path: Path) -> None:
    ran = shell("dashboards", "export", str(tmp_path / "new"), "--json")
    assert (ran.returncode, ran.stderr) == (0, "")
    folder = tmp_path / "new"
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert set(json.loads(ran.stdout)["files"]) == files
    assert {f"dashboards/{uid}.json" for uid in UIDS} <= files
    for uid in UIDS:
        board = json.loads((folder / f"dashboards/{uid}.json").read_text())
        assert board == shipped.boards(traces=None)[uid]
    rules = (folder / "rules/mesh.rules.yml").read_text()
    assert rules == (ROOT / "dashboards/mesh_dashboards/shipped/mesh.rules.yml").read_text()
    pages = {f"{name}.md" for name in runbooks()}
    assert {file.name for file in (folder / "runbooks").iterdir()} == pages


def test_export_says_where_runbooks_are(shell: Mesh, tmp_path: Path) -> None:
    url = "https://pages.example/runbooks"
    assert shell("dashboards", "export", str(tmp_path), "--runbooks", url).returncode == 0
    told = yaml.safe_load((tmp_path / "rules/mesh.rules.yml").read_text())
    alerts = [rule for group in told["groups"] for rule in group["rules"] if "alert" in rule]
    assert alerts
    for alert in alerts:
        page = alert["annotations"]["runbook_url"].removeprefix(f"{url}/")
        assert (tmp_path / "runbooks" / page).exists()


def test_export_provisions_grafana(shell: Mesh, tmp_path: Path) -> None:
    ran = shell(
        *("dashboards", "export", str(tmp_path), "--path", "/srv/boards"),
        *("--prometheus", "http://prometheus:9090", "--tempo", "http://tempo:3200"),
        *("--admin", "https://mesh.example/admin/"),
    )
    assert ran.stdout.splitlines()[0] == str(tmp_path / "dashboards/mesh-gateway.json")
    provisioning = tmp_path / "provisioning"
    ((provider,),) = (
        yaml.safe_load((provisioning / "dashboards/mesh.yaml").read_text())["providers"],
    )
    assert provider["options"] == {"path": "/srv/boards"}
    sources = yaml.safe_load((provisioning / "datasources/mesh.yaml").read_text())["datasources"]
    # Rates over less than two scrapes are empty: Grafana takes four of these at least.
    assert sources[0]["jsonData"]["timeInterval"] == "15s"
    assert [(one["uid"], one["type"], one["url"]) for one in sources] == [
        ("mesh-prometheus", "prometheus", "http://prometheus:9090"),
        ("mesh-traces", "tempo", "http://tempo:3200"),
    ]
    # Exemplars lead to both; Grafana reads $$ as a dollar sign, and not as a variable of its own.
    assert sources[0]["jsonData"]["exemplarTraceIdDestinations"] == [
        {"name": "trace_id", "datasourceUid": "mesh-traces"},
        {
            "name": "trace_id",
            "url": "https://mesh.example/admin/api/traces/$${__value.raw}?format=text",
            "urlDisplayLabel": "Trace at the gateway",
        },
    ]
    board = json.loads((tmp_path / "dashboards/mesh-overview.json").read_text())
    assert admin_of(board) == ("https://mesh.example/admin",) * 2


def test_without_tempo_exemplars_lead_to_the_gateway_alone(shell: Mesh, tmp_path: Path) -> None:
    assert shell("dashboards", "export", str(tmp_path)).returncode == 0
    told = yaml.safe_load((tmp_path / "provisioning/datasources/mesh.yaml").read_text())
    (source,) = told["datasources"]
    (destination,) = source["jsonData"]["exemplarTraceIdDestinations"]
    assert destination["url"].startswith("http://127.0.0.1:9464/api/traces/")
    provider = yaml.safe_load((tmp_path / "provisioning/dashboards/mesh.yaml").read_text())
    assert provider["providers"][0]["options"]["path"] == str(tmp_path / "dashboards")


def test_what_looks_like_a_variable_stays_as_it_is_written(shell: Mesh, tmp_path: Path) -> None:
    """Grafana would put what its environment has in for a name behind one dollar sign."""
    told = ("--path", "/srv/$HOME", "--prometheus", "http://$USER@p:9090", "--tempo", "http://t/$1")
    assert shell("dashboards", "export", str(tmp_path), *told).returncode == 0
    provisioning = tmp_path / "provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards/mesh.yaml").read_text())["providers"]
    assert provider["options"]["path"] == "/srv/$$HOME"
    sources = yaml.safe_load((provisioning / "datasources/mesh.yaml").read_text())["datasources"]
    assert [one["url"] for one in sources] == ["http://$$USER@p:9090", "http://t/$$1"]


@pytest.mark.parametrize("uid", [uid for uid in UIDS if uid != "mesh-gateway"])
def test_links_to_tempo_are_where_tempo_is(uid: str) -> None:
    within, without = (json.dumps(shipped.boards(traces=traces)[uid]) for traces in ("tempo", None))
    assert "/explore?" in within
    assert "mesh-traces" not in within
    assert not any(trace in without for trace in ("/explore?", "traces}", "mesh-traces"))
    assert "Traces that the gateway keeps" in without


def test_push_takes_the_data_source_of_traces_and_the_admin_address(
    shell: Mesh, grafana: Grafana
) -> None:
    shell.env["GRAFANA_TOKEN"] = TOKEN
    options = ("--tempo", "my-tempo", "--admin", "http://mesh.example/")
    assert shell("dashboards", "push", grafana.url, *options).returncode == 0
    board = grafana.dashboards["mesh-service"]["dashboard"]
    assert board == {
        **shipped.boards("http://mesh.example", "my-tempo")["mesh-service"],
        "id": None,
    }
    assert admin_of(board)[0] == "http://mesh.example"


def test_push_finds_its_folder_among_many_and_within_others(grafana: Grafana) -> None:
    grafana.folders = {f"other-{number}": f"Mesh {number}" for number in range(1500)}
    grafana.folders |= {"deep": "Mesh"}
    grafana.inside = {"deep": "other-3"}
    assert push(TOKEN, grafana.url).exit_code == 0
    assert {one["folderUid"] for one in grafana.dashboards.values()} == {"deep"}

    grafana.folders |= {"deeper": "Mesh"}
    grafana.inside |= {"deeper": "other-4"}
    ran = push(TOKEN, grafana.url)
    assert ran.exit_code == 1
    assert "2 folders 'Mesh' within others" in ran.stderr

    grafana.folders |= {"top": "Mesh"}
    assert push(TOKEN, grafana.url).exit_code == 0
    assert {one["folderUid"] for one in grafana.dashboards.values()} == {"top"}


def test_push_stores_every_dashboard_and_again(
    shell: Mesh, grafana: Grafana, tmp_path: Path
) -> None:
    shell.env["GRAFANA_TOKEN"] = TOKEN
    ran = shell("dashboards", "push", f"{grafana.url}/")
    assert (ran.returncode, ran.stderr) == (0, "")
    root = grafana.url.removesuffix("/grafana")
    assert ran.stdout.splitlines()[0] == f"{root}/grafana/d/mesh-gateway/mesh-gateway"
    assert grafana.folders == {"folder-0": "Mesh"}
    assert sorted(grafana.dashboards) == UIDS
    for uid, stored in grafana.dashboards.items():
        assert stored == {
            "dashboard": {**shipped.boards(traces=None)[uid], "id": None},
            "folderUid": "folder-0",
            "message": f"mesh {mesh.__version__}",
            "overwrite": True,
        }

    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    del shell.env["GRAFANA_TOKEN"]
    options = ("--token-file", str(token), "--admin", "https://mesh.example", "--json")
    again = json.loads(shell("dashboards", "push", grafana.url, *options).stdout)
    assert again["folder"] == {"title": "Mesh", "uid": "folder-0"}
    assert [(one["uid"], one["version"]) for one in again["dashboards"]] == [
        (uid, 2) for uid in UIDS
    ]
    assert admin_of(grafana.dashboards["mesh-service"]["dashboard"])[0] == "https://mesh.example"
    ran = shell("dashboards", "push", grafana.url, "--folder", "Other", *options)
    assert json.loads(ran.stdout)["folder"]["uid"] == "folder-1"


def test_a_password_for_the_same_host_does_not_take_the_token_s_place(
    shell: Mesh, grafana: Grafana, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login ada password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    shell.env |= {"HOME": str(tmp_path), "GRAFANA_TOKEN": TOKEN}
    assert shell("dashboards", "push", grafana.url).returncode == 0


@pytest.mark.parametrize(
    ("answer", "complaint", "advice"),
    [
        (
            (401, {}, b'{"message": "Invalid API key"}'),
            "Grafana answers GET /api/search with 401: Invalid API key",
            "Make a service account's token in Grafana",
        ),
        (
            (403, {}, b'{"message": "You\'ll need additional permissions"}'),
            "with 403: You'll need additional permissions",
            "needs the role Editor",
        ),
        ((404, {}, b"<html>"), "with 404: Not Found", "Is it the address of a Grafana"),
        (
            (412, {}, b'{"message": "The dashboard has been changed by someone else"}'),
            "with 412: The dashboard has been changed by someone else",
            "another --folder",
        ),
        (
            (409, {}, b'{"message": "a folder with the same name already exists"}'),
            "with 409: a folder with the same name already exists",
            "another --folder",
        ),
        (
            (400, {}, b'{"message": "Cannot save provisioned dashboard"}'),
            "with 400: Cannot save provisioned dashboard",
            "It comes from files, which `mesh dashboards export` writes",
        ),
        ((200, {}, b"{}"), "GET /api/search: the answer is not as Grafana's", ""),
        ((200, {}, b"[1]"), "GET /api/search: the answer is not as Grafana's", ""),
        ((200, {}, b"[]"), "POST /api/folders: the answer is not as Grafana's", ""),
        (
            (200, {}, b'[{"title": "Mesh", "uid": "m"}]'),
            "POST /api/dashboards/db: the answer is not as Grafana's",
            "",
        ),
        ((500, {}, b"{}"), "with 500: Internal Server Error", ""),
        ((200, {}, b"<html>"), "the answer is no JSON, so this is no Grafana", ""),
        (
            (302, {"Location": "https://sso.example/login"}, b""),
            "moved to https://sso.example/login; give that address",
            "",
        ),
    ],
)
def test_push_tells_what_grafana_says_and_what_to_do(
    grafana: Grafana, answer: tuple[int, dict[str, str], bytes], complaint: str, advice: str
) -> None:
    grafana.answer = answer
    ran = push(TOKEN, grafana.url)
    assert (ran.exit_code, ran.stdout) == (1, "")
    first, *rest = ran.stderr.splitlines()
    assert first.startswith("mesh: ")
    assert complaint in first
    assert TOKEN not in ran.stderr
    assert advice in "".join(rest)
    assert bool(advice) == bool(rest)


@pytest.mark.parametrize(
    ("token", "arguments", "status", "complaint"),
    [
        ("", ["http://127.0.0.1:1"], 2, "GRAFANA_TOKEN is not set"),
        ("two\nlines", ["http://127.0.0.1:1"], 2, "characters that no token has"),
        (TOKEN, ["127.0.0.1:3000"], 2, "'127.0.0.1:3000' is no address of a Grafana"),
        (TOKEN, ["http://127.0.0.1:1"], 1, "no answer from Grafana at http://127.0.0.1:1: "),
        (TOKEN, ["http://127.0.0.1:1", "--token-file", os.devnull], 2, f"{os.devnull} is empty"),
    ],
)
def test_push_says_what_is_wrong_before_grafana_is_asked(
    token: str, arguments: list[str], status: int, complaint: str
) -> None:
    ran = push(token, *arguments)
    assert (ran.exit_code, ran.stdout) == (status, "")
    assert complaint in ran.stderr


def test_push_says_which_token_file_is_no_text(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_bytes(b"\xff\xfe")
    ran = push("", "http://127.0.0.1:1", "--token-file", str(token))
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert f"{token} cannot be read: " in ran.stderr


def test_push_says_how_to_trust_an_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path / "authority")
    files = authority.issue("127.0.0.1")
    grafana = Grafana(files)
    with grafana.running():
        ran = push(TOKEN, grafana.url)
        assert ran.exit_code == 1
        assert "CERTIFICATE_VERIFY_FAILED" in ran.stderr
        assert "in REQUESTS_CA_BUNDLE" in ran.stderr
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.file))
        assert push(TOKEN, grafana.url).exit_code == 0


def test_the_wheel_has_what_is_shipped_and_needs_no_sdk_for_it(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if name.startswith("mesh_dashboards/")}
        assert {f"mesh_dashboards/shipped/{uid}.json" for uid in UIDS} <= inside
        archive.extractall(tmp_path / "unpacked")
    program = (
        "import sys\n"
        "sys.modules['grafana_foundation_sdk'] = None\n"  # whoever imports it fails
        "from mesh.cli import main\n"
        "main(['dashboards', 'export', sys.argv[1]])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "unpacked")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert {file.stem for file in (tmp_path / "out/dashboards").iterdir()} == set(UIDS)
