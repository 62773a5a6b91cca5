"""Journals: what each process saw, line by line, in files that outlive a SIGKILL.

A line is in the kernel's hands before what it tells of goes on: a call is noted before it is sent,
an execution before the handler does anything else. So the judge can take the files at their word.
Times are the machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

ROTATE_AT = 4 * 1024 * 1024
"""Bytes after which a journal goes on in a further file, so that what was judged can be removed."""


class Begun(NamedTuple):
    """A call is about to be made.

    Attributes:
        number: Counts the calls of one process, from 1.
        begun: When.
        due: The moment of its deadline.
        checksum: The CRC-32 of the answer that it must get.
        size: Bytes of payload that are sent.
        nested: Whether it is made inside a handler.
        target: The service and the method.
    """

    number: int
    kind: str
    begun: float
    due: float
    checksum: int
    size: int
    nested: bool
    target: str


class Ended(NamedTuple):
    """A call has ended for its caller.

    Attributes:
        how: ``ok``, ``error``, ``scope`` (its own deadline scope fired), ``cancelled``, or
            ``broken``: it raised what no call may raise.
        maybe: What the error said of ``maybe_executed``.
        code: The error's code; ``-`` where there is none.
        reason: The error's reason, or what was raised instead of an error.
        answer: The id of the call that the answer says it answers.
        checksum: The CRC-32 of the answer.
        ended: When.
        lag: By how many seconds the caller's own loop was late lately, at worst.
        size: Bytes of payload that came.
        gateway: The gateway to whose connection it was handed; empty where it never left.
    """

    number: int
    how: str
    maybe: bool
    code: str
    reason: str
    answer: str
    checksum: int
    ended: float
    lag: float
    size: int
    gateway: str


class Executed(NamedTuple):
    """A handler begins to run a call; its id is the caller's life and number: ``caller-1.2:77``."""

    id: str


class Connected(NamedTuple):
    """The process has a connection to this gateway, another than before."""

    gateway: str


class Holds(NamedTuple):
    """What the process still holds, now and then.

    Attributes:
        at: When.
        calling: Calls that it waits for.
        serving: Calls that it serves.
        assembling: Bytes of long messages of which not all has come.
        oldest: Seconds since the end of the newest call among the records that it forgets next.
    """

    at: float
    calling: int
    serving: int
    assembling: int
    oldest: float


class Finished(NamedTuple):
    """The process ends in good order, after this many calls."""

    calls: int


Line = Begun | Ended | Executed | Connected | Holds | Finished


class Journal:
    """Writes the journal of one life of a process.

    Args:
        folder: Where all journals are.
        life: The name of this life: the process's name and how often it has been started.
    """

    def __init__(self, folder: Path, life: str) -> None:
        self.life = life
        self._folder = folder
        self._part = 0
        self._size = 0
        self._lock = threading.Lock()  # plain functions note their execution in their own thread
        self._file = self._open()

    def write(self, line: Line) -> None:
        """Append a line; it is safe from the death of this process when this returns."""
        fields = (type(line).__name__, *map(_text, line))
        data = (" ".join(fields) + "\n").encode()
        with self._lock:
            if self._size > ROTATE_AT:
                os.close(self._file)
                self._part += 1
                self._size = 0
                self._file = self._open()
            self._size += os.write(self._file, data)

    def _open(self) -> int:
        path = self._folder / f"{self.life}.{self._part}"
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


class Reader:
    """Reads the journal of one life while it is written, and removes what has been read."""

    def __init__(self, folder: Path, life: str) -> None:
        self.life = life
        self._folder = folder
        self._part = 0
        self._offset = 0
        self._rest = b""

    def read(self) -> list[Line]:
        """The lines that have been added; a last one that is not whole stays for later."""
        found: list[Line] = []
        while True:
            following = self._path(self._part + 1).exists()  # before reading, not to miss an end
            try:
                with self._path(self._part).open("rb") as file:
                    file.seek(self._offset)
                    data = file.read()
            except FileNotFoundError:
                return found
            self._offset += len(data)
            *lines, self._rest = (self._rest + data).split(b"\n")
            found += [parse(line.decode()) for line in lines]
            if not following:
                return found
            self._path(self._part).unlink()
            self._part += 1
            self._offset = 0

    def close(self) -> None:
        """Remove the file; the process is dead, and all that it wrote has been read."""
        self._path(self._part).unlink(missing_ok=True)

    def _path(self, part: int) -> Path:
        return self._folder / f"{self.life}.{part}"


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6f}"
    if isinstance(value, bool):
        return str(int(value))
    return str(value).replace(" ", "_").replace("\n", "_") or "-"


def parse(text: str) -> Line:
    """A line of a journal."""
    kind, *fields = text.split(" ")
    match kind:
        case "Begun":
            number, name, begun, due, checksum, size, nested, target = fields
            return Begun(
                int(number), name, float(begun), float(due), int(checksum), int(size),
                nested == "1", target,
            )  # fmt: skip
        case "Ended":
            number, how, maybe, code, reason, answer, checksum, ended, lag, size, gateway = fields
            return Ended(
                int(number), how, maybe == "1", code, reason, answer, int(checksum),
                float(ended), float(lag), int(size),
                "" if gateway == "-" else gateway,
            )  # fmt: skip
        case "Executed":
            return Executed(fields[0])
        case "Connected":
            return Connected(fields[0])
        case "Holds":
            at, calling, serving, assembling, oldest = fields
            return Holds(float(at), int(calling), int(serving), int(assembling), float(oldest))
        case "Finished":
            return Finished(int(fields[0]))
    raise ValueError(f"no line of a journal: {text[:200]!r}")
