"""What pages copy, and what images and containers read of a clone, can be read by their users."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.manager import ROOT

DEPLOY = ROOT / "deploy"


def commands(page: str, *beginnings: str) -> str:
    """The lines of a page's first block that begin so."""
    block = (DEPLOY / page / "README.md").read_text().split("```sh\n")[1].split("```")[0]
    lines = [line for line in block.splitlines() if line.startswith(beginnings)]
    assert {line.split()[0] for line in lines} == set(beginnings)
    return "\n".join(lines)


@pytest.fixture(name="clone")
def make_clone(tmp_path: Path) -> Path:
    """What pages copy, as somebody whose umask is 077 has cloned it."""
    clone = tmp_path / "clone"
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("deploy", "dashboards/mesh_dashboards/shipped"):
        shutil.copytree(ROOT / folder, clone / folder, ignore=ignored)
    for path in [clone, *clone.rglob("*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)
    return clone


def run(script: str, clone: Path) -> None:
    # The page's own umask is what counts, not that of whoever follows it.
    subprocess.run(["bash", "-ec", f"umask 077\n{script}"], cwd=clone, check=True)


def unreadable(*places: Path) -> list[Path]:
    """What other users cannot read."""
    found = [path for place in places for path in (place, *place.rglob("*"))]
    assert len(found) > 1
    return [one for one in found if one.stat().st_mode & 0o7 < (5 if one.is_dir() else 4)]


@pytest.mark.parametrize("exists", [False, True], ids=["none yet", "a package's"])
def test_prometheus_finds_its_files_where_the_page_puts_them(
    clone: Path, tmp_path: Path, exists: bool
) -> None:
    place = tmp_path / "etc" / "prometheus"
    place.parent.mkdir()
    if exists:
        place.mkdir(mode=0o755)
        (place / "prometheus.yml").write_text("a package's")
    script = commands("prometheus", "umask", "mkdir", "cp", "touch")
    run(script.replace("/etc/prometheus", str(place)), clone)
    assert (place / "prometheus.yml").read_text() == (
        DEPLOY / "prometheus/prometheus.yml"
    ).read_text()
    for name in ("targets/gateways.yml", "rules/mesh.rules.yml", "secrets/admin.token"):
        assert (place / name).is_file()
    if not exists:
        assert unreadable(place) == []


def test_services_find_theirs_where_the_page_puts_them(clone: Path, tmp_path: Path) -> None:
    place = tmp_path / "mesh-services"
    place.mkdir(mode=0o755)
    script = commands("systemd", "umask", "cp")
    assert script.index("umask") < script.index("--recursive")
    lines = [line for line in script.splitlines() if "/etc/" not in line]
    run("\n".join(lines).replace("/opt/mesh-services", str(place)), clone)
    assert (place / "shop" / "__main__.py").is_file()
    assert unreadable(place) == []


def test_the_image_s_user_can_read_what_is_copied(clone: Path) -> None:
    run(commands("docker", "chmod"), clone)
    assert unreadable(clone / "deploy/compose/shop") == []


def test_containers_can_read_what_is_mounted(clone: Path) -> None:
    run(commands("compose", "chmod"), clone)
    services = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())["services"].values()
    mounted = {one.split(":")[0] for service in services for one in service.get("volumes", ())}
    places = {Path(os.path.normpath(clone / "deploy/compose" / one))
              for one in mounted if re.match(r"\.", one)}  # fmt: skip
    assert len(places) > 5
    assert unreadable(*places) == []
