"""Each rule can fail: whole manifests with one thing changed, and what the rule says of it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from tests.deploy.kubernetes import policies
from tests.deploy.kubernetes.built import containers, find

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.deploy.kubernetes.built import Object


@pytest.fixture(name="whole")
def find_whole(built: dict[str, list[Object]]) -> list[Object]:
    return built["tls, all"]


def pod(objects: list[Object], name: str = "mesh-gateway") -> Object:
    """What the pods of a Deployment are."""
    spec: Object = find(objects, "Deployment", name)["spec"]["template"]["spec"]
    return spec


def container(objects: list[Object]) -> Object:
    """The gateway's container."""
    return containers({"spec": pod(objects)})[0]


def security(objects: list[Object]) -> Object:
    found: Object = container(objects)["securityContext"]
    return found


def port(objects: list[Object], kind: str, name: str) -> Object:
    """The first port of a Service or of a policy's first rule."""
    spec = find(objects, kind, name)["spec"]
    found: Object = (spec if kind == "Service" else spec["ingress"][0])["ports"][0]
    return found


def spec(objects: list[Object], kind: str, name: str) -> Object:
    found: Object = find(objects, kind, name)["spec"]
    return found


def drop(objects: list[Object], kind: str, name: str) -> None:
    objects[:] = [one for one in objects if (one["kind"], one["metadata"]["name"]) != (kind, name)]


TLS_POLICY = ("NetworkPolicy", "mesh-gateway-peers")
GATEWAYS = ("Service", "mesh-gateway")
MONITOR = ("ServiceMonitor", "mesh-gateway")

CASES: list[tuple[Any, Callable[[list[Object]], object], str]] = [
    (policies.restricted, lambda them: pod(them).pop("automountServiceAccountToken"), "a token"),
    (policies.restricted, lambda them: pod(them).update(hostNetwork=True), "has hostNetwork"),
    (policies.restricted, lambda them: pod(them)["securityContext"].pop("seccompProfile"),
     "no seccomp"),
    (policies.restricted, lambda them: pod(them)["volumes"].append({"name": "x", "hostPath": {}}),
     "the volume x, a hostPath"),
    (policies.restricted, lambda them: pod(them)["securityContext"].pop("runAsNonRoot"), "as root"),
    (policies.restricted, lambda them: security(them).update(runAsUser=0), "may run as root"),
    (policies.restricted, lambda them: security(them).pop("allowPrivilegeEscalation"),
     "become more"),
    (policies.restricted, lambda them: security(them).update(privileged=True), "become more"),
    (policies.restricted, lambda them: security(them).pop("readOnlyRootFilesystem"), "to its root"),
    (policies.restricted, lambda them: security(them).pop("capabilities"), "has capabilities"),
    (policies.restricted, lambda them: security(them)["capabilities"].update(add=["CHOWN"]),
     "has capabilities"),
    (policies.enforced, lambda them: security(them).update(runAsUser=0),
     "namespace mesh would refuse its pods"),
    (policies.enforced,
     lambda them: find(them, "Namespace", "shop")["metadata"]["labels"].update(
         {"pod-security.kubernetes.io/enforce": "privileged"}),
     "namespace shop enforces privileged"),
    (policies.probes, lambda them: container(them).pop("startupProbe"), "no startupProbe"),
    (policies.probes, lambda them: container(them)["livenessProbe"]["httpGet"].update(path="/"),
     "no livenessProbe of /healthz"),
    (policies.probes, lambda them: container(them)["readinessProbe"]["httpGet"].update(port="x"),
     "no readinessProbe of /readyz"),
    (policies.resources, lambda them: container(them)["resources"]["requests"].pop("cpu"),
     "has no requests of cpu"),
    (policies.resources, lambda them: container(them)["resources"].pop("limits"),
     "has no limits of memory"),
    (policies.labels, lambda them: spec(them, "Deployment", "users")["selector"].update(
        matchLabels={"x": "y"}), "Deployment users does not select"),
    (policies.labels, lambda them: pod(them, "users")["topologySpreadConstraints"][0].update(
        labelSelector={"matchLabels": {"x": "y"}}), "Deployment users spreads pods"),
    (policies.labels, lambda them: spec(them, "PodDisruptionBudget", "mesh-gateway")[
        "selector"].update(matchLabels={"x": "y"}), "selects no pod"),
    (policies.services, lambda them: spec(them, *GATEWAYS).update(selector={"x": "y"}),
     "Service mesh-gateway selects no pod"),
    (policies.services, lambda them: port(them, *GATEWAYS).update(targetPort="x"), "leads to x"),
    (policies.monitors, lambda them: spec(them, *MONITOR)["endpoints"][0].update(port="x"),
     "scrapes x"),
    (policies.monitors, lambda them: spec(them, *MONITOR).pop("jobLabel"), "has the job None"),
    (policies.monitors, lambda them: drop(them, "Service", "mesh-peers"), "selects no Service"),
    (policies.policies, lambda them: spec(them, *TLS_POLICY).update(
        podSelector={"matchLabels": {"x": "y"}}), "mesh-gateway-peers selects no pod"),
    (policies.policies, lambda them: port(them, *TLS_POLICY).update(port=7001), "allows 7001"),
    (policies.policies, lambda them: spec(them, "NetworkPolicy", "mesh-peers-gateway")["egress"][0][
        "ports"][0].update(port=7001), "mesh-peers-gateway allows 7001"),
    (policies.policies, lambda them: spec(them, "NetworkPolicy", "mesh-peers-gateway")["egress"][0][
        "ports"][0].update(port="peers"), "mesh-peers-gateway lets out to peers, not to a number"),
    (policies.policies, lambda them: drop(them, "NetworkPolicy", "default-deny"),
     "is in a namespace without a policy for all"),
    (policies.references, lambda them: drop(them, "ServiceAccount", "mesh-gateway"),
     "names the ServiceAccount mesh-gateway"),
    (policies.references, lambda them: pod(them)["volumes"].append(
        {"name": "x", "configMap": {"name": "y"}}), "names the ConfigMap y"),
    (policies.references, lambda them: pod(them)["volumes"].append(
        {"name": "x", "secret": {"secretName": "y"}}), "names the Secret y"),
    (policies.references, lambda them: container(them)["volumeMounts"].append({"name": "x"}),
     "has the volume x, or mounts it"),
    (policies.references, lambda them: drop(them, "Namespace", "shop"), "the namespace shop"),
    (policies.images, lambda them: container(them).update(image="spanmesh:latest"),
     "runs spanmesh:latest"),
    (policies.ends, lambda them: pod(them).update(terminationGracePeriodSeconds=10),
     "is killed while it drains"),
    (policies.ends, lambda them: spec(them, "Deployment", "mesh-gateway").update(replicas=2),
     "has 2 gateways"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "change", "said"), CASES, ids=[f"{rule.__name__}: {said}" for rule, _, said in CASES]
)
def test_a_rule_says_what_is_against_it(
    whole: list[Object], rule: Any, change: Callable[[list[Object]], object], said: str
) -> None:
    changed = copy.deepcopy(whole)
    change(changed)
    assert [fault for fault in rule(changed) if said in fault]


def test_every_rule_has_been_seen_to_fail() -> None:
    assert {rule for rule, _, _ in CASES} == set(policies.RULES)
