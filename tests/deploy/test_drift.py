"""Whatever is named under deploy/ is there: paths, ports, images, commands, variables, metrics."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import click
import pytest
import yaml

from mesh import Limits
from mesh._version import __version__
from mesh.cli import main
from mesh.cli.commands import COMMANDS
from mesh.cli.settings import ADMIN, SETTINGS
from mesh.environment import VARIABLES
from mesh_telemetry import FAMILIES
from tests.deploy.manager import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEPLOY = ROOT / "deploy"
FILES = sorted(
    path
    for path in DEPLOY.rglob("*")
    if path.is_file() and path.suffix != ".pyc" and "__pycache__" not in path.parts
)
TEXTS = {path: path.read_text() for path in FILES}
EACH = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))

PORTS = {
    "53": "names",
    "5353": "names, on OpenShift",
    ADMIN.rpartition(":")[2]: "a gateway's admin address",
    "9465": "a peer's metrics",
    "7000": "a gateway for peers",
    "7443": "a gateway for peers, by TLS",
    "3000": "Grafana",
    "3200": "Tempo",
    "4317": "OTLP over gRPC",
    "4318": "OTLP over HTTP",
    "9090": "Prometheus",
    "13133": "the collector's health",
}
"""What there is to listen at, and nothing else."""

OURS = {"spanmesh": __version__, "spanmesh-shop": __version__}
"""Images that are built here."""
IMAGE = re.compile(
    r"(?<![\w./-])((?:[a-z0-9.-]+/)*(?:python|prometheus|grafana|tempo|opentelemetry-collector|"
    r"spanmesh(?:-shop)?)):([\w.-]*\d[\w.-]*)"
)
ELSEWHERE = {"OTLP_LISTEN", "OTLP_BACKEND"}
"""Variables of the collector's file."""
OF_OPENTELEMETRY = {
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_SERVICE_NAME",
}
"""Those that its SDK and the gateway read; https://opentelemetry.io/docs/specs/otel/protocol/exporter/"""
COMMAND = re.compile(r"(?:^|(?<!-n)(?<!--namespace)\s|bin/)mesh +([^|;&#]*)")
"""The command, and no namespace of this name."""
SUFFIXES = ("_bucket", "_sum", "_count")


def strings(value: Any) -> Iterator[str]:
    """Every text within a document."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from strings(key)
            yield from strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from strings(one)
    elif isinstance(value, str):
        yield value


def mappings(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping within a document."""
    if isinstance(value, dict):
        yield value
    for one in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        yield from mappings(one)


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(TEXTS[path])) if path.suffix in {".yaml", ".yml"} else []


def code(text: str) -> Iterator[str]:
    """What a page has in fenced blocks, line by line, and between backticks."""
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", re.sub(r"(?ms)^```.*?^```", "", text))


def command_lines(path: Path) -> Iterator[list[str]]:
    """The words after `mesh` of every command that a file names."""
    text = TEXTS[path]
    if path.suffix == ".md":
        for line in code(text):
            for found in COMMAND.findall(line.replace("\n", " ")):
                yield shlex.split(found)
    for found in re.findall(r"docker run [^`]*? spanmesh:[\d.]+ +((?:[^\n`]*\\\n)*[^\n`]+)", text):
        yield shlex.split(found.replace("\\\n", " "))
    for found in re.findall(r"(?m)^#?ExecStart=\S+/mesh (.*)$", text):
        yield shlex.split(found)
    for document in documents(path):
        for one in mappings(document):
            if str(one.get("image", "")).partition(":")[0] != "spanmesh":
                continue
            words = [
                *one.get("entrypoint", []),
                *(one.get("command") or []),
                *(one.get("args") or []),
            ]
            words = words[1:] if words[:1] == ["mesh"] else words
            if words and words[0] not in {"python", "sleep"}:
                yield [str(word) for word in words]


def fault(words: list[str]) -> str | None:
    """What is wrong with a command's words."""
    name = next((word for word in words if not word.startswith("-")), None)
    if name is None:
        return None
    if name not in COMMANDS:
        return f"no command {name}"
    context = click.Context(main)
    command: click.Command | None = main.get_command(context, name)
    rest = words[words.index(name) + 1 :]
    if isinstance(command, click.Group):
        below = next((word for word in rest if not word.startswith("-")), "")
        command = command.get_command(context, below)
        if command is None:
            return f"no command {name} {below}"
    assert command is not None
    known = {option for one in command.params for option in one.opts} | {"--help"}
    flags = [word.partition("=")[0] for word in rest if re.match(r"--[a-z]", word)]
    wrong = [flag for flag in flags if flag not in known]
    for setting in re.findall(r"--limit[ =](\w+)=", " ".join(rest)):
        wrong += [] if setting in Limits.__dataclass_fields__ else [setting]
    return f"{name} has no {', '.join(wrong)}" if wrong else None


@EACH
def test_every_command_and_flag_is_there(path: Path) -> None:
    faults = [wrong for words in command_lines(path) if (wrong := fault(words))]
    assert faults == []


