"""Simulated peers: they place the planned calls, and their handlers do what the plan says."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import trio

import mesh
from tests.simulation.plan import FICKLE, METHODS, TYPED
from tests.simulation.record import Execution, Placed

if TYPE_CHECKING:
    from mesh.transport import Link
    from tests.simulation.network import Wire
    from tests.simulation.plan import Node, Step
    from tests.simulation.world import World


class PlannedFailure(Exception):  # noqa: N818 - it is what a handler of a user's may raise
    """An exception that a handler was told to raise."""


class Peer:
    """One process of the simulated mesh.

    Attributes:
        left_at: When it began to leave.
    """

    def __init__(self, world: World, name: str, service: str | None) -> None:
        self.world = world
        self.name = name
        self.service = service
        self.process = world.process(name)
        self.id = self.process.id
        self.alive = True
        self.leaving = trio.Event()
        self.wires: list[Wire] = []
        self.serves_fickle = False
        self.left_at = float("inf")
        self.gone = trio.Event()
        self.client: mesh.Client
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None

    def __str__(self) -> str:
        return "sim:gateway"

    async def dial(self, limit: int) -> Link:
        """Open a connection to the gateway of the day."""
        return await self.world.dial(self, limit)

    # Life.

    async def run(self) -> None:
        """Join, serve, and leave when told to."""
        try:
            with self._scope:
                async with mesh.connect(
                    self.name,
                    gateway=self,
                    connect_timeout=0,
                    limits=self.world.limits,
                    process=self.process,
                ) as client:
                    self.client = client
                    if self.service is not None:
                        for method in METHODS:
                            self.register(method)
                        self.register(TYPED)
                        self.serves_fickle = self.world.rng.random() < 0.5
                        if self.serves_fickle:
                            self.register(FICKLE)
                    async with trio.open_nursery() as self._nursery:
                        await self.leaving.wait()
                        self._nursery.cancel_scope.cancel()
                    self._nursery = None
        finally:
            self.alive = False
            self.gone.set()
            self.world.chronicle.note(f"{self.id} is gone")

    def kill(self) -> None:
        """The process vanishes: no goodbye, nothing more is sent, nothing runs on."""
        self.alive = False

        async def vanish(_drain: float) -> None:
            await trio.lowlevel.checkpoint()

        if hasattr(self, "client"):
            setattr(self.client._uplink, "leave", vanish)  # noqa: B010 - typed, it would be a method
        for wire in self.wires:
            wire.cut()
        self._scope.cancel()

    def register(self, method: str) -> None:
        """Serve a method from now on."""
        if method == TYPED:

            async def typed(params: int) -> int:
                self.world.chronicle.complain(f"a handler of an int got {params!r}")
                return params

            self.client.register(method, typed, service=self.service)
            return

        async def handle(params: dict[str, Any]) -> Any:
            return await self._serve(method, params)

        self.client.register(method, handle, service=self.service)
        if method == FICKLE:
            self.serves_fickle = True

    def unregister(self, method: str) -> None:
        """Serve a method no longer."""
        self.client.unregister(method, service=self.service)
        if method == FICKLE:
            self.serves_fickle = False

    def enter(self, node: Node) -> None:
        """Place an entry call."""
        if self._nursery is not None:
            self._nursery.start_soon(self._enter, node)

    async def _enter(self, node: Node) -> None:
        activity = mesh.activity(node.activity) if node.activity else contextlib.nullcontext()
        with activity:
            await self.place(node, None)

    # Calling.

    async def place(
        self, node: Node, parent: Execution | None, *, detached: bool = False
    ) -> mesh.CallError | None:
        """Make a call and record how it ends; returns its error."""
        chronicle = self.world.chronicle
        params: Any = {"tag": node.tag, "pad": b"." * node.pad}
        if node.target == "bad_params":
            params = {"tag": node.tag, "bad": object()}
        timeout = node.timeout if node.mode in {"timeout", "both"} else None
        now = trio.current_time()
        scope_at = now + node.scope if node.mode in {"scope", "both"} else float("inf")
        with trio.CancelScope(deadline=scope_at) as scope:
            if node.mode == "cancel":
                if self._nursery is not None:
                    timeout = float("inf")
                    self._nursery.start_soon(_cancel_later, scope, node.scope)
                else:
                    timeout = node.timeout
            placed = self._placed(node, parent, timeout, detached=detached)
            chronicle.begins(placed)
            try:
                placed.value = await self.client.call(
                    node.service,
                    node.method,
                    params,
                    result=int if node.wants_int else Any,
                    timeout=timeout,
                    idempotent=node.idempotent,
                )
                chronicle.ends(placed, "ok")
            except mesh.CallError as error:
                placed.error = error
                chronicle.ends(placed, "error")
            except mesh.UsageError:
                chronicle.ends(placed, "closed")
            except trio.Cancelled:
                chronicle.ends(placed, "scope" if scope.cancel_called else "cancelled")
                raise
        return placed.error

    def _placed(
        self, node: Node, parent: Execution | None, timeout: float | None, *, detached: bool
    ) -> Placed:
        now = trio.current_time()
        due = earliest = now + (self.client._uplink.call_timeout if timeout is None else timeout)
        if parent is not None and not detached:
            due = min(due, parent.call.deadline)
            above = self.world.chronicle.placed[parent.node.tag]
            earliest = min(earliest, above.earliest)
        scope_at = max(now, trio.current_effective_deadline())
        by_scope = scope_at <= due
        due, earliest = max(now, min(due, scope_at)), min(earliest, scope_at)
        return Placed(node, self, parent, detached, now, due, earliest, by_scope)

    # Serving.

    async def _serve(self, method: str, params: dict[str, Any]) -> Any:
        call = mesh.current_call()
        assert call is not None
        chronicle = self.world.chronicle
        node: Node = self.world.nodes[params["tag"]]
        if node.method != method or node.service != call.service:
            chronicle.complain(f"call {node.tag} of {node.name} came to {call.service}.{method}")
        execution = Execution(node, self, call, trio.current_time())
        chronicle.starts(execution)
        try:
            for step in node.steps:
                await self._step(step, execution)
            value = await self._finish(execution)
        except trio.Cancelled:
            chronicle.stops(execution, "cancelled")
            raise
        except BaseException as raised:
            execution.error = raised
            cancelled = (
                isinstance(raised, BaseExceptionGroup) and not raised.split(trio.Cancelled)[1]
            )
            chronicle.stops(execution, "cancelled" if cancelled else "raised")
            raise
        execution.value = value
        chronicle.stops(execution, "returned")
        return value

    async def _step(self, step: Step, execution: Execution) -> None:
        match step.kind:
            case "sleep":
                await trio.sleep(step.seconds)
            case "calls":
                for node in step.nodes:
                    error = await self.place(node, execution)
                    if error is not None and execution.node.finish == "rethrow":
                        raise error
            case "together":
                async with trio.open_nursery() as nursery:
                    for node in step.nodes:
                        nursery.start_soon(self._place_or_raise, node, execution)
            case "detached":
                with mesh.detached():
                    self._background(step, execution, detached=True)
            case "orphan":
                self._background(step, execution, detached=False)

    async def _place_or_raise(self, node: Node, execution: Execution) -> None:
        error = await self.place(node, execution)
        if error is not None and execution.node.finish == "rethrow":
            raise error

    def _background(self, step: Step, execution: Execution, *, detached: bool) -> None:
        async def later() -> None:
            await trio.sleep(step.seconds)
            for node in step.nodes:
                await self.place(node, execution, detached=detached)

        if self._nursery is not None:
            self._nursery.start_soon(later)

    async def _finish(self, execution: Execution) -> Any:
        node = execution.node
        match node.finish:
            case "error":
                raise mesh.AlreadyExists(f"planned {node.tag}", reason="PLANNED", details={"n": 1})
            case "deadline":
                raise mesh.DeadlineExceeded(f"planned {node.tag}", reason="PLANNED_DEADLINE")
            case "exception":
                raise PlannedFailure(f"planned {node.tag}")
            case "group":
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep, 1.0)
                    raise PlannedFailure(f"planned {node.tag}")
            case "unencodable":
                return {"tag": node.tag, "bad": object()}
            case "hang":
                await trio.sleep_forever()
            case "stubborn":
                until = trio.current_time() + node.stubborn_for
                execution.shielded_until = until
                with trio.CancelScope(shield=True):
                    await trio.sleep_until(until)
            case _:
                pass
        nonce = self.world.rng.getrandbits(40)
        return {"tag": node.tag, "nonce": nonce, "pad": b"." * node.reply_pad}


async def _cancel_later(scope: trio.CancelScope, seconds: float) -> None:
    await trio.sleep(seconds)
    scope.cancel()
