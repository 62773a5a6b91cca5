"""The shop of the Compose file as processes, with its commands, read by a real Prometheus."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import trio
import yaml

from tests.deploy.manager import ROOT, Manager, environment
from tests.end_to_end.prometheus import configured, tool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMPOSE = ROOT / "deploy" / "compose"
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = ROOT / "dashboards" / "mesh_dashboards" / "shipped" / "mesh.rules.yml"
SERVICES: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
SHOP = [name for name, one in SERVICES.items() if one.get("entrypoint") == ["python", "-m", "shop"]]


class Shop(NamedTuple):
    """The running shop: where each process has its metrics, by the host and port of Compose."""

    folder: Path
    token: str
    addresses: dict[str, str]


def command(name: str, **paths: str) -> list[str]:
    """What a container would run, with the paths of this machine."""
    words = [*SERVICES[name].get("entrypoint", ["mesh"]), *SERVICES[name]["command"]]
    program = {"python": [], "mesh": ["-m", "mesh.cli"]}[words[0]]
    return [sys.executable, *program, *(paths.get(word, word) for word in words[1:])]


def free_address() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{one.getsockname()[1]}"


def check_health(name: str, address: str) -> int:
    """The status of a container's own health check, asked at this address."""
    kind, program, *words = SERVICES[name]["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "python")
    mapped = [word.replace("127.0.0.1:9465", address) for word in words]
    assert mapped != words
    done = subprocess.run([sys.executable, *mapped], stderr=-3, check=False, timeout=60)
    return done.returncode


@pytest.fixture(name="shop", scope="module")
def make_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    secret = folder / "admin.token"
    paths = {
        "/make_token.py": str(COMPOSE / "make_token.py"),
        "/var/lib/mesh/admin.token": str(secret),
        "0.0.0.0:9464": free_address(),
    }
    made = []
    for _ in range(2):  # a second start finds it
        subprocess.run(command("token", **paths), check=True, timeout=60)
        made.append(secret.read_text())
    assert made[0] == made[1]
    assert len(made[0]) > 40
    assert secret.stat().st_mode & 0o777 == 0o444
    addresses = {"gateway:9464": paths["0.0.0.0:9464"]}
    variables = environment(
        folder,
        MESH_GATEWAY=f"unix:{folder}/gateway.sock",
        PYTHONPATH=str(COMPOSE),
        SHOP_METRICS_TOKEN_FILE=str(secret),
    )
    manager = Manager(f"{folder}/notify")
    with contextlib.ExitStack() as stack:
        stack.callback(manager.close)

        def start(name: str, **more: str) -> None:
            process = stack.enter_context(
                subprocess.Popen(command(name, **paths), env={**variables, **more}, stdout=-3)
            )
            stack.callback(process.kill)
            running.append(process)

        running: list[subprocess.Popen[bytes]] = []
        start("gateway", NOTIFY_SOCKET=manager.path)
        manager.until("READY=1")
        for name in SHOP:
            addresses[f"{name}:9465"] = free_address()
            assert {"SHOP_METRICS", "SHOP_METRICS_TOKEN_FILE"} < set(SERVICES[name]["environment"])
            if name == "customers":  # which says nothing to a manager
                start(name, SHOP_METRICS=addresses[f"{name}:9465"])
            else:
                start(name, SHOP_METRICS=addresses[f"{name}:9465"], NOTIFY_SOCKET=manager.path)
        for _ in range(len(SHOP) - 1):
            while manager.next()[0] != "READY=1":
                pass
        yield Shop(folder, made[0], addresses)
        for process in running[1:]:
            process.terminate()
        assert [process.wait(30) for process in running[1:]] == [0] * len(SHOP)
        running[0].send_signal(signal.SIGTERM)
        assert running[0].wait(30) == 0


@pytest.mark.parametrize("name", [name for name in SHOP if name != "customers"])
def test_its_health_checks_find_it_healthy(shop: Shop, name: str) -> None:
    assert check_health(name, shop.addresses[f"{name}:9465"]) == 0
    assert check_health(name, free_address()) == 1


@pytest.mark.parametrize("host", ["gateway:9464", "users:9465"])
def test_metrics_want_the_token(shop: Shop, host: str) -> None:
    request = urllib.request.Request(f"http://{shop.addresses[host]}/metrics")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    refused.value.close()
    assert refused.value.code == 401
    request.add_header("Authorization", f"Bearer {shop.token}")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert b"mesh_build_info" in answer.read()


def arrange(folder: Path, token: str) -> Path:
    """Prometheus' folder, as its page says."""
    made = folder / "prometheus"
    shutil.copytree(PROMETHEUS, made)
    (made / "rules").mkdir()
    (made / "secrets").mkdir()
    shutil.copy(RULES, made / "rules")
    (made / "secrets" / "admin.token").write_text(token)
    return made


def test_promtool_takes_the_files_as_their_page_arranges_them(tmp_path: Path) -> None:
    made = arrange(tmp_path, "")
    checked = subprocess.run(
        [tool("promtool"), "check", "config", str(made / "prometheus.yml")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    assert "SUCCESS: 1 rule files found" in checked.stdout
    config = yaml.safe_load((made / "prometheus.yml").read_text())
    mounts = dict(one.split(":")[:2][::-1] for one in SERVICES["prometheus"]["volumes"])
    assert (
        f"/etc/prometheus/{config['scrape_configs'][0]['authorization']['credentials_file']}"
        == ("/etc/prometheus/secrets/admin.token")
    )
    assert mounts["/etc/prometheus/secrets"] == "mesh-token"
    for path in ("prometheus.yml", "targets", "rules/mesh.rules.yml"):
        assert f"/etc/prometheus/{path}" in mounts


async def test_prometheus_reads_all_of_it_with_the_files_that_stand_here(
    shop: Shop, tmp_path: Path
) -> None:
    made = arrange(tmp_path, shop.token)
    config = made / "prometheus.yml"
    config.write_text(config.read_text().replace("_interval: 15s", "_interval: 200ms"))
    named = []
    for path in (COMPOSE / "targets").iterdir():
        targets = [host for group in yaml.safe_load(path.read_text()) for host in group["targets"]]
        named += targets
        found = [{"targets": [shop.addresses[host] for host in targets]}]
        (made / "targets" / path.name).write_text(json.dumps(found))
    assert sorted(named) == sorted(shop.addresses)
    async with configured(config, tmp_path) as server:
        await server.scraped_since(time.time())
        with trio.fail_after(60):
            while True:
                up = await server.query('sum by (job) (up{job=~"mesh-.*"})')
                calls = await server.query("sum by (caller) (mesh_calls_total)")
                if up == {("mesh-gateway",): 1, ("mesh-peers",): 4} and calls.get(("orders",)):
                    break
                await trio.sleep(0.1)  # there is nothing else to wait for: it tells nobody
        assert {("customers",), ("orders",)} <= set(calls)
        assert await server.exemplars("mesh_call_duration_seconds_bucket")
        served = await server.query("sum by (rpc_service) (rpc_server_call_duration_seconds_count)")
        assert {("users",), ("payments",), ("orders",)} <= set(served)
