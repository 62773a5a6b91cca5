"""The manifests: each folder builds, fits its schemas, and keeps every rule."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import jsonschema
import pytest
import yaml

from tests.deploy.kubernetes.built import COMPOSITIONS, DASHBOARDS, MANIFESTS, kind_of, run
from tests.deploy.kubernetes.policies import RULES, restricted

if TYPE_CHECKING:
    from tests.deploy.kubernetes.built import Object

KUBERNETES = "1.34"
SCHEMAS = {
    file.stem: json.loads(file.read_text())
    for file in (Path(__file__).parent / "schemas").glob("*.json")
}
"""Of custom resources, by their kinds in small letters."""

FOLDERS = [
    *sorted(
        str(file.parent.relative_to(MANIFESTS)) for file in MANIFESTS.rglob("kustomization.yaml")
    ),
    DASHBOARDS,
]

NEEDS_THE_HOST = {
    "DaemonSet mesh-gateway has the volume socket, a hostPath",
    "DaemonSet mesh-gateway, container directory, may run as root",
    (
        "DaemonSet mesh-gateway, container directory, has capabilities: "
        "{'add': ['CHOWN', 'FOWNER'], 'drop': ['ALL']}"
    ),
    "DaemonSet orders has the volume gateway, a hostPath",
    "DaemonSet users has the volume gateway, a hostPath",
}
"""All that the shared socket takes beyond the restricted standard."""


def check_schemas(objects: list[Object], folder: Path) -> None:
    """Kubernetes' own objects by its schemas, which know no others; those by the ones kept here."""
    plain = folder / "plain.yaml"
    own = [one for one in objects if one["kind"].lower() not in SCHEMAS]
    plain.write_text(yaml.safe_dump_all(own))
    done = subprocess.run(
        [sys.executable, "-m", "kubernetes_validate", "-k", KUBERNETES, "--strict", plain],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == len(own)
    assert [line for line in lines if not line.startswith("INFO ")] == []
    for one in objects:
        if one["kind"].lower() in SCHEMAS:
            jsonschema.Draft202012Validator(SCHEMAS[one["kind"].lower()]).validate(one)


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_what_is_built_fits_its_schemas(
    built: dict[str, list[Object]], name: str, tmp_path: Path
) -> None:
    check_schemas(built[name], tmp_path)


@pytest.mark.parametrize("one", [
    {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"port": []}},
    {"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", "metadata": {"name": "x"}},
])  # fmt: skip
def test_a_wrong_object_and_one_without_a_schema_are_noticed(one: Object, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        check_schemas([one], tmp_path)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_kustomization_has_known_fields_and_names_every_file_of_its_folder(folder: str) -> None:
    place = MANIFESTS / folder
    text = (place / "kustomization.yaml").read_text()
    read = yaml.safe_load(text)
    jsonschema.Draft202012Validator(SCHEMAS["kustomization"]).validate(read)
    for file in place.iterdir():
        assert file.name == "kustomization.yaml" or file.is_dir() or file.name in text


def test_every_folder_is_built_by_some_composition() -> None:
    named = {part for parts in COMPOSITIONS.values() for part in parts}
    for folder in FOLDERS:
        read = yaml.safe_load((MANIFESTS / folder / "kustomization.yaml").read_text())
        for part in [*read.get("resources", ()), *read.get("components", ())]:
            there = (MANIFESTS / folder / part).resolve()
            if there.is_dir():
                named.add(os.path.relpath(there, MANIFESTS))
    assert set(FOLDERS) <= named


def test_the_dashboards_are_where_grafanas_sidecar_looks(built: dict[str, list[Object]]) -> None:
    found = [one for one in built["tls, all"] if one["metadata"].get("namespace") == "monitoring"]
    files = [name for one in found for name in one["data"]]
    shipped = (MANIFESTS / DASHBOARDS / "mesh_dashboards/shipped").glob("*.json")
    assert sorted(files) == sorted(file.name for file in shipped)
    for one in found:
        assert one["metadata"]["labels"] == {"grafana_dashboard": "1"}
        assert len(json.dumps(one)) < 262_144  # what `kubectl apply` can note on an object


@pytest.mark.parametrize("folder", [one for one in FOLDERS if kind_of(one) == "Kustomization"])
def test_a_folder_can_be_applied_as_it_is(folder: str, tmp_path: Path) -> None:
    check_schemas(run(MANIFESTS / folder), tmp_path)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", COMPOSITIONS)
def test_every_rule_is_kept(built: dict[str, list[Object]], name: str, rule: object) -> None:
    assert callable(rule)
    needed = NEEDS_THE_HOST if rule is restricted and "daemonset" in name else set()
    assert set(rule(built[name])) == needed
