"""What units, image and pages set is what the code at the other end reads, allows or takes."""

from __future__ import annotations

import re
import signal
import tomllib
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from mesh import Limits
from mesh.cli.failures import WrongUsage
from mesh.environment import VARIABLES
from mesh.http import _PROBES
from mesh.running import PATIENCE, WRONG_USAGE
from mesh.systemd import SLACK, STATUS_EVERY, TLS
from mesh.units import MIB, parse_duration
from mesh_telemetry.sampling import TraceSettings
from tests.deploy.manager import ROOT, UNITS
from tests.deploy.test_docker import DOCKER, health_check, last, variables

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GATEWAY, SERVICE, SOCKET = "mesh-gateway.service", "mesh-service@.service", "mesh-gateway.socket"
BOTH = (GATEWAY, SERVICE)


def settings(unit: str) -> dict[str, list[str]]:
    """All values of every key of a unit."""
    found = defaultdict(list)
    for key, value in re.findall(r"(?m)^(\w+)=(.*)$", (UNITS / unit).read_text()):
        found[key].append(value)
    return found


def words(values: list[str]) -> set[str]:
    return set(" ".join(values).split())


def seconds(values: list[str]) -> float:
    [value] = values
    return parse_duration(value)


TABLE: list[tuple[tuple[str, ...], str, Callable[[list[str]], bool]]] = [
    (BOTH, "Type", lambda it: it == ["notify"]),  # READY=1 is sent
    (BOTH, "NotifyAccess", lambda it: it == ["main"]),  # by the process that was started
    (BOTH, "WatchdogSec", lambda it: seconds(it) >= 2 * STATUS_EVERY),  # life signs are so often
    (BOTH, "TimeoutStopSec", lambda it: seconds(it) >= Limits().drain + SLACK),
    ((SERVICE,), "TimeoutStartSec", lambda it: 2 * (PATIENCE + SLACK) <= seconds(it) <= 300),
    (BOTH, "StartLimitIntervalSec", lambda it: it == ["0"]),  # what may come may take long
    (BOTH, "Restart", lambda it: it == ["on-failure"]),
    (BOTH, "RestartPreventExitStatus", lambda it: it == [str(WRONG_USAGE)]),
    ((GATEWAY,), "RestartPreventExitStatus", lambda it: it == [str(WrongUsage.exit_code)]),
    ((GATEWAY,), "ExecStopPost", lambda it: f"exit-code-{WrongUsage.exit_code})" in it[0]),
    (
        (GATEWAY,),
        "SuccessExitStatus",
        lambda it: words(it) == {str(128 + number) for number in (signal.SIGINT, signal.SIGTERM)},
    ),
    ((GATEWAY,), "ExecReload", lambda it: it == [f"/bin/kill -{signal.SIGHUP.name[3:]} $MAINPID"]),
    ((GATEWAY,), "LimitNOFILE", lambda it: int(it[0]) >= 65536),  # a file for each peer
    # Unix sockets, and what addresses and the export go by.
    (BOTH, "RestrictAddressFamilies", lambda it: words(it) == {"AF_UNIX", "AF_INET", "AF_INET6"}),
    (BOTH, "SystemCallFilter", lambda it: it[0] == "@system-service"),
    (BOTH, "SystemCallFilter", lambda it: words(it[1:]) <= {"~@privileged", "@resources"}),
    # Only group and user connect, and whoever does can get there.
    ((SOCKET,), "SocketMode", lambda it: it == ["0660"]),
    ((SOCKET,), "DirectoryMode", lambda it: int(it[0], 8) & 0o005 == 0o005),
    ((SOCKET,), "FileDescriptorName", lambda it: it != [TLS] and len(it) == 1),
]
"""Units, a key of theirs, and what the code makes of its values."""


@pytest.mark.parametrize(
    ("unit", "key", "agrees"), [(unit, *rest) for units, *rest in TABLE for unit in units]
)
def test_a_unit_sets_what_the_program_goes_by(
    unit: str, key: str, agrees: Callable[[list[str]], bool]
) -> None:
    values = settings(unit)[key]
    assert values
    assert agrees(values), values


