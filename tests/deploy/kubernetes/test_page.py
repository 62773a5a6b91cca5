"""The page: what it names is there, and what it says of numbers is what the manifests have."""

from __future__ import annotations

import re
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml

import mesh
from tests.deploy.kubernetes.built import MANIFESTS, PAGE, ROOT, containers, find, run, told
from tests.deploy.kubernetes.policies import BY_HAND
from tests.deploy.kubernetes.test_manifests import KUBERNETES, check_schemas

if TYPE_CHECKING:
    from pathlib import Path

    from tests.deploy.kubernetes.built import Object

TEXT = PAGE.read_text()
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]
KUBECTL = [command for command in COMMANDS if command[0] == "kubectl"]


@pytest.fixture(name="whole")
def find_whole(built: dict[str, list[Object]]) -> list[Object]:
    return built["tls, all"]


def after(command: list[str], option: str) -> str:
    return command[command.index(option) + 1]


def test_what_is_applied_is_there() -> None:
    applied = {after(one, "-k") for one in KUBECTL if "-k" in one}
    assert applied == {"overlays/tls", "examples/tls"}
    files = {
        after(one[at:], "-f") for one in KUBECTL for at, word in enumerate(one) if word == "-f"
    }
    assert len(files) == 3
    for path in (*applied, *(files - {"rules.yaml"})):
        assert (MANIFESTS / path).exists()


def test_the_rules_become_an_object_of_the_operators(tmp_path: Path) -> None:
    script = TEXT[TEXT.index("printf ") : TEXT.index("kubectl apply -f rules.yaml")]
    place = tmp_path / "deploy" / "kubernetes"
    place.mkdir(parents=True)
    (tmp_path / "dashboards").symlink_to(ROOT / "dashboards")
    subprocess.run(["sh", "-ec", script], cwd=place, check=True)
    made = yaml.safe_load((place / "rules.yaml").read_text())
    check_schemas([made], tmp_path)
    shipped = ROOT / "dashboards/mesh_dashboards/shipped/mesh.rules.yml"
    assert made["spec"] == yaml.safe_load(shipped.read_text())


def test_all_that_is_asked_for_is_built(whole: list[Object]) -> None:
    there = {told(one).lower().replace(" ", "/") for one in whole}
    there |= {name.replace("deployment", "deploy") for name in there}
    named = {word for one in KUBECTL for word in one if re.match("(deploy|deployment)/", word)}
    assert named == {
        "deployment/mesh-gateway", "deployment/users", "deployment/orders", "deploy/mesh-gateway",
    }  # fmt: skip
    assert named <= there
    namespaces = {after(one, "-n") for one in KUBECTL if "-n" in one}
    assert {f"namespace/{name}" for name in namespaces} <= there


def test_it_makes_every_secret_that_pods_mount_with_the_keys_they_read(
    whole: list[Object],
) -> None:
    made: dict[tuple[str, str], set[str]] = {}
    for one in KUBECTL:
        if "create" in one and "secret" in one:
            keys = {
                word.partition("=")[2].partition("=")[0]
                for word in one
                if word.startswith(("--from-literal", "--from-file"))
            }
            made[after(one, "-n"), after(one, "generic")] = keys
    assert {name for _, name in made} == BY_HAND
    wanted = {
        (one["metadata"]["namespace"], volume["secret"]["secretName"])
        for one in whole
        if one["kind"] == "Deployment"
        for volume in one["spec"]["template"]["spec"]["volumes"]
        if "secret" in volume
    } | {
        (one["metadata"]["namespace"], endpoint["authorization"]["credentials"]["name"])
        for one in whole
        if one["kind"] == "ServiceMonitor"
        for endpoint in one["spec"]["endpoints"]
    }
    assert wanted == set(made)
    for (_, name), keys in made.items():
        assert keys == ({"tls.crt", "tls.key", "ca.crt"} if name.endswith("-tls") else {"token"})


def test_the_kustomization_that_it_shows_builds(whole: list[Object], tmp_path: Path) -> None:
    [shown] = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "spanmesh").symlink_to(ROOT)
    (tmp_path / "kustomization.yaml").write_text(shown)
    assert {told(one) for one in run(tmp_path)} == {told(one) for one in whole}


def test_its_numbers_are_those_of_the_manifests(whole: list[Object]) -> None:
    deployment = find(whole, "Deployment", "mesh-gateway")
    [gateway] = containers(deployment["spec"]["template"])
    assert gateway["resources"]["requests"] == {"cpu": "250m", "memory": "160Mi"}
    assert "Hence 160 MiB, and a quarter of a core" in TEXT
    assert gateway["resources"]["limits"] == {"memory": "512Mi"}
    assert "ends at 512 MiB" in TEXT
    assert mesh.Limits().drain == 10
    assert "10 s at most (`limits.drain`)" in TEXT
    files = [MANIFESTS / "base/gateway.toml", MANIFESTS / "overlays/tls/gateway.toml"]
    assert all('service_wait = "30s"' in file.read_text() for file in files)
    assert "up to 30 s (`limits.service_wait`" in TEXT
    assert f"schemas of Kubernetes {KUBERNETES}" in TEXT
    renewed = find(whole, "Certificate", "mesh-gateway")["spec"]["renewBefore"]
    assert renewed == "720h"
    assert "within the 30 days" in TEXT
    peer = yaml.safe_load((MANIFESTS / "examples/daemonset/peer.yaml").read_text())
    assert {"value": [65532]} in [{"value": one.get("value")} for one in peer]
    assert "`supplementalGroups: [65532]`" in TEXT
