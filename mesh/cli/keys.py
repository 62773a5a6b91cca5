"""Keys that somebody presses while a command runs, one by one."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import termios
import tty
from typing import TYPE_CHECKING, Any, Self

import click
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ENDING = frozenset({signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
"""Signals that end a process, but for Ctrl-C's."""
_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O?[ -~])?")
"""What arrows, function keys, and letters with Alt send (ECMA-48, section 5.4)."""


class Unbuffered:
    """A terminal that gives each key at once and shows none; after the block it is as it was.

    Ctrl-C still interrupts. Other signals that end or stop a process need :func:`mind_signals`.

    Args:
        terminal: The number of its file.
    """

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._before: list[Any] | None = None

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()

    def take(self) -> None:
        """Have keys at once, unless another program is in front, whose terminal it is then.

        Raises:
            termios.error: It is no terminal.
        """
        if self._is_in_front():
            before = termios.tcgetattr(self._terminal)
            tty.setcbreak(self._terminal, termios.TCSADRAIN)  # what was pressed before counts
            if self._before is None:
                self._before = before

    def give_back(self) -> None:
        """Put it in order, as it was before the first :meth:`take` since the last time."""
        before, self._before = self._before, None
        if before is not None and self._is_in_front():
            with contextlib.suppress(termios.error):  # the terminal itself has gone
                termios.tcsetattr(self._terminal, termios.TCSADRAIN, before)

    def _is_in_front(self) -> bool:
        try:
            return os.tcgetpgrp(self._terminal) == os.getpgrp()
        except OSError:  # no shell rules it
            return True


async def mind_signals(
    terminal: Unbuffered,
    continued: Callable[[], None],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Keep a terminal in order where signals end or stop this process (Ctrl-Z).

    Args:
        terminal: It is given back before this process stops, and taken again when it goes on.
        continued: Called when this process goes on.
        task_status: Told when signals are minded.

    Raises:
        click.exceptions.Exit: One came to end; the status is that which shells expect.
    """
    with trio.open_signal_receiver(*ENDING, signal.SIGTSTP, signal.SIGCONT) as signals:
        task_status.started()
        async for number in signals:
            if number in ENDING:
                raise click.exceptions.Exit(128 + number)
            if number == signal.SIGTSTP:
                terminal.give_back()
                minded = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
                signal.raise_signal(signal.SIGTSTP)  # it goes on from here, with a SIGCONT to come
                signal.signal(signal.SIGTSTP, minded)
            else:
                terminal.take()
                continued()


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