@pytest.mark.parametrize("unit", BOTH)
def test_a_unit_hides_nothing_that_its_program_needs(unit: str) -> None:
    """Nor does it own the socket's folder, which would go with the service."""
    hiding = {"InaccessiblePaths", "NoExecPaths", "TemporaryFileSystem", "RootDirectory",
              "PrivateNetwork", "IPAddressDeny", "RuntimeDirectory"}  # fmt: skip
    assert hiding & set(settings(unit)) == set()


@pytest.mark.parametrize("unit", BOTH)
def test_a_unit_sets_variables_that_are_read(unit: str) -> None:
    values = settings(unit)
    for name in re.findall(r"(\w+)=", " ".join(values["Environment"])):
        assert name in VARIABLES or f"$${name}" in values["ExecStart"][0]


def test_programs_of_any_user_can_read_their_settings() -> None:
    """As DynamicUser is nobody's owner and group."""
    lines = re.findall(r"(?m)^([df]) \S+ +(\d+) root root -$",
                       (UNITS / "tmpfiles.d/mesh.conf").read_text())  # fmt: skip
    assert len(lines) == 4
    for kind, mode in lines:
        needed = 0o005 if kind == "d" else 0o004
        assert int(mode, 8) & 0o007 == needed
    groups = re.findall(r"(?m)^[^#].*$", (UNITS / "sysusers.d/mesh.conf").read_text())
    assert groups == ["g mesh -"]  # no number: 0 would be root's


def test_the_page_names_keys_that_there_are() -> None:
    page = (UNITS / "README.md").read_text()
    named = set(re.findall(r"`([A-Z][a-z]+[A-Za-z]*)\b(?!\.)", page))
    known = {key for unit in (*BOTH, SOCKET) for key in settings(unit)}
    assert named <= {*known, "LoadCredential", "MemoryMax"}
    assert {"Type", "WatchdogSec", "TimeoutStartSec"} <= named


@pytest.mark.parametrize(
    "path", sorted((ROOT / "deploy").rglob("*.md")), ids=lambda it: it.parts[-2]
)
def test_every_limit_that_a_page_names_is_there(path: Path) -> None:
    text = path.read_text()
    named = set(re.findall(r"\blimits?\s+`(\w+)`", text)) | set(re.findall(r"`limits\.(\w+)", text))
    assert named <= set(Limits.__dataclass_fields__)


def test_the_gateway_is_at_one_place_wherever_it_is_named() -> None:
    [address] = settings(SOCKET)["ListenStream"]
    assert variables("Dockerfile")["MESH_GATEWAY"] == f"unix:{address}"
    folder = address.rpartition("/")[0]
    assert f'"{folder}"' in (DOCKER / "Dockerfile").read_text()  # made for the image's user
    mounted = re.findall(r"--volume mesh-socket:(\S+)", (DOCKER / "README.md").read_text())
    assert set(mounted) == {folder}


def test_the_image_installs_an_extra_that_there_is() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    [found] = re.findall(r'"\.\[(\w+)\]"', (DOCKER / "Dockerfile").read_text())
    assert found in extras


@pytest.mark.parametrize("name", ["Dockerfile", "service.Dockerfile"])
def test_a_health_check_asks_for_what_is_served(name: str) -> None:
    [path] = re.findall(r"http://127\.0\.0\.1:\d+(/\w*)'", health_check(name)[-1])
    assert path in _PROBES
    [timeout] = re.findall(r"timeout=(\d+)\)", health_check(name)[-1])
    [allowed] = re.findall(r"--timeout=(\d+)s", last(name, "HEALTHCHECK"))
    assert int(timeout) < int(allowed)


def test_the_image_of_services_starts_the_package_that_it_has() -> None:
    source, copied = last("service.Dockerfile", "COPY").split()
    assert f'"-m", "{copied.removeprefix("./")}"]' in last("service.Dockerfile", "ENTRYPOINT")
    code = (ROOT / source / "__main__.py").read_text()
    for name, value in variables("service.Dockerfile").items():
        assert f'environ.get("{name}")' in code
        assert f"http://{value}/" in health_check("service.Dockerfile")[-1]


def test_the_memory_that_the_page_of_the_image_names_is_the_defaults() -> None:
    page = " ".join((DOCKER / "README.md").read_text().split())
    assert f"at most {TraceSettings().store_bytes // MIB} MiB of traces" in page
    assert f"and {Limits().max_outbox // MIB} MiB for each peer" in page
