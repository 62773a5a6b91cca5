"""The demo's processes: the gateway and the services, started, watched, restarted and ended."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import trio

from mesh.cli.failures import Failure
from mesh.units import tell_seconds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

GATEWAY = "gateway"
START_WITHIN = 30.0
"""Seconds in which a process has to be ready, on a machine that is busy with other things."""
STOP_WITHIN = 3.0
"""Seconds that processes are given to end by themselves."""
RESTART_AFTER = 0.3
"""Seconds between a service's death and the start of its successor."""


class Child:
    """One process, and what it told about itself."""

    def __init__(self, name: str, process: trio.Process) -> None:
        self.name = name
        self.process = process
        self.ready = trio.Event()
        self.details: dict[str, Any] = {}


class Processes:
    """All processes of one demo, in one temporary directory. Made by :func:`open_processes`.

    Args:
        directory: Where the gateway's socket and everybody's logs are.
        nursery: Where the tasks that watch the processes run.
        happened: Is told what happens: the name of the process, the event, its details. Events are
            ``died`` and ``back``, and those that a service tells by itself.
    """

    def __init__(
        self,
        directory: Path,
        nursery: trio.Nursery,
        happened: Callable[[str, str, dict[str, Any]], None],
    ) -> None:
        self._directory = directory
        self._nursery = nursery
        self._happened = happened
        self._children: dict[str, Child] = {}
        self._is_stopping = False

    async def start(self, name: str) -> Child:
        """Start a process and return once it is ready.

        Raises:
            Failure: It ended before, or was not ready in time; the advice is its log's end.
        """
        # -P keeps a `mesh.py` in the user's directory from being taken for ours. A session of its
        # own keeps Ctrl-C away: the demo ends its processes in order.
        command = [sys.executable, "-P", "-m", "mesh.cli.demo.child", name, str(self._directory)]
        with (self._directory / f"{name}.log").open("ab") as log:
            process = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        if self._is_stopping:  # while a process is being made, nothing can be cancelled
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            await trio.sleep_forever()
        child = self._children[name] = Child(name, process)
        self._nursery.start_soon(self._watch, child)
        with trio.move_on_after(START_WITHIN):
            await child.ready.wait()
            return child
        raise self._failure(child, f"was not ready within {START_WITHIN:g} s")

    def pid(self, name: str) -> int:
        """The number of a process."""
        return self._children[name].process.pid

    def kill(self, name: str) -> None:
        """End a process without a warning."""
        self._children[name].process.kill()

    def kill_all(self) -> None:
        """End everything at once."""
        for child in self._children.values():
            child.process.kill()

    async def stop(self) -> None:
        """Ask all processes to end, and end those that do not."""
        self._is_stopping = True
        with trio.CancelScope(shield=True):
            for child in self._children.values():
                child.process.send_signal(signal.SIGTERM)
            with trio.move_on_after(STOP_WITHIN):
                await self._wait_all()
            self.kill_all()
            await self._wait_all()

    async def _wait_all(self) -> None:
        for child in self._children.values():
            await child.process.wait()

    async def _watch(self, child: Child) -> None:
        async for line in _lines(child.process):
            with suppress(ValueError, KeyError):
                told = json.loads(line)
                event = told.pop("event")
                if event == "ready":
                    child.details = told
                    child.ready.set()
                else:
                    self._happened(child.name, event, told)
        status = await child.process.wait()
        if self._is_stopping:
            return
        if not child.ready.is_set() or child.name == GATEWAY:
            raise self._failure(child, f"ended unexpectedly with {_status(status)}")
        self._happened(child.name, "died", {"pid": child.process.pid, "by": _status(status)})
        died = trio.current_time()
        await trio.sleep(RESTART_AFTER)
        again = await self.start(child.name)
        away = trio.current_time() - died
        self._happened(child.name, "back", {"pid": again.process.pid, "away_s": tell_seconds(away)})

    def _failure(self, child: Child, what: str) -> Failure:
        log = (self._directory / f"{child.name}.log").read_text(errors="replace")
        last = "\n      ".join(log.splitlines()[-12:])
        return Failure(f"process {child.name} {what}", f"Its log ends:\n      {last}" * bool(last))


@asynccontextmanager
async def open_processes(
    directory: Path, happened: Callable[[str, str, dict[str, Any]], None]
) -> AsyncIterator[Processes]:
    """Have processes for as long as the block runs; none is left at its end, however it ends."""
    async with trio.open_nursery() as nursery:
        processes = Processes(directory, nursery, happened)
        try:
            yield processes
        finally:
            await processes.stop()
            nursery.cancel_scope.cancel()


def _status(returncode: int) -> str:
    return signal.Signals(-returncode).name if returncode < 0 else f"status {returncode}"


async def _lines(process: trio.Process) -> AsyncIterator[bytes]:
    assert process.stdout is not None  # noqa: S101 - it was opened as a pipe
    rest = b""
    async for chunk in process.stdout:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
