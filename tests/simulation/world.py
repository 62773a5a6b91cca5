"""One simulated mesh: gateways, peers, the network between them, and the clock of its faults."""

from __future__ import annotations

import logging
import random
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

import mesh
from mesh.process import Process, Usage
from mesh.transport import Link, StreamLink
from tests.simulation.network import Weather, Wire
from tests.simulation.peers import Peer
from tests.simulation.plan import Plan, draw
from tests.simulation.record import Chronicle

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh.limits import Limits

SETTLE = 2.0
"""Seconds after which a disturbance has no more effects, retries of connections apart."""


class SimGateway(mesh.Gateway):
    """A gateway whose own peer, too, is connected by the simulated network."""

    world: World

    def _dial(self, limit: int, *, internal: bool) -> Link:
        wire = Wire(self.world.rng, Weather(0.0, 2**20, fragments=False))
        self.attach(
            StreamLink(wire.gateway_end, self.limits.max_outbox, "in process"), internal=internal
        )
        return StreamLink(wire.peer_end, limit, "in process")


@dataclass(slots=True, eq=False)
class Hub:
    """One gateway's life."""

    gateway: SimGateway
    started: float
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    wires: list[Wire] = field(default_factory=list)
    accepts: bool = True
    killed: bool = False
    over: trio.Event = field(default_factory=trio.Event)


class World:
    """Everything that one seed simulates.

    Args:
        seed: Decides all.
        prepare: Called with the world before it starts; tests of the oracle break things there.
    """

    def __init__(self, seed: int, prepare: Callable[[World], None] | None = None) -> None:
        self.rng = random.Random(seed)
        self.plan: Plan = draw(seed, self.rng)
        self.limits: Limits = self.plan.limits
        self.chronicle = Chronicle()
        self.hubs: list[Hub] = []
        self.peers: list[Peer] = []
        self.nodes: dict[int, Any] = {}
        self.tamper: Callable[[Wire], None] | None = None
        self.gateway_class: type[SimGateway] = SimGateway
        self.peer_class: type[Peer] = Peer
        self.disturbed_until = SETTLE
        self.lossy_until = 0.0
        self.closing = False
        self.nursery: trio.Nursery
        self._names = 0
        for _, entry in self.plan.entries:
            self._index(entry)
        if prepare is not None:
            prepare(self)

    def _index(self, node: Any) -> None:
        self.nodes[node.tag] = node
        for step in node.steps:
            for below in step.nodes:
                self._index(below)

    @property
    def hub(self) -> Hub:
        """The gateway that new connections reach."""
        return self.hubs[-1]

    def process(self, name: str) -> Process:
        """An identity of the simulated kind."""
        self._names += 1
        return Process(
            random=self.rng,
            usage=lambda: Usage(0, 0),
            wall=trio.current_time,
            id=f"{name}#{self._names}",
        )

    def disturb(self, seconds: float = 0.0, *, lossy: bool = True) -> None:
        """All promises of promptness are off for a while; of calls under way too, if lossy."""
        until = trio.current_time() + seconds + SETTLE
        self.disturbed_until = max(self.disturbed_until, until)
        if lossy:
            self.lossy_until = max(self.lossy_until, until)

    # Gateways.

    async def start_gateway(self) -> None:
        """A new gateway; from now on peers reach this one."""
        gateway = self.gateway_class(limits=self.limits, process=self.process("gateway"))
        gateway.world = self
        hub = Hub(gateway, trio.current_time())
        self.chronicle.note(f"gateway {gateway.instance} starts")
        await self.nursery.start(self._run_gateway, hub)
        self.hubs.append(hub)

    async def _run_gateway(self, hub: Hub, task_status: trio.TaskStatus[None]) -> None:
        try:
            with hub.scope:
                await hub.gateway.serve(task_status=task_status)
        finally:
            hub.accepts = False
            hub.over.set()
            self.chronicle.note(f"gateway {hub.gateway.instance} is over")

    def kill_gateway(self, hub: Hub) -> None:
        """The gateway's process vanishes."""
        hub.accepts, hub.killed = False, True
        for wire in hub.wires:
            wire.cut()
        hub.scope.cancel()

    # Connections.

    async def dial(self, peer: Peer, limit: int) -> Link:
        """A peer opens a connection to the current gateway."""
        latency = self.rng.uniform(*self.plan.latency)
        await trio.sleep(latency)
        hub = self.hub
        if not hub.accepts or not peer.alive:
            raise ConnectionRefusedError("no gateway listens")
        weather = Weather(latency, self.plan.capacity, self.plan.fragments)
        wire = Wire(self.rng, weather)
        if self.tamper is not None:
            self.tamper(wire)
        tcp = self.plan.is_tcp
        hub.gateway.attach(
            StreamLink(wire.gateway_end, self.limits.max_outbox, f"sim:{peer.id}", is_tcp=tcp)
        )
        hub.wires = [known for known in hub.wires if not known.over]
        hub.wires.append(wire)
        peer.wires = [known for known in peer.wires if not known.over]
        peer.wires.append(wire)
        self.chronicle.note(f"{peer.id} dials {hub.gateway.instance}")
        return StreamLink(wire.peer_end, limit, "sim:gateway", is_tcp=tcp)

    # Peers.

    def add_peer(self, name: str, service: str | None) -> Peer:
        """A new process joins: one that serves, or only calls."""
        peer = self.peer_class(self, name, service)
        self.peers.append(peer)
        self.nursery.start_soon(peer.run)
        return peer

    def living(self, *, serving: bool = False) -> list[Peer]:
        """The peers that are there and stay for now."""
        return [
            peer
            for peer in self.peers
            if peer.alive and not peer.leaving.is_set() and (peer.service or not serving)
        ]

    # The run.

    async def run(self) -> None:
        """Live through the plan, then come to rest."""
        from tests.simulation.faults import Faults
        from tests.simulation.ledger import close_books, quiesce

        plan = self.plan
        with _mesh_log(self.chronicle):
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                await self.start_gateway()
                for index in range(plan.callers):
                    self.add_peer(f"caller{index}", None)
                for service, count in plan.services.items():
                    for _ in range(count):
                        self.add_peer(service, service)
                if not plan.early:
                    await trio.sleep(0.5)
                begun = trio.current_time()
                nursery.start_soon(Faults(self).run, begun)
                for at, node in plan.entries:
                    await trio.sleep_until(begun + at)
                    callers = self.living()
                    if callers:
                        self.rng.choice(callers).enter(node)
                await quiesce(self)
                await close_books(self)
                nursery.cancel_scope.cancel()


