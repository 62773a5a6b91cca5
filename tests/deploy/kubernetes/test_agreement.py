"""What stands in two manifests, or in one and on the page, stands there alike."""

from __future__ import annotations

import re
import subprocess
import tomllib
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.deploy.kubernetes.built import COMPOSITIONS, PAGE, containers, find, pods
from tests.deploy.kubernetes.policies import OF_OTHERS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.deploy.kubernetes.built import Object

TEXT = " ".join(PAGE.read_text().split())
EACH = pytest.mark.parametrize("name", COMPOSITIONS)

NAMES = (53, {"kube-system"}, {("k8s-app", "kube-dns")})
"""Where a cluster's DNS is: port, namespace and label.
https://kubernetes.io/docs/tasks/administer-cluster/dns-custom-nameservers/"""


@pytest.fixture(name="whole")
def find_whole(built: dict[str, list[Object]]) -> list[Object]:
    return built["tls, all"]


def variables(objects: list[Object]) -> Iterator[tuple[str, str, str]]:
    """Every variable of a container: its pod's namespace, its name, its value."""
    for one, pod in pods(objects):
        for container in containers(pod):
            for each in container.get("env", ()):
                yield one["metadata"]["namespace"], each["name"], each["value"]


def ways_out(objects: list[Object]) -> set[tuple[str, str, int]]:
    """What policies let out: from which namespace, to which one, to what port."""
    return {
        (one["metadata"]["namespace"], to["namespaceSelector"]["matchLabels"][
            "kubernetes.io/metadata.name"], port["port"])
        for one in objects if one["kind"] == "NetworkPolicy"
        for rule in one["spec"].get("egress", ())
        for to in rule["to"] if "ipBlock" not in to
        for port in rule["ports"]
    }  # fmt: skip


@EACH
def test_where_a_variable_leads_policies_let_out_to(
    built: dict[str, list[Object]], name: str
) -> None:
    """By a Service's name in another namespace; its port is the pods' own."""
    wanted = set()
    for namespace, _, value in variables(built[name]):
        url = urlsplit(value.replace("tls:", "tls://"))
        if (url.hostname or "").endswith(".svc"):
            wanted.add((namespace, str(url.hostname).split(".")[1], url.port))
    ways = {way for way in ways_out(built[name]) if way[2] != NAMES[0]}
    assert wanted == ways


@EACH
def test_who_has_a_way_out_by_name_has_one_to_the_names(
    built: dict[str, list[Object]], name: str
) -> None:
    for one in built[name]:
        if one["kind"] != "NetworkPolicy" or not one["spec"].get("egress"):
            continue
        [rule] = [
            rule for rule in one["spec"]["egress"]
            if NAMES[0] in {port["port"] for port in rule["ports"]}
        ]  # fmt: skip
        cluster, node = rule["to"]
        assert set(cluster["namespaceSelector"]["matchLabels"].values()) == NAMES[1]
        assert set(cluster["podSelector"]["matchLabels"].items()) == NAMES[2]
        assert node == {"ipBlock": {"cidr": "169.254.20.10/32"}}
        assert {(port["protocol"], port["port"]) for port in rule["ports"]} == {
            ("UDP", 53), ("TCP", 53),
        }  # fmt: skip
    assert "DNS in `kube-system` with `k8s-app: kube-dns`" in TEXT
    assert "let through at 169.254.20.10;" in TEXT


def test_all_others_are_where_the_page_says(whole: list[Object]) -> None:
    there = {one["metadata"]["name"] for one in whole if one["kind"] == "Namespace"}
    named = set()
    for one in whole:
        if one["kind"] == "NetworkPolicy":
            for rule in [*one["spec"].get("ingress", ()), *one["spec"].get("egress", ())]:
                for to in [*rule.get("from", ()), *rule.get("to", ())]:
                    labels = to.get("namespaceSelector", {}).get("matchLabels", {})
                    named |= {labels.get("kubernetes.io/metadata.name")} - {None}
                    if "kubernetes.io/metadata.name" in labels and not rule.get("to"):
                        assert labels == {"kubernetes.io/metadata.name": "monitoring"}
                        assert to["podSelector"]["matchLabels"] == {
                            "app.kubernetes.io/name": "prometheus"
                        }
    assert named <= there | OF_OTHERS
    assert "namespace `monitoring` with the label `app.kubernetes.io/name: prometheus`" in TEXT
    [collector] = {
        value for _, name, value in variables(whole) if name == "OTEL_EXPORTER_OTLP_ENDPOINT"
    }
    assert (
        f"`{urlsplit(collector).netloc}` with `app.kubernetes.io/name: opentelemetry-collector`"
        in TEXT
    )


def test_the_gateways_certificate_is_for_where_peers_look_for_it(whole: list[Object]) -> None:
    [address] = {
        value for _, name, value in variables(whole)
        if name == "MESH_GATEWAY" and value.startswith("tls:")
    }  # fmt: skip
    _, host, port = address.split(":")
    assert host in find(whole, "Certificate", "mesh-gateway")["spec"]["dnsNames"]
    assert f'"subjectAltName=DNS:{host}"' in TEXT
    service, namespace, _ = host.split(".")
    found = find(whole, "Service", service)
    assert found["metadata"]["namespace"] == namespace
    assert int(port) in {one["port"] for one in found["spec"]["ports"]}
    assert f"`{address}`" in TEXT


