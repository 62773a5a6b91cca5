"""Real processes for tests: each started by its test, ready when it says so, ended by its id."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    import signal
    from collections.abc import AsyncIterator, Sequence

HERE = Path(__file__).parent
PATIENCE = 30
"""Seconds after which a process is taken not to start or not to end."""


@dataclass
class Running:
    """One process, its output so far and the file with its errors."""

    process: trio.Process
    errors: Path
    pending: bytes = b""

    async def line(self) -> str:
        """The next line that it prints.

        Raises:
            AssertionError: It ended instead; with what it wrote to its standard error.
        """
        assert self.process.stdout is not None
        while b"\n" not in self.pending:
            with trio.fail_after(PATIENCE):
                data = await self.process.stdout.receive_some()
            assert data, f"it ended without a further line:\n{self.errors.read_text()[-4000:]}"
            self.pending += data
        line, _, self.pending = self.pending.partition(b"\n")
        return line.decode()

    async def end(self, number: signal.Signals) -> int:
        """Send it a signal and wait for its end; returns its exit status."""
        self.process.send_signal(number)
        return await self.wait()

    async def wait(self) -> int:
        """Wait for its end; returns its exit status."""
        with trio.fail_after(PATIENCE):
            return await self.process.wait()


@dataclass
class World:
    """The processes of one test, and where they meet."""

    folder: Path
    running: list[Running] = field(default_factory=list)

    @property
    def address(self) -> str:
        """The gateway's address."""
        return f"unix:{self.folder}/gateway.sock"

    @property
    def executed(self) -> list[str]:
        """What the services noted, as ``service id``."""
        file = self.folder / "executed"
        return file.read_text().splitlines() if file.exists() else []

    async def start(
        self, *arguments: str, command: Sequence[str] = (sys.executable,), **variables: Any
    ) -> Running:
        """Start a program, Python where not said, and return at once.

        Args:
            arguments: The program's.
            command: The program, and what stands before these.
            variables: As of ``trio.lowlevel.open_process``.
        """
        errors = self.folder / f"errors-{len(self.running)}"
        with errors.open("wb") as file:
            process = await trio.lowlevel.open_process(
                [*command, *arguments], stdout=-1, stderr=file.fileno(), **variables
            )
        running = Running(process, errors)
        self.running.append(running)
        return running

    async def gateway(self, *options: str) -> Running:
        """Start a gateway; return once peers can connect."""
        listen = ("--listen", self.address, "--admin", "none", "--json", *options)
        running = await self.start("-m", "mesh.cli", "gateway", *listen)
        assert '"ready"' in await running.line()
        return running

    async def service(self, name: str) -> Running:
        """Start a service; return once it is served."""
        running = await self.start(
            str(HERE / "work_service.py"), self.address, str(self.folder / "executed"), name
        )
        assert await running.line() == "ready"
        return running

    async def caller(self, prefix: str) -> Running:
        """Start a caller; return once it has had an answer."""
        running = await self.start(str(HERE / "busy_caller.py"), self.address, prefix)
        assert await running.line() == "ready"
        return running


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    """A place for processes; those that still run at its end are killed."""
    made = World(folder)
    try:
        yield made
    finally:
        with trio.CancelScope(shield=True):
            for running in made.running:
                if running.process.returncode is None:
                    running.process.kill()
                await running.process.wait()
                if running.process.stdout is not None:
                    await running.process.stdout.aclose()
