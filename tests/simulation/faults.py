"""Faults: what breaks, when, and what it disturbs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from tests.simulation.plan import FICKLE

if TYPE_CHECKING:
    from tests.simulation.peers import Peer
    from tests.simulation.world import World

LONGEST_ABSENCE = 2.0
"""Seconds after which another process takes the place of one that is gone."""


class Faults:
    """Makes the planned faults happen; whom they hit, the seed decides at that moment."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def run(self, begun: float) -> None:
        """Break one thing after the other."""
        world = self._world
        for at, kind in world.plan.faults:
            await trio.sleep_until(begun + at)
            world.chronicle.seen[f"fault {kind}"] += 1
            if kind in {"gateway_kill", "gateway_drain"}:
                world.nursery.start_soon(getattr(self, f"_{kind}"))
                continue
            peers = world.living(serving=kind in {"kill", "leave", "register"})
            if peers:
                peer = world.rng.choice(peers)
                world.chronicle.note(f"fault {kind} hits {peer.id}")
                getattr(self, f"_{kind}")(peer)

    def _cut(self, peer: Peer) -> None:
        for wire in peer.wires:
            wire.cut()
        self._world.disturb()

    def _kill(self, peer: Peer) -> None:
        self._world.disturb(LONGEST_ABSENCE)
        peer.kill()
        self._world.nursery.start_soon(self._replace, peer)

    def _leave(self, peer: Peer) -> None:
        self._world.disturb(self._world.limits.drain + LONGEST_ABSENCE, lossy=False)
        peer.left_at = trio.current_time()
        peer.leaving.set()
        self._world.nursery.start_soon(self._replace, peer)

    async def _replace(self, peer: Peer) -> None:
        world = self._world
        await trio.sleep(world.rng.choice((0.0, world.rng.uniform(0.0, LONGEST_ABSENCE))))
        if not world.closing:
            world.add_peer(peer.name, peer.service)

    def _stall(self, peer: Peer) -> None:
        seconds = self._world.rng.uniform(0.1, 3.0)
        for wire in peer.wires:
            wire.stall(trio.current_time() + seconds)
        self._world.disturb(seconds)

    def _silence(self, peer: Peer) -> None:
        limits = self._world.limits
        seconds = limits.silent_after * limits.heartbeat + 2 * limits.heartbeat
        for wire in peer.wires:
            wire.silence()
        self._world.disturb(seconds)

    def _register(self, peer: Peer) -> None:
        if not hasattr(peer, "client"):
            return
        if peer.serves_fickle:
            peer.unregister(FICKLE)
        else:
            peer.register(FICKLE)

    async def _gateway_kill(self) -> None:
        world = self._world
        hub = world.hub
        if not hub.accepts:
            return
        world.disturb(3.0)
        world.kill_gateway(hub)
        await self._next_gateway()

    async def _gateway_drain(self) -> None:
        world = self._world
        hub = world.hub
        if not hub.accepts:
            return
        world.disturb(3.0 + 2 * world.limits.drain)
        hub.accepts = False
        hub.gateway.drain()
        if world.rng.random() < 0.5:
            await hub.over.wait()
        await self._next_gateway()

    async def _next_gateway(self) -> None:
        world = self._world
        await trio.sleep(world.rng.uniform(0.0, 1.0))
        await world.start_gateway()
        world.disturb(world.limits.reconnect_longest)