def test_certificates_are_for_what_they_are_used_for(whole: list[Object]) -> None:
    uses = {"mesh-gateway": "server auth", "mesh-peer": "client auth"}
    for name, use in uses.items():
        spec = find(whole, "Certificate", name)["spec"]
        assert spec["usages"] == ["digital signature", use]
        assert spec["privateKey"]["rotationPolicy"] == "Always"
    authority = find(whole, "Certificate", "mesh-authority")["spec"]
    assert authority["privateKey"]["rotationPolicy"] == "Never"
    issuer = find(whole, "ClusterIssuer", "mesh")["spec"]["ca"]["secretName"]
    assert issuer == authority["secretName"]


@EACH
def test_a_gateway_has_its_files_and_asks_peers_for_certificates(
    built: dict[str, list[Object]], name: str
) -> None:
    kind = "Deployment" if name.startswith("tls") else "DaemonSet"
    pod = find(built[name], kind, "mesh-gateway")["spec"]["template"]
    [container] = containers(pod)
    [volume] = [one for one in pod["spec"]["volumes"] if one["name"] == "config"]
    text = find(built[name], "ConfigMap", volume["configMap"]["name"])["data"]["gateway.toml"]
    settings = tomllib.loads(text)
    mounts = {one["mountPath"] for one in container["volumeMounts"]}
    files = [settings["admin_token_file"], *settings.get("tls", {}).values()]
    files += [one["value"] for one in container["env"] if one["name"] == "MESH_CONFIG"]
    assert {file.rpartition("/")[0] for file in files} | {"/run/mesh"} == mounts
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert settings["admin"] == f"0.0.0.0:{ports['admin']}"
    assert ("peers" in ports) == ("tls" in settings)
    if "tls" in settings:
        assert set(settings["tls"]) == {"cert", "key", "client_ca"}
        assert f"tls:0.0.0.0:{ports['peers']}" in settings["listen"]
    else:
        assert f"(`socket_mode`, {settings['socket_mode']})" in TEXT
        [directory] = pod["spec"]["initContainers"]
        [mode] = re.findall(r'chmod\("/run/mesh", 0o(\d+)\)', directory["command"][-1])
        assert f"(mode 0{mode})" in TEXT
        assert (mode, settings["socket_mode"]) == ("750", "0660")
    security = pod["spec"]["securityContext"]
    # Secrets are readable by its group alone.
    assert security["fsGroup"] == security["runAsGroup"] == security["runAsUser"] == 65532


@EACH
def test_the_gateways_of_a_node_do_not_meet_at_its_socket(
    built: dict[str, list[Object]], name: str
) -> None:
    for one, pod in pods(built[name]):
        sockets = [each for each in pod["spec"]["volumes"] if each["name"] == "socket"]
        if sockets and "hostPath" in sockets[0]:
            assert one["spec"]["updateStrategy"]["rollingUpdate"] == {
                "maxSurge": 0, "maxUnavailable": 1,
            }  # fmt: skip


def test_what_reads_a_secret_reads_a_key_that_the_page_makes(whole: list[Object]) -> None:
    made = dict(re.findall(r"create secret generic ([\w-]+) --from-literal=(\w+)=", TEXT))
    read = {
        (credentials["name"], credentials["key"])
        for one in whole if one["kind"] == "ServiceMonitor"
        for endpoint in one["spec"]["endpoints"]
        for credentials in [endpoint["authorization"]["credentials"]]
    }  # fmt: skip
    assert read == set(made.items())


def test_the_page_names_ports_settings_and_the_budget_as_they_are(whole: list[Object]) -> None:
    [container] = containers(find(whole, "Deployment", "mesh-gateway")["spec"]["template"])
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert re.findall(r"port-forward deploy/mesh-gateway (\d+)", TEXT) == [str(ports["admin"])]
    budget = find(whole, "PodDisruptionBudget", "mesh-gateway")["spec"]
    assert (budget["minAvailable"], "in place of `minAvailable: 1`" in TEXT) == (1, True)


def test_rights_for_prometheus_are_where_there_is_something_to_scrape(
    whole: list[Object],
) -> None:
    bound = set(re.findall(r"kubectl -n (\w+) create rolebinding prometheus", TEXT))
    assert bound == set(re.findall(r"kubectl -n (\w+) create role prometheus", TEXT))
    names = {"mesh-gateway-admin", "mesh-peers"}
    assert bound == {
        one["metadata"]["namespace"] for one in whole
        if one["kind"] == "Service" and one["metadata"]["name"] in names
    }  # fmt: skip
    for name in names:  # or one that drains, or does not get ready, would not be seen
        assert find(whole, "Service", name)["spec"]["publishNotReadyAddresses"] is True
    for uid in ("mesh-prometheus", "mesh-traces"):
        assert f"`{uid}`" in TEXT


def test_the_pages_certificates_are_strictly_right(secrets: dict[str, Path]) -> None:
    """As Python 3.13 checks them: an authority says that it signs certificates."""
    for name, purpose in (("gateway", "sslserver"), ("peer", "sslclient")):
        folder = secrets[f"mesh-{name}-tls"]
        words = ["-x509_strict", "-purpose", purpose, "-CAfile", "ca.crt", "tls.crt"]
        subprocess.run(["openssl", "verify", *words], cwd=folder, check=True, capture_output=True)
