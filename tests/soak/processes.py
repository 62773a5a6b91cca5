"""The processes of a soak: started, watched, sampled, and ended by their numbers."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from tests.soak.journal import Reader
from tests.soak.mix import INSTANCES, TLS_PEERS

if TYPE_CHECKING:
    import mesh
    from tests.soak.judge import Judge

GATEWAY = "gateway"
SERVICES = tuple(f"{name}-{n + 1}" for name, count in INSTANCES.items() for n in range(count))
CALLERS = ("caller-1", "caller-2", "caller-3")
START_WITHIN = 60.0
"""Seconds in which a process has to be ready, on a machine that is busy with other things."""
END_WITHIN = 30.0
"""Seconds in which a process ends that was asked to: its drain, and room."""
LEAST_SAMPLES = 12
PAGE = os.sysconf("SC_PAGE_SIZE")


class Sample(NamedTuple):
    """What a process held at a moment."""

    at: float
    memory: int
    files: int


NOTHING = Sample(0.0, 0, 0)


@dataclass(slots=True, eq=False)
class Child:
    """One life of a process.

    Attributes:
        is_expected: Whether its end is.
        over: Set once it is dead, and its journal has been read.
        at_start: What it held when it was ready.
    """

    name: str
    life: str
    process: trio.Process
    log: Path
    started: float
    is_expected: bool = False
    over: trio.Event = field(default_factory=trio.Event)
    samples: list[Sample] = field(default_factory=list)
    at_start: Sample = NOTHING

    def sample(self) -> None:
        """Note what it holds now."""
        folder = Path(f"/proc/{self.process.pid}")
        try:
            memory = int((folder / "statm").read_text().split()[1]) * PAGE
            files = sum(1 for _ in (folder / "fd").iterdir())
        except (OSError, IndexError):  # it is just ending
            return
        self.samples.append(Sample(time.monotonic(), memory, files))

    def growth(self, floods: list[float]) -> tuple[Sample, Sample] | None:
        """Medians of what it held early and late in its life, once it was warm.

        A process that a flood passed through keeps much of what it needed for that; so its life
        is looked at from its first flood on, and from its second quarter on.

        Args:
            floods: When each flood had ended.

        Returns:
            Medians of the first and the last third of that; None where it was short.
        """
        first = next((at for at in floods if at > self.started), self.started)
        warm = max(first + 1.0, self.samples[len(self.samples) // 4].at) if self.samples else 0.0
        samples = [sample for sample in self.samples if sample.at >= warm]
        if len(samples) < LEAST_SAMPLES:
            return None
        third = len(samples) // 3
        return _median(samples[:third]), _median(samples[-third:])


def _median(samples: list[Sample]) -> Sample:
    return Sample(*(statistics.median_low(column) for column in zip(*samples, strict=True)))


class Fleet:
    """All processes of one run.

    Args:
        folder: Where journals, logs and the socket are.
        judge: Hears of every birth and death, and reads the journals.
        nursery: Where the processes are watched.
        certificate: The gateway's, for the peers that come over TLS.
        rate: Entry calls per second of each caller.
        seed: What the callers draw their calls from.

    Attributes:
        now: The life of each process that runs.
        past: The lives that are over.
        floods: When each flood had ended.
        admin: The gateway's admin address.
    """

    def __init__(
        self,
        folder: Path,
        judge: Judge,
        nursery: trio.Nursery,
        certificate: mesh.CertificateFiles,
        rate: float,
        seed: int,
    ) -> None:
        self.folder = folder
        self.judge = judge
        self.now: dict[str, Child] = {}
        self.past: list[Child] = []
        self.floods: list[float] = []
        self.admin = ""
        self.tls_port = _free_port()
        self._nursery = nursery
        self._certificate = certificate
        self._load = (str(rate), str(seed))
        self._lives: dict[str, int] = {}
        self._readers: dict[str, Reader] = {}
        self.journals = folder / "journals"
        self.journals.mkdir()

    async def start(self, name: str) -> Child:
        """Start a process and return once it is ready.

        Raises:
            RuntimeError: It ended before; its log's end is in the message.
        """
        number = self._lives[name] = self._lives.get(name, 0) + 1
        life = f"{name}.{number}"
        if name == GATEWAY:
            self.judge.ledger.open(life, time.monotonic())
        arguments = self._gateway() if name == GATEWAY else self._peer(name, life)
        log = self.folder / f"{life}.log"
        with log.open("wb") as errors:
            # Ctrl-C is for the soak alone, which then ends all of them.
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "tests.soak.roles", *arguments],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                start_new_session=True, env=self._environment(),
            )  # fmt: skip
        child = Child(name, life, process, log, time.monotonic())
        self.now[name] = child
        if name != GATEWAY:
            self.open_journal(life, name, name if name in CALLERS else name.partition("-")[0])
        line = b""
        with trio.move_on_after(START_WITHIN):
            line = await _first_line(process)
        if b"ready" not in line:
            raise RuntimeError(f"{life} did not start:\n{log.read_text()[-3000:]}")
        if name == GATEWAY:
            told = json.loads(line)
            self.admin = told["admin"]
            self.judge.ledger.ready(told["gateway"])
        child.sample()
        child.at_start = child.samples[-1]
        self._nursery.start_soon(self._watch, child)
        return child

    def open_journal(self, life: str, name: str, peer: str, *, is_flood: bool = False) -> None:
        """Have the judge know of a life, and read what it writes."""
        self.judge.born(life, name, peer, is_flood=is_flood)
        self._readers[life] = Reader(self.journals, life)

    def kill(self, name: str) -> Child:
        """SIGKILL."""
        child = self.now[name]
        child.is_expected = True
        if name == GATEWAY:
            now = time.monotonic()
            self.judge.tally.gateway_died(now)
            self.judge.ledger.kill(now)
        child.process.kill()
        return child

    async def end(self, name: str) -> int:
        """SIGTERM; returns the exit status once it is over.

        A process that does not end is a violation, and is killed.
        """
        child = self.now[name]
        child.is_expected = True
        child.process.terminate()
        with trio.move_on_after(END_WITHIN):
            await child.over.wait()
        if not child.over.is_set():
            self.judge.complain(f"{child.life} has not ended {END_WITHIN:g} s after SIGTERM")
            child.process.kill()
            await child.over.wait()
        return child.process.returncode or 0

    async def kill_all(self) -> None:
        """Leave no process behind; those that are held by a signal die of this one too."""
        children = list(self.now.values())
        for child in children:
            child.is_expected = True
            if child.process.returncode is None:
                child.process.kill()
        for child in children:
            await child.process.wait()

    def check_nothing_left(self) -> None:
        """No process of this run may be left, whoever started it."""
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal() and int(folder.name) != os.getpid():
                with suppress(OSError):
                    command = (folder / "cmdline").read_bytes()
                    if os.fsencode(self.folder) in command:
                        self.judge.complain(f"process {folder.name} is left over: {command!r}")

    def read(self) -> None:
        """Hand the judge what has been written to the journals."""
        for life, reader in list(self._readers.items()):
            self.judge.read(life, reader.read())

    def sample(self) -> None:
        """Note what each process holds."""
        for child in self.now.values():
            child.sample()

    def logs(self) -> dict[str, str]:
        """What each life wrote to its standard error, at most its end."""
        found: dict[str, str] = {}
        for child in (*self.past, *self.now.values()):
            with child.log.open("rb") as file:
                file.seek(max(0, child.log.stat().st_size - 1_000_000))
                found[child.life] = file.read().decode(errors="replace")
        return found

    async def _watch(self, child: Child) -> None:
        status = await child.process.wait()
        now = time.monotonic()
        reader = self._readers.pop(child.life, None)
        if reader is not None:
            self.judge.read(child.life, reader.read())
            self.judge.died(child.life, now, killed=status != 0)
            reader.close()
        if not child.is_expected:
            how = signal.Signals(-status).name if status < 0 else f"status {status}"
            self.judge.complain(
                f"{child.life} ended by itself with {how}:\n{child.log.read_text()[-2000:]}"
            )
        elif status not in {0, -signal.SIGKILL}:
            self.judge.complain(f"{child.life} ended with {status}")
        self.past.append(child)
        if self.now.get(child.name) is child:
            del self.now[child.name]
        child.over.set()
        if not child.is_expected:
            await self.start(child.name)

    # How each is started.

    def _gateway(self) -> list[str]:
        files = self._certificate
        return [
            "gateway", "--json", "--listen", f"unix:{self.folder}/gateway.sock",
            "--listen", f"tls:127.0.0.1:{self.tls_port}", "--admin", "127.0.0.1:0",
            "--tls-cert", str(files.cert), "--tls-key", str(files.key), "--log-level", "warning",
        ]  # fmt: skip

    def _peer(self, name: str, life: str) -> list[str]:
        address = f"unix:{self.folder}/gateway.sock"
        if name in TLS_PEERS:
            address = f"tls:127.0.0.1:{self.tls_port}"
        if name in CALLERS:
            return ["caller", name, life, address, str(self.journals), *self._load]
        return ["service", name.partition("-")[0], life, address, str(self.journals)]

    def _environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MESH_")}
        return {**kept, "MESH_TLS_CA": str(self.folder / "authority" / "ca.pem")}


def _free_port() -> int:
    """A port for all gateways of a run.

    It is below those that the system gives to connections: while no gateway listens, a peer that
    tries again and again could be given that very port, and be connected to itself.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


async def _first_line(process: trio.Process) -> bytes:
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n"):
        data: Any = await process.stdout.receive_some()
        if not data:
            break
        line += bytes(data)
    return line