def test_commands_are_found_where_they_stand() -> None:
    """Else the test above would say nothing."""
    found = {path.relative_to(DEPLOY).parts[0] for path in FILES if list(command_lines(path))}
    assert {"compose", "docker", "otel-collector", "prometheus", "systemd"} <= found
    assert fault(["gateway", "--lisen", "x"]) == "gateway has no --lisen"
    assert fault(["gatewy"]) == "no command gatewy"


@EACH
def test_every_variable_is_known(path: Path) -> None:
    text = TEXTS[path]
    named = set(re.findall(r"\b((?:MESH|OTEL|OTLP)_[A-Z_]*[A-Z])\b", text))
    assert named <= {*VARIABLES, *OF_OPENTELEMETRY, *ELSEWHERE}


@EACH
def test_every_metric_is_there(path: Path) -> None:
    known = set(FAMILIES)
    known |= {f"{name}{suffix}" for name in FAMILIES for suffix in SUFFIXES}
    peers = set(
        re.findall(
            r"`(rpc_\w+|mesh_runtime_\w+|mesh_records\w*)`", (ROOT / "README.md").read_text()
        )
    )
    known |= peers | {f"{name}{suffix}" for name in peers for suffix in SUFFIXES}
    packages = {"mesh_dashboards", "mesh_telemetry"}
    labels = {"rpc_service", "rpc_method"}
    named = set(
        re.findall(r"(?<![\w/.-])((?:mesh|rpc|traces_service_graph)_[a-z_]+)\b(?!\.)", TEXTS[path])
    )
    assert named - packages - labels <= known


@EACH
def test_every_recording_rule_is_shipped(path: Path) -> None:
    named = set(re.findall(r"(?<![\w/.-])(mesh:\w+:\w+)", TEXTS[path]))
    if named:
        rules = ROOT / "dashboards" / "mesh_dashboards" / "shipped" / "mesh.rules.yml"
        shipped = {
            one["record"] for one in mappings(yaml.safe_load(rules.read_text())) if "record" in one
        }
        assert named <= shipped


@EACH
def test_every_path_of_the_project_is_there(path: Path) -> None:
    folders = "dashboards|deploy|telemetry|tests"
    text = re.sub(r"https?://\S+", "", TEXTS[path])
    text = re.sub(r"(kubectl .*?)\bdeploy/[\w-]+(?![\w/.-])", r"\1", text)  # a Deployment
    missing = [
        found
        for found in re.findall(rf"(?<![\w/.-])((?:{folders})/[\w./@*-]*[\w*/])", text)
        if not list(ROOT.glob(found.rstrip("/")))
    ]
    assert missing == []


@EACH
def test_whatever_a_page_copies_is_there(path: Path) -> None:
    for line in code(TEXTS[path]) if path.suffix == ".md" else ():
        for copied in re.findall(r"\bcp ((?:\S+ )+)\S+", line.partition(" && ")[0]):
            for source in copied.split():
                assert source.startswith("--") or list(ROOT.glob(source)), source


@EACH
def test_every_link_of_a_page_leads_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)", TEXTS[path]) if path.suffix == ".md" else ():
        assert "://" in link or (path.parent / link).exists(), link


def test_every_folder_has_a_page_that_the_readme_names() -> None:
    named = set(re.findall(r"\(deploy/([\w-]+)/README\.md\)", (ROOT / "README.md").read_text()))
    assert {path.name for path in DEPLOY.iterdir() if path.is_dir()} == named
    for folder in named:
        assert (DEPLOY / folder / "README.md").is_file()


@EACH
def test_every_port_is_one_that_somebody_listens_at(path: Path) -> None:
    if path.suffix == ".py":
        return
    text = re.sub(r"(?m)^#?USER .*$", "", TEXTS[path])
    named = set(re.findall(r"(?<=[\w}\]]):(\d{4,5})\b(?!:)", text))
    named |= set(re.findall(r"(?i)\bports? (\d{4,5})\b", text))
    for document in documents(path):
        for one in mappings(document):
            for key in ("port", "containerPort", "targetPort", "http_listen_port"):
                named |= {str(one[key])} if isinstance(one.get(key), int) else set()
    assert named <= set(PORTS)


def test_an_image_has_one_version_wherever_it_stands() -> None:
    versions: dict[str, set[str]] = defaultdict(set)
    for text in TEXTS.values():
        for image, tag in IMAGE.findall(text):
            versions[image].add(tag)
    for path in FILES:
        for document in documents(path):
            for one in mappings(document):
                image, _, tag = str(one.get("image", "")).partition(":")
                if isinstance(one.get("image"), str) and image not in OURS:
                    assert tag
                    versions[image].add(tag)
                if "newTag" in one:
                    versions[one["name"]].add(str(one["newTag"]))
    assert {image: found for image, found in versions.items() if len(found) > 1} == {}
    assert {image: versions[image] for image in OURS} == {
        image: {version} for image, version in OURS.items()
    }
    assert "latest" not in {tag for found in versions.values() for tag in found}


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.toml")))
def test_every_setting_of_a_gateway_is_known(path: Path) -> None:
    for table, value in tomllib.loads(TEXTS[path]).items():
        keys = [f"{table}.{key}" for key in value] if isinstance(value, dict) else [table]
        assert set(keys) <= set(SETTINGS)
