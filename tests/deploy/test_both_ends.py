"""What stands twice under deploy/ stands there alike: flags and mounts, ports, pages and files."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import mesh
from mesh.cli.dashboards.export import export
from mesh.cli.settings import SETTINGS
from mesh.loglines import choose_level
from tests.deploy.test_compose import COMPOSE, SERVICES, UNASKED
from tests.deploy.test_drift import DEPLOY, TEXTS, command_lines

PAGES = {path.parent.name: text for path, text in TEXTS.items() if path.name == "README.md"}
HEALTH = {
    "spanmesh": "http://127.0.0.1:9465/readyz",
    "prom/prometheus": "http://127.0.0.1:9090/-/ready",
    "grafana/tempo": "http://127.0.0.1:3200/ready",
    "grafana/grafana": "http://127.0.0.1:3000/api/health",
}
"""Where a program of an image says how it is, by its documentation."""
UNTOLD = {
    "spanmesh": {"/run/mesh"},
    "prom/prometheus": {
        "/etc/prometheus/targets", "/etc/prometheus/secrets", "/etc/prometheus/rules",
    },
    "grafana/grafana": {"/etc/grafana/provisioning", "/var/lib/grafana"},
    "grafana/tempo": {"/var/tempo"},
}  # fmt: skip
"""Paths that no command has: programs look there by their own or their files' word."""
OF_GRAFANA = {
    "GF_ANALYTICS_CHECK_FOR_UPDATES",
    "GF_ANALYTICS_REPORTING_ENABLED",
    "GF_AUTH_ANONYMOUS_ENABLED",
    "GF_AUTH_ANONYMOUS_ORG_ROLE",
    "GF_AUTH_BASIC_ENABLED",
    "GF_AUTH_DISABLE_LOGIN_FORM",
    "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH",
    "GF_LOG_MODE",
    "GF_PLUGINS_PREINSTALL_DISABLED",
    "GF_SECURITY_ADMIN_PASSWORD__FILE",
}
"""https://grafana.com/docs/grafana/latest/setup-grafana/configure-grafana/"""


def load(path: str) -> Any:
    return yaml.safe_load((DEPLOY / path).read_text())


def image(name: str) -> str:
    return str(SERVICES[name]["image"]).partition(":")[0]


def mounts(name: str) -> dict[str, str]:
    """What is mounted, by where."""
    return dict(one.split(":")[1::-1] for one in SERVICES[name].get("volumes", ()))


def within(path: str, folders: set[str]) -> bool:
    return any(Path(path).is_relative_to(folder) for folder in folders)


def told(name: str) -> set[str]:
    """The paths that a container's command and variables have."""
    service = SERVICES[name]
    words = [*service.get("entrypoint", ()), *service.get("command", ())]
    words += service.get("environment", {}).values()
    return {
        word for one in words if (word := str(one).rpartition("=")[2]).startswith("/")
    } | UNTOLD.get(image(name), set())


@pytest.mark.parametrize("name", SERVICES)
def test_every_path_is_mounted_and_every_mount_is_looked_at(name: str) -> None:
    there = set(mounts(name))
    looked_at = told(name)
    if SERVICES[name].get("network_mode") == "none":
        looked_at.remove("/run/mesh")  # it meets no gateway
    if "working_dir" in SERVICES[name]:
        # `python -m NAME` finds NAME in there.
        module = SERVICES[name]["entrypoint"][-1]
        looked_at.add(f"{SERVICES[name]['working_dir']}/{module}")
    # A folder is there, too, where only files in it are mounted.
    assert [
        one
        for one in looked_at
        if not within(one, there) and not any(within(each, {one}) for each in there)
    ] == []
    assert [one for one in there if not within(one, looked_at) and not any(
        within(each, {one}) for each in looked_at)] == []  # fmt: skip


def test_tempo_keeps_its_traces_in_its_volume() -> None:
    trace = load("compose/tempo.yaml")["storage"]["trace"]
    volumes = {at for at, what in mounts("tempo").items() if not what.startswith(".")}
    assert within(trace["wal"]["path"], volumes)
    assert within(trace["local"]["path"], volumes)


