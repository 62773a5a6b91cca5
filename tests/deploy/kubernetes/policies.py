"""What must hold of built manifests beyond their schemas. Each rule returns what is against it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mesh
from tests.deploy.kubernetes.built import containers, fits, pods, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.deploy.kubernetes.built import Object

IMAGE = f"spanmesh:{mesh.__version__}"
GRACE = mesh.Limits().drain + 5
"""Seconds that a drain takes at most, with its last words."""

BY_HAND = frozenset({"mesh-admin", "mesh-metrics", "mesh-gateway-tls", "mesh-peer-tls"})
"""Secrets that are made by the page's commands: none is in a file."""

OF_OTHERS = frozenset({"cert-manager", "monitoring", "kube-system", "observability"})
"""Namespaces that are there already, and hold what is not ours."""

VOLUMES = frozenset({"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "projected",
                     "persistentVolumeClaim", "secret"})  # fmt: skip
"""Kinds that the restricted standard allows:
https://kubernetes.io/docs/concepts/security/pod-security-standards/"""

JOBS = frozenset({"mesh-gateway", "mesh-peers"})
"""Those that rules and dashboards know."""


def restricted(objects: list[Object]) -> Iterator[str]:
    """Pods keep to the restricted standard, and mount no token of the API."""
    for one, pod in pods(objects):
        spec = pod["spec"]
        security = spec.get("securityContext", {})
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{told(one)} mounts a token of the API"
        for name in ("hostNetwork", "hostPID", "hostIPC"):
            if spec.get(name):
                yield f"{told(one)} has {name}"
        if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{told(one)} has no seccomp profile"
        for volume in spec.get("volumes", ()):
            for kind in volume.keys() - {"name"} - VOLUMES:
                yield f"{told(one)} has the volume {volume['name']}, a {kind}"
        for container in [*spec.get("initContainers", ()), *containers(pod)]:
            for fault in _container(container, security):
                yield f"{told(one)}, container {container['name']}, {fault}"


def _container(container: Object, of_pod: Object) -> Iterator[str]:
    security = {**of_pod, **container.get("securityContext", {})}
    if security.get("runAsNonRoot") is not True or not security.get("runAsUser"):
        yield "may run as root"
    if security.get("allowPrivilegeEscalation") is not False or security.get("privileged"):
        yield "may become more than it is"
    if security.get("readOnlyRootFilesystem") is not True:
        yield "may write to its root"
    capabilities = security.get("capabilities", {})
    if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
        yield f"has capabilities: {capabilities}"


def enforced(objects: list[Object]) -> Iterator[str]:
    """What a namespace enforces, its pods keep to; without need none enforces less."""
    for one in objects:
        if one["kind"] != "Namespace":
            continue
        name = one["metadata"]["name"]
        level = one["metadata"]["labels"].get("pod-security.kubernetes.io/enforce")
        inside = [each for each in objects if each["metadata"].get("namespace") == name]
        fits_all = not any(restricted(inside))
        if level == "restricted" and not fits_all:
            yield f"namespace {name} would refuse its pods"
        if level != "restricted" and fits_all:
            yield f"namespace {name} enforces {level}, and its pods need no more than restricted"


