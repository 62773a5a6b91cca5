"""Keys that somebody presses while a command runs, one by one."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import termios
import tty
from typing import TYPE_CHECKING

import click
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O?[ -~])?")
"""What arrows, function keys, and letters with Alt send (ECMA-48, section 5.4)."""


@contextlib.contextmanager
def unbuffered(terminal: int) -> Iterator[None]:
    """A terminal that gives each key at once and shows none; then it is again as it was.

    Ctrl-C still interrupts. Signals that end a process at once need :func:`end_by_signal`.

    Args:
        terminal: The number of its file.

    Raises:
        termios.error: It is no terminal.
    """
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        yield
    finally:
        with contextlib.suppress(termios.error):  # the terminal itself has gone
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)


async def end_by_signal(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Wait for a signal to end, so that what has to be put in order is.

    Raises:
        click.exceptions.Exit: It came; the status is that which shells expect.
    """
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            raise click.exceptions.Exit(128 + number)


async def read_keys(terminal: int) -> AsyncIterator[str]:
    """Every key of an unbuffered terminal as a small letter, until the terminal goes."""
    while True:
        await trio.lowlevel.wait_readable(terminal)
        try:
            data = os.read(terminal, 1024)
        except OSError:  # Linux says so where the other end has been closed
            return
        if not data:
            return
        for key in letters(data):
            yield key


def letters(data: bytes) -> str:
    """The keys, in small letters, that sent these bytes; those that send more than one are none."""
    return _SEQUENCE.sub(b"", data).decode(errors="ignore").lower()
