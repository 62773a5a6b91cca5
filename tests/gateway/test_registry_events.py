"""EVENT frames: what a peer is told of the registry, where it asked for that."""

from __future__ import annotations

import trio.testing

import mesh
from mesh import events
from mesh.payload import encode
from mesh.wire import codec
from mesh.wire.frames import Kind
from tests.gateway.raw_peer import MemoryDialer, raw_peer, register_header, settled
from tests.gateway.test_events import is_, until


async def nothing() -> None:
    pass


async def test_a_peer_that_asked_is_told_who_serves_what() -> None:
    """From its connection on, its own services included; nobody else is told anything."""
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("before", gateway=gateway) as before,
    ):
        before.register("get", nothing)
        await settled(before)
        async with (
            mesh.connect("watcher", gateway=gateway, registry_events=True) as watcher,
            watcher.events() as stream,
            before.events() as ignorant,
        ):
            async with mesh.connect("users", gateway=gateway) as users:
                users.register("get", nothing)
                users.register("put", nothing, service="files")
                (told,) = await until(stream, is_(events.ServiceRegistered, service="users"))
                assert isinstance(told, events.ServiceRegistered)
                assert (told.methods, told.peer, told.version) == (["get"], "users", "")
                assert told.process_id == users.status().process_id
                await until(stream, is_(events.ServiceRegistered, service="files"))
                users.unregister("put", service="files")
                gone = is_(events.ServiceDisconnected, service="files", reason="unregistered")
                assert len(await until(stream, gone)) == 1
            gone = is_(events.ServiceDisconnected, service="users", reason="disconnected")
            assert len(await until(stream, gone)) == 1
            watcher.register("own", nothing)
            await until(stream, is_(events.ServiceRegistered, service="watcher", peer="watcher"))
            assert stream.dropped == 0
            assert not ignorant._events
        await settled(before)
        assert gateway.core.events.watchers == {}


async def test_it_is_told_again_after_a_reconnect() -> None:
    async with mesh.Gateway() as gateway:
        dialer = MemoryDialer(gateway)
        async with (
            mesh.connect("watcher", gateway=dialer, registry_events=True) as watcher,
            mesh.connect("users", gateway=gateway) as users,
            watcher.events() as stream,
        ):
            users.register("get", nothing)
            await until(stream, is_(events.ServiceRegistered))
            await dialer.streams[-1].aclose()
            await until(stream, is_(events.Connected))
            users.register("put", nothing)
            await until(stream, is_(events.ServiceRegistered, methods=["put"]))
            assert stream.dropped == 0


async def test_a_watcher_that_does_not_read_is_not_told_and_learns_how_much_it_missed() -> None:
    """Its outbox is kept for calls; what was left out is counted on both sides."""
    async with mesh.Gateway() as gateway, raw_peer(gateway, "server") as server:
        async with (
            mesh.connect("watcher", gateway=gateway, registry_events=True) as watcher,
            watcher.events() as stream,
        ):
            session = next(one for one in gateway.core.sessions.values() if one.name == "watcher")
            await server.send(register_header("first", "go"))
            await until(stream, is_(events.ServiceRegistered, service="first"))
            limit, session.link.limit = session.link.limit, 100
            session.link.queued += 26  # as if so much waited
            for number in range(3):
                await server.send(register_header(f"unseen{number}", "go"))
            await trio.testing.wait_all_tasks_blocked()
            assert gateway.core.events.untold == 3
            session.link.queued -= 26
            session.link.limit = limit
            await server.send(register_header("last", "go"))
            assert len(await until(stream, is_(events.ServiceRegistered, service="last"))) == 1
            assert stream.dropped == 3
        _, slices = gateway._figures.exposition.render()
        assert "mesh_events_dropped_total 3.0" in "".join(slices)


async def test_a_change_that_fits_no_frame_is_left_out() -> None:
    async with (
        mesh.Gateway(limits=mesh.Limits(max_chunk=200)) as gateway,
        mesh.connect("watcher", gateway=gateway, registry_events=True) as watcher,
        mesh.connect("users", gateway=gateway) as users,
        watcher.events() as stream,
    ):
        for method in range(20):
            users._uplink.register("users", {f"a_long_name_{method}_{i}": {} for i in range(9)})
        users.register("get", nothing)
        await until(stream, is_(events.ServiceRegistered, methods=["get"]))
        assert gateway.core.events.untold == 20
        assert watcher.is_connected


async def test_what_a_later_gateway_tells_is_ignored() -> None:
    """Other topics, other changes, further keys: the connection and its events go on."""
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("watcher", gateway=gateway, registry_events=True) as watcher,
        watcher.events() as stream,
    ):
        session = next(one for one in gateway.core.sessions.values() if one.name == "watcher")
        known = {"service": "s", "peer": "p", "process_id": "1", "more": [1]}
        for topic, payload in (
            ("weather", b"\x80"),
            ("registry", b""),
            ("registry", encode({**known, "change": "moved"})),
            ("registry", encode({**known, "change": "registered", "methods": ["m"]})),
        ):
            session.link.put(codec.encode(Kind.EVENT, (topic, 7), payload))
        session.link.flush()
        (told,) = await until(stream, is_(events.ServiceRegistered))
        assert isinstance(told, events.ServiceRegistered)
        assert (told.service, told.methods) == ("s", ["m"])
        await settled(watcher)
