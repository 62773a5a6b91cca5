"""A built container as a process: its arguments, variables, files and probes, with paths moved.

What a cluster does around it is played: files are put where volumes are mounted, all addresses
become the loopback's, ports become free ones, and :class:`Frontend` is the Service.
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import ssl
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from tests.deploy.kubernetes.built import PAGE, containers, find
from tests.end_to_end.processes import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.deploy.kubernetes.built import Object
    from tests.end_to_end.processes import Running, World

KINDS = {"tls": "Deployment", "daemonset": "DaemonSet"}
"""What runs the gateway, by overlay."""

GATEWAY = "mesh-gateway.mesh.svc"
PROGRAMS = {"mesh": ["-m", "mesh.cli"], "python": []}
"""What the image's programs are after Python."""


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def make_secrets(folder: Path) -> dict[str, Path]:
    """The secrets that the page has one make, as folders; certificates by its own commands."""
    if shutil.which("openssl") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(
            "openssl is not installed: apt-get install openssl"
        )
    folder.mkdir()
    text = PAGE.read_text()
    commands = text[text.index("openssl req") :]
    script = commands[: commands.index("```")].replace(GATEWAY, "localhost")
    subprocess.run(["bash", "-ec", script], cwd=folder, check=True, capture_output=True)
    made = {}
    for name in ("mesh-admin", "mesh-metrics"):
        made[name] = folder / name
        made[name].mkdir()
        (made[name] / "token").write_text(f"of-{name}\n")
    for name in ("gateway", "peer"):
        place = made[f"mesh-{name}-tls"] = folder / f"mesh-{name}-tls"
        place.mkdir()
        shutil.copy(folder / f"{name}.crt", place / "tls.crt")
        shutil.copy(folder / f"{name}.key", place / "tls.key")
        shutil.copy(folder / "ca.crt", place)
    return made


def trusting(secrets: dict[str, Path]) -> ssl.SSLContext:
    """A peer's context with the certificate that the page makes."""
    peer = secrets["mesh-peer-tls"]
    context = ssl.create_default_context(cafile=peer / "ca.crt")
    context.load_cert_chain(peer / "tls.crt", peer / "tls.key")
    return context


@dataclass
class Container:
    """One container of a pod, made ready to run; it has yet to be started.

    Attributes:
        command: The program and its arguments.
        environment: Its variables, and no others but what finds programs.
        ports: The ports that it has in place of the manifest's.
        grace: Seconds that its pod has to end.
        process: It, once started.
    """

    manifest: Object
    command: list[str]
    environment: dict[str, str]
    ports: dict[str, int]
    grace: float
    process: Running | None = field(default=None)

    async def start(self, world: World, before: Sequence[str] = ()) -> None:
        """Start it; ``before`` is a program that becomes it, with its arguments."""
        command = (*before, sys.executable)
        self.process = await world.start(
            *self.command, command=command, env=self.environment, cwd="/"
        )

    async def passes(self, probe: str) -> None:
        """Return once it passes a probe, asked more often than the kubelet would."""
        path = self.manifest[probe]["httpGet"]["path"]
        with trio.fail_after(PATIENCE):
            while True:
                try:
                    status, _ = await self.get(path)
                except OSError:
                    status = 0
                if status == 200:
                    return
                assert self.process is not None
                assert self.process.process.poll() is None, self.process.errors.read_text()
                await trio.sleep(0.05)  # as the kubelet does; it tells nobody

    async def get(self, path: str, token: str = "") -> tuple[int, str]:
        """Ask its HTTP server."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        [port] = [self.ports[name] for name in self.ports if name in {"admin", "metrics"}]
        return await trio.to_thread.run_sync(partial(_get, port, path, headers))


def _get(port: int, path: str, headers: dict[str, str]) -> tuple[int, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


class Node:
    """Where containers run: a folder for their volumes.

    Args:
        folder: For files; its path must be short, as sockets are in it.
        secrets: Folders with the secrets' files.
        gateway: The port of the gateway's Service.
    """

    def __init__(self, folder: Path, secrets: dict[str, Path], gateway: int = 0) -> None:
        self.folder = folder
        self.secrets = secrets
        self.gateway = gateway or free_port()

    @property
    def socket(self) -> str:
        """The gateway's socket in the host's directory, or in the pod's own."""
        return f"{self.folder}/run/gateway.sock"

    def container(
        self, objects: list[Object], kind: str, name: str, *, moved: bool = True
    ) -> Container:
        """The first container of a workload.

        Args:
            objects: What was built.
            kind: The workload's.
            name: Its name.
            moved: Whether addresses become the loopback's, with free ports.
        """
        pod = find(objects, kind, name)["spec"]["template"]
        [manifest] = containers(pod)
        names = {port["containerPort"]: port["name"] for port in manifest["ports"]}
        ports = {label: free_port() for label in names.values()}
        changes = {mount["mountPath"]: str(self._place(mount["name"], pod, name))
                   for mount in manifest["volumeMounts"]}  # fmt: skip
        if moved:
            changes[f"{GATEWAY}:7000"] = f"localhost:{self.gateway}"
            changes |= {f"0.0.0.0:{at}": f"127.0.0.1:{ports[one]}" for at, one in names.items()}
        for volume in pod["spec"]["volumes"]:
            if "configMap" in volume:
                place = self._place(volume["name"], pod, name)
                data = find(objects, "ConfigMap", volume["configMap"]["name"])["data"]
                place.mkdir(parents=True, exist_ok=True)
                for file, text in data.items():
                    (place / file).write_text(_change(text, changes))
        program, *arguments = manifest.get("command", ["mesh"])
        command = [*PROGRAMS[program], *arguments, *manifest.get("args", ())]
        environment = {one["name"]: _change(one["value"], changes) for one in manifest["env"]}
        environment["PATH"] = os.defpath
        grace = pod["spec"]["terminationGracePeriodSeconds"]
        command_here = [_change(one, changes) for one in command]
        return Container(manifest, command_here, environment, ports, grace)

    def _place(self, volume: str, pod: Object, name: str) -> Path:
        """Where a volume's files are."""
        [found] = [one for one in pod["spec"]["volumes"] if one["name"] == volume]
        if "secret" in found:
            return self.secrets[found["secret"]["secretName"]]
        if "configMap" in found:
            return self.folder / f"{name}-{volume}"
        place = self.folder / "run"
        place.mkdir(exist_ok=True)
        return place


def _change(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        text = text.replace(old, new)
    return text


class Frontend:
    """The gateway's Service: each new connection goes to the pod that is chosen then."""

    def __init__(self, port: int, target: int) -> None:
        self.port, self.target = port, target

    async def serve(self, *, task_status: trio.TaskStatus[object]) -> None:
        """Run until cancelled."""
        await trio.serve_tcp(self._pass, self.port, host="127.0.0.1", task_status=task_status)

    async def _pass(self, client: trio.SocketStream) -> None:
        try:
            server = await trio.open_tcp_stream("127.0.0.1", self.target)
        except OSError:
            return
        async with server, trio.open_nursery() as nursery:
            for source, sink in ((client, server), (server, client)):
                nursery.start_soon(self._copy, source, sink, nursery.cancel_scope)

    async def _copy(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        try:
            async for data in source:
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()