def probes(objects: list[Object]) -> Iterator[str]:
    """Each container is asked whether it has started, lives and is ready, at a port that it has."""
    paths = {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    for one, pod in pods(objects):
        for container in containers(pod):
            ports = {port["name"] for port in container.get("ports", ())}
            for probe, path in paths.items():
                http = container.get(probe, {}).get("httpGet", {})
                if http.get("path") != path or http.get("port") not in ports:
                    yield f"{told(one)} has no {probe} of {path} at a port of its own"


def resources(objects: list[Object]) -> Iterator[str]:
    """Each container asks for what it needs, and has an end to its memory."""
    for one, pod in pods(objects):
        for container in [*pod["spec"].get("initContainers", ()), *containers(pod)]:
            asked = container.get("resources", {})
            has = {("requests", name) for name in asked.get("requests", ())}
            has |= {("limits", name) for name in asked.get("limits", ())}
            for kind, name in sorted(
                {("requests", "cpu"), ("requests", "memory"), ("limits", "memory")} - has
            ):
                yield f"{told(one)}, container {container['name']}, has no {kind} of {name}"


def labels(objects: list[Object]) -> Iterator[str]:
    """Workloads and budgets select pods that there are."""
    for one, pod in pods(objects):
        if not fits(one["spec"]["selector"], pod["metadata"]["labels"]):
            yield f"{told(one)} does not select its own pods"
        for spread in pod["spec"].get("topologySpreadConstraints", ()):
            if not fits(spread["labelSelector"], pod["metadata"]["labels"]):
                yield f"{told(one)} spreads pods that are not its own"
    for one in objects:
        if one["kind"] == "PodDisruptionBudget" and not _selected(
            objects, one["metadata"]["namespace"], one["spec"]["selector"]
        ):
            yield f"{told(one)} selects no pod"


def _selected(objects: list[Object], namespace: str, selector: Object) -> list[Object]:
    return [
        pod
        for one, pod in pods(objects)
        if one["metadata"]["namespace"] == namespace and fits(selector, pod["metadata"]["labels"])
    ]


def _ports(pod: Object) -> set[object]:
    found: set[object] = set()
    for container in containers(pod):
        for port in container.get("ports", ()):
            found |= {port["name"], port["containerPort"]}
    return found


def services(objects: list[Object]) -> Iterator[str]:
    """Services lead to ports of pods."""
    for one in objects:
        if one["kind"] == "Service":
            chosen = _selected(objects, one["metadata"]["namespace"], one["spec"]["selector"])
            if not chosen:
                yield f"{told(one)} selects no pod"
            for port in one["spec"]["ports"]:
                if any(port.get("targetPort", port["port"]) not in _ports(pod) for pod in chosen):
                    yield f"{told(one)} leads to {port.get('targetPort')}, which is no port"


def monitors(objects: list[Object]) -> Iterator[str]:
    """What is scraped is there, and has the job that rules and dashboards know."""
    for one in objects:
        if one["kind"] != "ServiceMonitor":
            continue
        spec = one["spec"]
        anywhere = spec.get("namespaceSelector", {}).get("any", False)
        chosen = [
            each
            for each in objects
            if each["kind"] == "Service"
            and (anywhere or each["metadata"]["namespace"] == one["metadata"]["namespace"])
            and fits(spec["selector"], each["metadata"].get("labels", {}))
        ]
        if not chosen:
            yield f"{told(one)} selects no Service"
        for service in chosen:
            job = service["metadata"]["labels"].get(spec.get("jobLabel"))
            if job not in JOBS:
                yield f"{told(one)} has the job {job}"
            names = {port["name"] for port in service["spec"]["ports"]}
            for endpoint in spec["endpoints"]:
                if endpoint["port"] not in names:
                    yield f"{told(one)} scrapes {endpoint['port']}, no port of {told(service)}"


def policies(objects: list[Object]) -> Iterator[str]:
    """Network policies concern pods that there are, and ports that these have."""
    for one in objects:
        if one["kind"] == "NetworkPolicy":
            spec, namespace = one["spec"], one["metadata"]["namespace"]
            chosen = _selected(objects, namespace, spec["podSelector"])
            if not chosen:
                yield f"{told(one)} selects no pod"
            for rule in spec.get("ingress", ()):
                yield from _allowed(one, rule, chosen)
            for rule in spec.get("egress", ()):
                for port in rule["ports"]:
                    if not isinstance(port["port"], int):
                        yield f"{told(one)} lets out to {port['port']}, not to a number"
                yield from _allowed(one, rule, list(_targets(objects, rule)))
    closed = {
        one["metadata"]["namespace"]
        for one in objects
        if one["kind"] == "NetworkPolicy"
        and one["spec"]["podSelector"] == {}
        and one["spec"]["policyTypes"] == ["Ingress", "Egress"]
    }
    for one, _ in pods(objects):
        if one["metadata"]["namespace"] not in closed:
            yield f"{told(one)} is in a namespace without a policy for all"


def _allowed(policy: Object, rule: Object, there: list[Object]) -> Iterator[str]:
    for port in rule["ports"]:
        if any(port["port"] not in _ports(pod) for pod in there):
            yield f"{told(policy)} allows {port['port']}, which is no port"


def _targets(objects: list[Object], rule: Object) -> Iterator[Object]:
    for to in rule["to"]:
        if "ipBlock" in to:
            continue
        name = to["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        if name not in OF_OTHERS:
            yield from _selected(objects, name, to["podSelector"])


def references(objects: list[Object]) -> Iterator[str]:
    """What pods name is there, and all that they have is used."""
    there = {
        (one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in objects
    } | {
        ("Secret", one["metadata"]["namespace"], one["spec"]["secretName"])
        for one in objects
        if one["kind"] == "Certificate"
    }
    for one, pod in pods(objects):
        spec, namespace = pod["spec"], one["metadata"]["namespace"]
        wanted = {("ServiceAccount", spec.get("serviceAccountName", "default"))}
        wanted.discard(("ServiceAccount", "default"))  # each namespace has one
        for volume in spec["volumes"]:
            if "configMap" in volume:
                wanted.add(("ConfigMap", volume["configMap"]["name"]))
            if "secret" in volume and volume["secret"]["secretName"] not in BY_HAND:
                wanted.add(("Secret", volume["secret"]["secretName"]))
        for kind, name in sorted(wanted):
            if (kind, namespace, name) not in there:
                yield f"{told(one)} names the {kind} {name}, which is not there"
        mounted = {
            mount["name"]
            for container in [*spec.get("initContainers", ()), *containers(pod)]
            for mount in container.get("volumeMounts", ())
        }
        for name in sorted(mounted ^ {volume["name"] for volume in spec["volumes"]}):
            yield f"{told(one)} has the volume {name}, or mounts it, and not both"
    names = {one["metadata"]["name"] for one in objects if one["kind"] == "Namespace"}
    for one in objects:
        namespace = one["metadata"].get("namespace")
        if namespace is not None and namespace not in names | OF_OTHERS:
            yield f"{told(one)} is in the namespace {namespace}, which is not there"


def images(objects: list[Object]) -> Iterator[str]:
    """All run this version's image."""
    for one, pod in pods(objects):
        for container in [*pod["spec"].get("initContainers", ()), *containers(pod)]:
            if container["image"] != IMAGE:
                yield f"{told(one)} runs {container['image']}"


def ends(objects: list[Object]) -> Iterator[str]:
    """A pod is given the time that a drain takes, and is never one of two gateways for long."""
    for one, pod in pods(objects):
        if pod["spec"].get("terminationGracePeriodSeconds", 30) < GRACE:
            yield f"{told(one)} is killed while it drains"
        if one["metadata"]["name"] == "mesh-gateway" and one["spec"].get("replicas", 1) != 1:
            yield f"{told(one)} has {one['spec']['replicas']} gateways, and each a mesh of its own"


RULES: tuple[Callable[[list[Object]], Iterator[str]], ...] = (
    restricted, enforced, probes, resources, labels, services, monitors, policies, references,
    images, ends,
)  # fmt: skip
