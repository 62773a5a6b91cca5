"""The units for systemd are sound, let what they start do little, and start it as it is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mesh._version import __version__
from tests.deploy.manager import UNITS
from tests.programs import program


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("systemd-analyze", "systemd"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture(name="units")
def make_units(tmp_path: Path) -> list[str]:
    """The units with a binary that exists here."""
    found = [unit for unit in UNITS.iterdir() if unit.suffix in {".service", ".socket"}]
    for unit in found:
        text = re.sub(r"/opt/spanmesh/bin/(mesh|python)", sys.executable, unit.read_text())
        (tmp_path / unit.name.replace("@", "@orders")).write_text(text)
    return sorted(str(tmp_path / unit.name.replace("@", "@orders")) for unit in found)


def test_the_units_are_sound(units: list[str]) -> None:
    assert len(units) == 3
    result = analyze("verify", "--man=no", *units)
    assert (result.returncode, result.stderr) == (0, "")


def test_so_are_their_examples(units: list[str]) -> None:
    """What comments say to uncomment, and the socket unit that they tell of."""
    service, sock, _ = map(Path, units)
    service.write_text(re.sub(r"(?m)^#(?=[A-Z]\w+=)", "", service.read_text()))
    assert "\nLoadCredential=gateway.key" in service.read_text()
    example = re.findall(r"(?m)^#   (.*)$", sock.read_text())
    other = sock.with_name("mesh-gateway-tls.socket")
    other.write_text("\n".join(example) + "\n")
    assert "FileDescriptorName=tls" in example
    result = analyze("verify", "--man=no", *units, str(other))
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "most"), [("mesh-gateway.service", 15), ("mesh-service@orders.service", 20)]
)
def test_the_services_may_do_little(units: list[str], name: str, most: int) -> None:
    """Exposure is from 0 (nothing) to 10 (all), here times ten."""
    service = next(unit for unit in units if unit.endswith(name))
    result = analyze("security", "--offline=true", f"--threshold={most}", service)
    assert result.returncode == 0, result.stdout


def test_the_group_and_the_folders_are_made(tmp_path: Path) -> None:
    """By systemd's own programs, in another root."""
    (tmp_path / "etc").mkdir()
    for file, line in (("passwd", "root:x:0:0::/root:/bin/sh"), ("group", "root:x:0:")):
        (tmp_path / "etc" / file).write_text(line + "\n")
    folders = UNITS / "tmpfiles.d" / "mesh.conf"
    if os.geteuid() != 0:
        pytest.skip("only root makes groups and folders of root's")
    for name, *arguments in (
        ("systemd-sysusers", f"{UNITS}/sysusers.d/mesh.conf"),
        ("systemd-tmpfiles", "--create", str(folders)),
    ):
        made = subprocess.run(
            [program(name, "systemd"), f"--root={tmp_path}", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert made.returncode == 0, made.stderr
    assert "\nmesh:x:" in (tmp_path / "etc/group").read_text()
    for folder in ("etc/mesh/services", "opt/mesh-services"):
        assert (tmp_path / folder).is_dir()
    assert (tmp_path / "etc/mesh/gateway.toml").read_text() == ""


def test_the_service_starts_the_command_as_it_is() -> None:
    """The arguments of ExecStart are ones that the command knows."""
    text = (UNITS / "mesh-gateway.service").read_text()
    [start] = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    _, *arguments = start.partition("=")[2].split()
    file = arguments.index("/etc/mesh/gateway.toml")
    arguments[file] = os.devnull
    result = subprocess.run(
        [sys.executable, "-m", "mesh.cli", *arguments, "--check-config"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr


def test_the_page_installs_what_the_units_run() -> None:
    lines = (UNITS / "README.md").read_text().split("```sh\n")[1]
    texts = {unit.name: unit.read_text() for unit in UNITS.glob("mesh-*")}
    start = re.search(r"(?m)^ExecStart=(\S+)/bin/mesh ", texts["mesh-gateway.service"])
    assert start is not None
    made = f"{start[1]}-{__version__}"
    assert f"python3 -m venv {made}\n{made}/bin/pip install .\n" in lines
    assert f"--force {made} {start[1]}\n" in lines
    sock = texts["mesh-gateway.socket"]
    [address] = re.findall(r"(?m)^ListenStream=(/.*)$", sock)
    assert f"MESH_GATEWAY=unix:{address}\n" in lines
    service = texts["mesh-service@.service"]
    assert f"Environment=MESH_GATEWAY=unix:{address}\n" in service
    folders = (UNITS / "tmpfiles.d" / "mesh.conf").read_text()
    for option in ("EnvironmentFile=-(.*)/%i.env", "WorkingDirectory=(.*)"):
        [folder] = re.findall(f"(?m)^{option}$", service)
        assert f"{folder}/" in lines
        assert re.search(rf"(?m)^d {folder} ", folders)
    [config] = re.findall(r"--config (\S+)", texts["mesh-gateway.service"])
    assert re.search(rf"(?m)^f {config} ", folders)
    group = (UNITS / "sysusers.d" / "mesh.conf").read_text().split("\ng ")[1].split()[0]
    for text in (sock, service, texts["mesh-gateway.service"]):
        assert re.search(rf"(?m)^(SocketGroup|SupplementaryGroups)={group}$", text)
