"""Configurations of others' programs have only keys that these document, and name what is there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.deploy.manager import ROOT

DEPLOY = ROOT / "deploy"
GRAFANA = DEPLOY / "compose" / "grafana" / "provisioning"
CHECKED = {
    DEPLOY / "otel-collector" / "config.yaml": "otel-collector",
    DEPLOY / "compose" / "tempo.yaml": "tempo",
    GRAFANA / "datasources" / "mesh.yaml": "grafana-datasources",
    GRAFANA / "dashboards" / "mesh.yaml": "grafana-dashboards",
}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("path", CHECKED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_it_has_only_documented_keys(path: Path) -> None:
    schema = json.loads((Path(__file__).parent / "schemas" / f"{CHECKED[path]}.json").read_text())
    Draft202012Validator.check_schema(schema)
    faults = [fault.message for fault in Draft202012Validator(schema).iter_errors(load(path))]
    assert faults == []


def test_every_component_of_the_collector_is_used_and_there() -> None:
    config = load(DEPLOY / "otel-collector" / "config.yaml")
    service = config["service"]
    pipeline = service["pipelines"]["traces"]
    for kind in ("receivers", "processors", "exporters"):
        assert list(config[kind]) == pipeline[kind]
    assert list(config["extensions"]) == service["extensions"]
    # Before anything is held; and what is sent on is sent in batches.
    assert pipeline["processors"][0] == "memory_limiter"
    assert pipeline["processors"][-1] == "batch"


def test_what_grafana_is_told_of_is_there() -> None:
    sources = {one["uid"]: one for one in load(GRAFANA / "datasources/mesh.yaml")["datasources"]}
    assert set(sources) == {"mesh-prometheus", "mesh-traces"}
    compose = load(DEPLOY / "compose" / "compose.yaml")
    for source in sources.values():
        host, _, port = source["url"].removeprefix("http://").partition(":")
        assert host in compose["services"]
        assert port in json.dumps(compose["services"][host]["healthcheck"])
    [provider] = load(GRAFANA / "dashboards/mesh.yaml")["providers"]
    grafana = compose["services"]["grafana"]
    shipped = next(
        one for one in grafana["volumes"] if one.split(":")[1] == provider["options"]["path"]
    )
    folder = (DEPLOY / "compose" / shipped.split(":")[0]).resolve()
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (folder / Path(home).name).is_file()
    assert Path(home).parent == Path(provider["options"]["path"])


def test_traces_go_from_the_gateway_to_where_they_are_looked_for() -> None:
    services = load(DEPLOY / "compose" / "compose.yaml")["services"]
    to = re.fullmatch(
        r"http://([\w-]+):(\d+)", services["gateway"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"]
    )
    assert to is not None
    collector = load(DEPLOY / "otel-collector" / "config.yaml")
    assert services[to[1]]["image"].startswith("otel/opentelemetry-collector:")
    assert collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"].endswith(f":{to[2]}")
    variables = services[to[1]]["environment"]
    assert set(variables) == set(
        re.findall(r"\$\{env:(\w+)", (DEPLOY / "otel-collector" / "config.yaml").read_text())
    )
    host, _, port = variables["OTLP_BACKEND"].partition(":")
    tempo = load(DEPLOY / "compose" / "tempo.yaml")
    assert services[host]["command"] == ["-config.file=/etc/tempo.yaml"]
    assert tempo["distributor"]["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].endswith(port)
    assert str(tempo["server"]["http_listen_port"]) in services[host]["healthcheck"]["test"][-1]
