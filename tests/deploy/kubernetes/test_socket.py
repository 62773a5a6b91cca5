"""The directory with a node's socket: who may connect, and who may put another one there.

Root is needed to play the kubelet: directories are root's, and containers run as other users.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from tests.deploy.kubernetes.built import find
from tests.end_to_end.processes import world

if TYPE_CHECKING:
    from tests.deploy.kubernetes.built import Object
    from tests.deploy.kubernetes.running import Container, Node

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can become other users")

READS = "+dac_read_search"
"""The one capability that is left: it lets a container read the Python that runs the tests."""


def become(container: Container, pod: Object) -> list[str]:
    """What makes a program a container's user and groups."""
    security = {**pod["securityContext"], **container.manifest["securityContext"]}
    groups = [security["fsGroup"], *security.get("supplementalGroups", ())]
    return [
        "setpriv",
        f"--reuid={security['runAsUser']}",
        f"--regid={security['runAsGroup']}",
        f"--groups={','.join(map(str, groups))}",
        f"--bounding-set=-all,{READS}",
        f"--inh-caps=-all,{READS}",
        f"--ambient-caps=-all,{READS}",
        "--no-new-privs",
    ]


def mounted(folder: Path, how: str) -> list[str]:
    """What makes the whole file system read-only to a program, but for this folder if ``rw``."""
    script = (
        f"mount --bind {folder} {folder} && mount -o remount,bind,{how} {folder} && "
        'mount -o remount,bind,ro / && exec "$@"'
    )
    return ["unshare", "--mount", "sh", "-c", script, "sh"]


async def refused(*command: str) -> bool:
    """Whether a Python program ends as it has no permission."""
    done = await trio.run_process(command, check=False, capture_stderr=True)
    return b"PermissionError" in done.stderr


async def test_a_nodes_socket_lets_in_its_group_and_nobody_else(
    built: dict[str, list[Object]], node: Node, tmp_path: Path
) -> None:
    """The init container makes the directory, the gateway the socket; other users' pods connect."""
    objects = built["daemonset"]
    directory = Path(node.socket).parent
    directory.mkdir(mode=0o755)
    pod = find(objects, "DaemonSet", "mesh-gateway")["spec"]["template"]["spec"]
    [first] = pod["initContainers"]
    added = ",".join("+" + one.lower() for one in first["securityContext"]["capabilities"]["add"])
    program, *arguments = [one.replace("/run/mesh", str(directory)) for one in first["command"]]
    assert program == "python"
    confined = ["setpriv", f"--bounding-set=-all,{READS},{added}", sys.executable]
    for _ in range(2):  # at the node's first start, and at every later one
        await trio.run_process([*confined, *arguments])
    async with world(tmp_path) as here:
        gateway = node.container(objects, "DaemonSet", "mesh-gateway")
        await gateway.start(here, [*mounted(directory, "rw"), *become(gateway, pod)])
        await gateway.passes("readinessProbe")
        told = await trio.Path(node.socket).stat()
        assert (stat.S_IMODE(told.st_mode), told.st_gid) == (0o660, 65532)
        users = find(objects, "DaemonSet", "users")["spec"]["template"]["spec"]
        service = node.container(objects, "DaemonSet", "users")
        peer = become(service, users)
        await service.start(here, [*mounted(directory, "ro"), *peer])
        await service.passes("readinessProbe")
        assert service.process is not None
        assert await service.process.end(signal.SIGTERM) == 0
        replace = f"import os; os.unlink({node.socket!r})"
        assert await refused(*peer, sys.executable, "-c", replace)
        stranger = [one for one in peer if not one.startswith("--groups")]
        connect = f"import socket; socket.socket(socket.AF_UNIX).connect({node.socket!r})"
        assert await refused(*stranger, "--clear-groups", sys.executable, "-c", connect)