@pytest.mark.parametrize("name", [one for one in SERVICES if "healthcheck" in SERVICES[one]])
def test_health_is_asked_for_where_the_program_tells_it(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    if check != {"disable": True}:
        [asked] = re.findall(r"http://[\w.:/-]+", check["test"][-1])
        assert asked == HEALTH[image(name)]


def test_variables_of_the_shop_and_of_grafana_are_those_that_they_read() -> None:
    read = set(re.findall(r"\bSHOP_\w+", (COMPOSE / "shop" / "__main__.py").read_text()))
    named = {path: set(re.findall(r"\bSHOP_[A-Z_]+", text)) for path, text in TEXTS.items()}
    assert [path for path, found in named.items() if not found <= read] == []
    assert set().union(*named.values()) == read
    for text in TEXTS.values():
        assert set(re.findall(r"\bGF_[A-Z_]*[A-Z]\b", text)) <= OF_GRAFANA


def test_levels_of_lines_that_are_kept_are_levels() -> None:
    found = [one for text in TEXTS.values() for one in re.findall(r"MESH_KEEP_LOGS: *(\w+)", text)]
    assert found
    for level in found:
        choose_level(level)


@pytest.mark.parametrize("name", [one for one in SERVICES if image(one) == "spanmesh"])
def test_no_container_of_ours_is_killed_while_it_drains(name: str) -> None:
    if "restart" in SERVICES[name]:
        assert int(SERVICES[name]["stop_grace_period"].rstrip("s")) >= mesh.Limits().drain + 5


def test_no_image_of_ours_is_looked_for_in_a_registry() -> None:
    for name, service in SERVICES.items():
        if image(name) == "spanmesh":
            assert ("build" in service) != (service.get("pull_policy") == "never")


def test_prometheus_is_told_of_exemplars_alike_everywhere() -> None:
    flags = {
        flag for text in TEXTS.values() for flag in re.findall(r"--enable-feature=(\S+)", text)
    }
    assert {flag.strip("`,") for flag in flags} == {"exemplar-storage"}
    assert "--enable-feature=exemplar-storage" in SERVICES["prometheus"]["command"]


def test_tls_lets_nobody_in_without_a_certificate() -> None:
    """Whoever names the gateway's certificate names the authority of its clients, too."""
    for path, text in TEXTS.items():
        for words in command_lines(path):
            flags = {word.partition("=")[0] for word in words}
            assert ("--tls-cert" in flags) == ("--tls-client-ca" in flags), (path, words)
        named = {one for one in ("CERT", "KEY", "CLIENT_CA") if f"MESH_LISTEN_TLS_{one}=" in text}
        assert named in (set(), {"CERT", "KEY", "CLIENT_CA"}), path
        if path.suffix == ".toml" and "[tls]" in text:
            assert set(tomllib.loads(text)["tls"]) == {"cert", "key", "client_ca"}
    lines = [words for path in TEXTS for words in command_lines(path) if "--tls-cert" in words]
    assert lines
    for words in lines:  # else those beside it, who have the socket, would find no gateway
        assert "unix:/run/mesh/gateway.sock" in words


def exported(folder: Path) -> tuple[Any, Any]:
    """Grafana's provisioning as `mesh dashboards export` writes it for what Compose runs."""
    arguments = [
        str(folder), "--path", "/var/lib/mesh-dashboards",
        "--prometheus", "http://prometheus:9090", "--tempo", "http://tempo:3200",
    ]  # fmt: skip
    assert CliRunner().invoke(export, arguments).exit_code == 0
    made = folder / "provisioning"
    return (
        yaml.safe_load((made / "datasources/mesh.yaml").read_text())["datasources"],
        yaml.safe_load((made / "dashboards/mesh.yaml").read_text())["providers"],
    )


def test_grafana_is_provisioned_as_the_command_does_it(tmp_path: Path) -> None:
    sources, providers = exported(tmp_path)
    here = load("compose/grafana/provisioning/datasources/mesh.yaml")["datasources"]
    for one, wanted in zip(here, sources, strict=True):
        assert one.pop("name") in {"Prometheus", "Tempo"}  # what Explore calls them
        del wanted["name"]
        one.pop("isDefault", None)
        one["jsonData"].pop("nodeGraph", None)
        assert one == wanted
    [provider] = load("compose/grafana/provisioning/dashboards/mesh.yaml")["providers"]
    assert provider.pop("disableDeletion") is True
    assert [provider] == providers


def test_the_compose_page_counts_as_the_file_does() -> None:
    page = PAGES["compose"]
    megabytes = {"m": 1, "g": 1024}
    limits = [one["mem_limit"] for one in SERVICES.values()]
    total = sum(int(one[:-1]) * megabytes[one[-1]] for one in limits)
    assert f"about {round(total / 1000)} GB of memory" in page
    numbers = ["two", "three", "four", "five", "six"]
    open_to_all = [one for one in SERVICES["grafana"]["environment"] if one.startswith("GF_AUTH_")]
    assert f"the {numbers[len(open_to_all) - 2]} `GF_AUTH_` variables" in page
    [healthy] = re.findall(r"nine lines\. (.*?) say `Up` and `\(healthy\)`", page, re.DOTALL)
    running = {one for one in SERVICES if "restart" in SERVICES[one]}
    assert len(running) == 9
    assert set(re.findall(r"`([\w-]+)`", healthy)) == running - UNASKED
    published = {one.split(":")[1] for name in SERVICES for one in SERVICES[name].get("ports", ())}
    [named] = re.findall(r"The ports ([\d, and]+) of the loopback", page)
    assert set(re.findall(r"\d+", named)) == published
    assert set(re.findall(r"http://127\.0\.0\.1:(\d+)", page)) == published
    token = SERVICES["gateway"]["command"][-1]
    assert f"exec gateway cat {token}\n" in page
    assert SERVICES["token"]["command"] == [token]
    assert SERVICES["users"]["environment"]["SHOP_METRICS_TOKEN_FILE"] == token
    assert "<http://127.0.0.1:9464/readyz>" in page
    kept = load("compose/tempo.yaml")["compactor"]["compaction"]["block_retention"]
    assert (kept, "Tempo keeps traces for a day" in page) == ("24h", True)


def test_the_collectors_page_says_what_its_file_has() -> None:
    page = PAGES["otel-collector"]
    config = load("otel-collector/config.yaml")
    limiter = config["processors"]["memory_limiter"]
    limit, spike = limiter["limit_percentage"], limiter["spike_limit_percentage"]
    assert 0 < spike < limit < 100
    # It refuses from the soft limit on: https://github.com/open-telemetry/opentelemetry-collector,
    # processor/memorylimiterprocessor/README.md
    assert f"refuses spans from {limit - spike} %" in page
    assert f"collects garbage at {limit} %" in page
    health = config["extensions"]["health_check"]["endpoint"]
    assert health.endswith(":13133")
    assert f"port {health.rpartition(':')[2]} answers over the network" in PAGES["compose"]


def test_the_collector_listens_where_it_is_told_to_and_else_at_the_loopback() -> None:
    text = (DEPLOY / "otel-collector" / "config.yaml").read_text()
    endpoints = re.findall(r"endpoint: (\S+):\d+\n", text)
    assert endpoints == ["${env:OTLP_LISTEN:-127.0.0.1}"] * 3


def test_the_prometheus_page_names_the_version_of_compose() -> None:
    version = SERVICES["prometheus"]["image"].rpartition(":v")[2]
    assert f"the Compose file names {version.rpartition('.')[0]}." in PAGES["prometheus"]


@pytest.mark.parametrize(("folder", "page"), PAGES.items(), ids=PAGES)
def test_targets_and_settings_that_a_page_names_are_there(folder: str, page: str) -> None:
    for found in re.findall(r"(?<![\w/])targets/[\w.]+", page):
        assert (DEPLOY / folder / found).exists(), found
    tables = {one.partition(".")[0] for one in SETTINGS if "." in one}
    for found in re.findall(rf"`((?:{'|'.join(tables)})\.[a-z_]+)`", page):
        assert found in SETTINGS, found
    for url in re.findall(r"127\.0\.0\.1:94\d\d(/[\w.-]*)", page):
        assert url in {"/readyz", "/healthz", "/metrics", "/api"}, url


def test_no_block_of_a_page_goes_on_after_a_program_that_stays() -> None:
    """`mesh gateway` and `mesh demo` keep their terminal: what follows is another block's."""
    for page in PAGES.values():
        for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL):
            lines = [line for line in block.replace("\\\n", " ").splitlines() if line]
            stays = [line for line in lines if re.match(r"(\w+=\S+ )*mesh (gateway|demo)\b", line)]
            assert stays in ([], lines[-1:]), block
