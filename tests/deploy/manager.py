"""The service manager, played: it hears notifications and hands sockets over.

Its protocols are nothing more.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "deploy" / "systemd"

LAUNCHER = """
import fcntl, os, sys
given = [fcntl.fcntl(int(text), fcntl.F_DUPFD, 100) for text in sys.argv[1].split(",")]
for index, descriptor in enumerate(given):
    os.dup2(descriptor, 3 + index)
    os.close(descriptor)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(given)))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
"""Puts descriptors in place, then becomes the program: LISTEN_PID is its own."""


class Manager:
    """The service manager's end of the notification socket."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + path[1:] if path.startswith("@") else path)
        self._socket.settimeout(30)

    def next(self) -> list[str]:
        """The lines of the next datagram."""
        return self._socket.recv(4096).decode().split("\n")

    def next_now(self) -> list[str]:
        """Likewise; raises BlockingIOError where none has come."""
        self._socket.settimeout(0)
        try:
            return self.next()
        finally:
            self._socket.settimeout(30)

    def until(self, line: str) -> list[str]:
        """The lines of the next datagram that has this one."""
        while line not in (found := self.next()):
            pass
        return found

    def fill(self) -> None:
        """Leave room for no other datagram, as one who does not read."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect("\0" + self.path[1:] if self.path.startswith("@") else self.path)
            with contextlib.suppress(BlockingIOError):
                while True:
                    sock.send(b"X=1")

    def until_silent(self, seconds: float) -> None:
        """Hear all, until nothing comes for so long."""
        self._socket.settimeout(seconds)
        with contextlib.suppress(TimeoutError, BlockingIOError):
            while True:
                self.next()
        self._socket.settimeout(30)

    def close(self) -> None:
        """Hear nothing any more."""
        self._socket.close()


def environment(folder: Path, **variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MESH_")}
    return {**kept, "XDG_RUNTIME_DIR": str(folder), **variables}


@contextlib.contextmanager
def gateway(
    folder: Path, *arguments: str, sockets: tuple[socket.socket, ...] = (), **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """A gateway as a process, started as systemd would start it."""
    command = ["-m", "mesh.cli", "gateway", "--admin", "none", *arguments]
    descriptors = [sock.fileno() for sock in sockets]
    if sockets:
        command = ["-c", LAUNCHER, ",".join(map(str, descriptors)), *command]
    with subprocess.Popen(
        [sys.executable, *command],
        env=environment(folder, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=descriptors,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def listen(path: Path | None = None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
    sock.bind(str(path) if path else ("127.0.0.1", 0))
    sock.listen()
    return sock


def ask(address: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return command("ping", "--count", "1", "--gateway", address, **variables)


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command, once it has ended."""
    return subprocess.run(
        [sys.executable, "-m", "mesh.cli", *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