def _is_planned(kind: str, trace: str) -> bool:
    """Whether a handler's failure is one that the plan or the mesh's own errors account for."""
    if kind == "ExceptionGroup":
        return not any(name in trace for name in ("UsageError", "AssertionError"))
    return kind.endswith("PlannedFailure")


class _LogWatch(logging.Handler):
    """What the mesh itself logs belongs to what happened, and some of it must not happen."""

    def __init__(self, chronicle: Chronicle) -> None:
        super().__init__(logging.WARNING)
        self._chronicle = chronicle

    def emit(self, record: logging.LogRecord) -> None:
        template = str(record.msg)
        chronicle = self._chronicle
        chronicle.note(f"log {record.name}: {template}")
        arguments = record.args if isinstance(record.args, tuple) else ()
        if record.name == "mesh.service" and template.startswith("handler of"):
            raised = record.exc_info[1] if record.exc_info else None
            trace = "".join(traceback.format_exception(raised)) if raised is not None else ""
            if not _is_planned(str(arguments[1]), trace):
                chronicle.complain(f"a handler failed by itself: {record.getMessage()}")
        elif template.startswith("closed %s"):
            if str(arguments[-1]).startswith("no HELLO within"):
                chronicle.seen["log no HELLO"] += 1
            else:
                chronicle.complain(f"a gateway found a fault: {record.getMessage()}")
        elif record.levelno >= logging.ERROR:
            detail = ""
            if record.exc_info and record.exc_info[1] is not None:
                detail = "".join(traceback.format_exception(record.exc_info[1]))
            chronicle.complain(f"logged as an error: {record.getMessage()}\n{detail}")


class _mesh_log:  # noqa: N801 - reads as the context manager that it is
    """Let the watch hear the mesh's loggers, and nobody else."""

    def __init__(self, chronicle: Chronicle) -> None:
        self._watch = _LogWatch(chronicle)
        self._logger = logging.getLogger("mesh")

    def __enter__(self) -> None:
        self._before = self._logger.propagate, self._logger.level
        self._logger.propagate = False
        self._logger.setLevel(logging.WARNING)
        self._logger.addHandler(self._watch)

    def __exit__(self, *exc: object) -> None:
        self._logger.removeHandler(self._watch)
        self._logger.propagate, self._logger.level = self._before[0], self._before[1]
