"""What Compose runs: the file is sound and careful, and its commands work as processes."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from mesh_dashboards.burning import WINDOWS
from tests.deploy.manager import ROOT
from tests.programs import program

if TYPE_CHECKING:
    from pathlib import Path

COMPOSE = ROOT / "deploy" / "compose"
FILE = COMPOSE / "compose.yaml"
ALL: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, Any] = ALL["services"]
UNASKED = {"otel-collector"}
"""Whose image has nothing in it that could ask it for its health."""


@pytest.mark.parametrize(
    "file",
    [path for path in sorted((ROOT / "deploy").rglob("*.y*ml")) if "compose" in path.stem],
    ids=lambda path: path.name,
)
def test_docker_compose_takes_the_file(file: Path) -> None:
    result = subprocess.run(
        [program("docker-compose", "docker-compose"), "--file", str(file), "config", "--quiet"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_prometheus_keeps_more_than_the_longest_window_of_an_objective() -> None:
    kept, window = (
        int(re.search(r"(\d+)d$", text)[1])  # type: ignore[index]
        for text in (
            next(one for one in SERVICES["prometheus"]["command"] if ".retention.time=" in one),
            WINDOWS[-1],
        )
    )
    assert kept > window


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_may_do_little(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert not {"privileged", "user", "pid", "ipc", "devices", "cap_add"} & set(service)
    for port in service.get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port)


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_says_how_it_is_and_waits_for_what_it_needs(name: str) -> None:
    service = SERVICES[name]
    if name in UNASKED:
        assert "healthcheck" not in service
    elif "network_mode" not in service and service["image"].split(":")[0] != "spanmesh":
        assert service["healthcheck"]["test"][0] == "CMD"  # and no shell
    for other, how in service.get("depends_on", {}).items():
        if how["condition"] == "service_healthy":
            assert other not in UNASKED
        elif how["condition"] == "service_completed_successfully":
            assert "restart" not in SERVICES[other]


@pytest.mark.parametrize("name", SERVICES)
def test_what_it_mounts_is_there(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source, _, mode = f"{volume}:rw".split(":")[:3]
        if source.startswith("."):
            assert (COMPOSE / source).exists(), source
            assert mode == "ro"
        else:
            assert source in ALL["volumes"]


def test_no_secret_is_in_a_file() -> None:
    for name, service in SERVICES.items():
        for variable in service.get("environment", {}):
            assert not re.search("PASSWORD|SECRET|TOKEN$|KEY$", variable), (name, variable)
    assert SERVICES["token"]["image"] == SERVICES["gateway"]["image"]
    assert "build" in SERVICES["token"]  # on which all others of the image depend
