"""A real terminal for tests of commands that draw on one and read its keys."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 60
"""Seconds after which something is taken never to be shown."""

_SHELL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
before = termios.tcgetattr(0)

def put_in_front(group):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    os.tcsetpgrp(0, group)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTTOU})

def tell(how):
    put_in_front(os.getpgrp())
    same = "as before" if termios.tcgetattr(0) == before else "changed"
    print(f"{how}, terminal {same}", flush=True)

command = os.fork()
if command == 0:
    os.setpgid(0, 0)
    put_in_front(os.getpid())
    os.execv(sys.argv[1], sys.argv[1:])
print(command, file=sys.stderr, flush=True)
while os.WIFSTOPPED(status := os.waitpid(command, os.WUNTRACED)[1]):
    tell("stopped")
    sys.stdin.readline()
    put_in_front(command)
    os.kill(command, signal.SIGCONT)
tell(f"status {os.waitstatus_to_exitcode(status)}")
sys.stdin.read()
"""
"""What owns the terminal, and looks at it where the command ends or stops; a line has it go on."""
_CLEARED = "\x1b[2J\x1b[H"
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A terminal with a command in front.

    Attributes:
        pid: The command's process.
    """

    def __init__(self, master: int, pid: int) -> None:
        self._master = master
        self._output = b""
        self.pid = pid

    def press(self, keys: str) -> None:
        """Press some keys."""
        os.write(self._master, keys.encode())

    @property
    def is_raw(self) -> bool:
        """Whether keys come one by one and are not shown."""
        return not termios.tcgetattr(self._master)[3] & (termios.ICANON | termios.ECHO)

    @property
    def lines(self) -> list[str]:
        """What stands on the screen, without colours."""
        shown = self._output.decode(errors="ignore").rpartition(_CLEARED)[2]
        return [line.rstrip("\r") for line in _CONTROL.sub("", shown).splitlines()]

    def until(self, what: Callable[[list[str]], bool]) -> list[str]:
        """Read on until the screen is so; returns its lines."""
        deadline = time.monotonic() + PATIENCE
        while not what(self.lines):
            left = deadline - time.monotonic()
            assert left > 0, self.lines
            if select.select([self._master], [], [], left)[0]:
                self._output += os.read(self._master, 65_536)
        return self.lines

    def ended(self) -> str:
        """How the command ended, and how it left the terminal."""
        last = self.until(lambda lines: any(line.startswith("status ") for line in lines))
        return next(line for line in last if line.startswith("status "))


@contextlib.contextmanager
def terminal(env: dict[str, str], *arguments: str, width: int, height: int) -> Iterator[Terminal]:
    """Run the command of these arguments at a terminal of so many columns and lines."""
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    with subprocess.Popen(
        [sys.executable, "-c", _SHELL, sys.executable, "-m", "mesh.cli", *arguments],
        env=env,
        stdin=slave,
        stdout=slave,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        os.close(slave)
        assert process.stderr is not None
        try:
            yield Terminal(master, int(process.stderr.readline()))
        finally:
            process.kill()
            os.close(master)  # hangs up, which ends a command that is still there
