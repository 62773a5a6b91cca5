"""The image, as far as it can be known without Docker: what its files say is there, and works."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest
from dockerfile_parse import DockerfileParser

from mesh._version import __version__
from mesh.cli.commands import COMMANDS
from mesh.environment import VARIABLES
from tests.deploy.manager import ROOT, environment

if TYPE_CHECKING:
    from pathlib import Path

DOCKER = ROOT / "deploy" / "docker"
FILES = ("Dockerfile", "service.Dockerfile")


def instructions(name: str) -> list[tuple[str, str]]:
    """All instructions of a file, with what follows them."""
    with (DOCKER / name).open("rb") as file:
        parser = DockerfileParser(fileobj=file)
        return [(one["instruction"], one["value"]) for one in parser.structure]


def last(name: str, instruction: str) -> str:
    return [value for kind, value in instructions(name) if kind == instruction][-1]


def variables(name: str) -> dict[str, str]:
    """What a file's ENV sets."""
    return dict(re.findall(r"(\w+)=(\S+)", last(name, "ENV")))


def health_check(name: str) -> list[str]:
    [command] = re.findall(r"CMD (\[.*\])$", last(name, "HEALTHCHECK"))
    found: list[str] = json.loads(command)
    return found


@pytest.mark.parametrize("name", FILES)
def test_no_step_and_no_start_needs_a_shell(name: str) -> None:
    for kind, value in instructions(name):
        if kind in {"RUN", "ENTRYPOINT", "CMD"}:
            assert json.loads(value), value
    assert health_check(name)[0] == "python"


@pytest.mark.parametrize("name", FILES)
def test_images_are_pinned(name: str) -> None:
    for kind, value in instructions(name):
        if kind == "FROM":
            image, _, tag = value.split()[0].partition(":")
            known = {"python": r"3\.1\d\.\d+-slim-\w+", "spanmesh": re.escape(__version__)}
            assert re.fullmatch(known[image], tag), value


def test_it_is_no_root_and_the_next_one_neither() -> None:
    assert re.fullmatch(r"([1-9]\d*):\1", last("Dockerfile", "USER"))
    kinds = [kind for kind, _ in instructions("Dockerfile")]
    assert kinds.index("USER") > max(i for i, kind in enumerate(kinds) if kind in {"RUN", "COPY"})
    assert "USER" not in [kind for kind, _ in instructions("service.Dockerfile")]
    user = last("Dockerfile", "USER").partition(":")[0]
    assert f"--owner={user}" in (DOCKER / "Dockerfile").read_text()
    assert f"#USER {user}:{user}\n" in (DOCKER / "service.Dockerfile").read_text()


def copied(name: str) -> list[str]:
    """What a file copies from the folder of the build."""
    values = [value.split() for kind, value in instructions(name) if kind == "COPY"]
    return [path for value in values if not value[0].startswith("--") for path in value[:-1]]


@pytest.mark.parametrize("name", FILES)
def test_what_is_copied_is_there_and_not_ignored(name: str) -> None:
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in sent
    for path in copied(name):
        assert (ROOT / path).exists()
        assert f"!{path}" in sent
    everything = {path for file in FILES for path in copied(file)}
    assert {line[1:] for line in sent if line.startswith("!")} == everything


def is_sent(path: str) -> bool:
    """Whether the build gets a file; the last line that fits it, or a folder of it, decides."""
    sent = True
    folders = [path, *map(str, PurePosixPath(path).parents)]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        anywhere = pattern.removeprefix("**/")
        names = {PurePosixPath(one).name for one in folders} if anywhere != pattern else folders
        if not line.startswith("#") and any(fnmatch.fnmatch(one, anywhere) for one in names):
            sent = line.startswith("!")
    return sent


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("mesh/running.py", True),
        ("deploy/compose/shop/__main__.py", True),
        ("tests/smoke.py", False),
        ("mesh/__pycache__/running.pyc", False),
        ("mesh/.env", False),
        ("mesh/.env.local", False),
        ("telemetry/production.env", False),
        ("mesh/gateway/tls/gateway.pem", False),
        ("deploy/compose/shop/peer.key", False),
    ],
)
def test_no_secret_is_sent(path: str, sent: bool) -> None:
    assert is_sent(path) == sent


def test_labels_say_what_it_is() -> None:
    labels = dict(
        re.findall(r'org\.opencontainers\.image\.(\w+)="(.*?)"', last("Dockerfile", "LABEL"))
    )
    project = (ROOT / "pyproject.toml").read_text()
    assert labels.pop("version") == __version__
    assert labels.pop("title") == "spanmesh"
    for one in labels.values():
        assert f'"{one}"' in project


def test_its_variables_are_known() -> None:
    for name in variables("Dockerfile"):
        assert name in VARIABLES or not name.startswith("MESH_")
    assert json.loads(last("Dockerfile", "CMD"))[0] in COMMANDS


@pytest.fixture(name="image", scope="module")
def make_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment made by the steps of the build, from nothing but what is copied.

    Dependencies are those that are here, so that nothing is downloaded.
    """
    folder = tmp_path_factory.mktemp("image")
    source, made = folder / "source", folder / "opt"
    source.mkdir()
    for path in copied("Dockerfile"):
        (source / path).symlink_to(ROOT / path)
    runs = [json.loads(value) for kind, value in instructions("Dockerfile") if kind == "RUN"]
    here = {
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "PIP_NO_DEPENDENCIES": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this one the other way round
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    for command in runs[:2]:
        assert command[:2] == ["python", "-m"]
        subprocess.run(
            [sys.executable, *(word.replace("/opt/spanmesh", str(made)) for word in command[1:])],
            cwd=source,
            env={**os.environ, **here},
            check=True,
            capture_output=True,
            timeout=100,
        )
    return made


def test_the_gateway_of_the_image_starts_and_its_health_check_tells_how_it_is(
    image: Path, tmp_path: Path
) -> None:
    set_there = {
        name: value.replace("/run/mesh", str(tmp_path)).replace("/opt/spanmesh", str(image))
        for name, value in variables("Dockerfile").items()
    }
    set_there["PATH"] = f"{image}/bin"
    set_there["PYTHONPATH"] = sysconfig.get_path("purelib")  # the dependencies, not this project
    start = [*json.loads(last("Dockerfile", "ENTRYPOINT")), *json.loads(last("Dockerfile", "CMD"))]
    options: dict[str, Any] = {
        "env": {**environment(tmp_path), **set_there},
        "cwd": tmp_path,
        "text": True,
    }
    with subprocess.Popen(
        [f"{image}/bin/{start[0]}", *start[1:], "--admin", "127.0.0.1:0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    ) as gateway:
        try:
            assert gateway.stdout is not None
            ready = json.loads(gateway.stdout.readline())
            assert ready["addresses"] == [set_there["MESH_GATEWAY"]]
            check = [
                word.replace("127.0.0.1:9464", ready["admin"])
                for word in health_check("Dockerfile")
            ]
            assert check != health_check("Dockerfile")
            check[0] = f"{image}/bin/{check[0]}"
            healthy = subprocess.run(check, check=False, timeout=60, **options)
            assert healthy.returncode == 0
            gateway.terminate()
            assert gateway.wait(30) == 0
            gone = subprocess.run(check, check=False, timeout=60, capture_output=True, **options)
            assert gone.returncode == 1
        finally:
            gateway.kill()
