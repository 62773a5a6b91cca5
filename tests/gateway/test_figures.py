"""The gateway's figures at a scrape: true values of a real gateway with real peers."""

from __future__ import annotations

import time
from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from prometheus_client.parser import text_string_to_metric_families

import mesh

if TYPE_CHECKING:
    from collections.abc import Callable

Labels = dict[str, str]


def read(gateway: mesh.Gateway, name: str) -> list[tuple[Labels, float]]:
    """The samples of one name, those of the gateway's own service left out."""
    text = "".join(gateway._figures.exposition.render()[1])
    return [
        (sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and sample.labels.get("rpc_service") != "mesh"
    ]


def value(gateway: mesh.Gateway, name: str, **labels: str) -> float:
    """The only sample with these labels; 0 where there is none."""
    found = [value for have, value in read(gateway, name) if labels.items() <= have.items()]
    assert len(found) <= 1
    return found[0] if found else 0.0


async def until(condition: Callable[[], bool]) -> None:
    """Let the other tasks of this loop run until something is so."""
    with trio.fail_after(10):
        while not condition():
            await trio.testing.wait_all_tasks_blocked(0.001)


async def test_frames_of_calls_are_counted_to_the_frame() -> None:
    async with mesh.Gateway() as gateway:
        frames = partial(value, gateway, "mesh_frames_total")
        async with (
            mesh.connect("users", gateway=gateway) as users,
            mesh.connect("shop", gateway=gateway) as shop,
        ):

            @users.method()
            async def get(params: str) -> str:
                if params == "nobody":
                    raise mesh.NotFound("no such user")
                return params

            await users.call("mesh", "status")
            before = {
                (kind, way): frames(kind=kind, direction=way)
                for kind in ("call", "result", "error")
                for way in ("in", "out")
            }
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(shop.call, "users", "get", "ada")
            for _ in range(3):
                with pytest.raises(mesh.NotFound):
                    await shop.call("users", "get", "nobody")
            # A long call is chunked, both ways: 64 KiB at a time.
            await shop.call("users", "get", "x" * 200_000)
            after = {
                (kind, way): frames(kind=kind, direction=way) - count
                for (kind, way), count in before.items()
            }
            assert after == {
                ("call", "in"): 107,
                ("call", "out"): 107,
                ("result", "in"): 104,
                ("result", "out"): 104,
                ("error", "in"): 3,
                ("error", "out"): 3,
            }
            for way in ("in", "out"):
                assert 400_000 < value(gateway, "mesh_bytes_total", direction=way) < 600_000
        assert frames(kind="hello", direction="in") == 2
        assert frames(kind="welcome", direction="out") == 2
        assert frames(kind="register", direction="in") == 1
        assert frames(kind="goaway", direction="in") == 2


async def test_heartbeats_tell_loop_lag_and_work_and_disappear_with_the_instance() -> None:
    async with mesh.Gateway(limits=mesh.Limits(heartbeat=0.02)) as gateway:
        held = trio.Event()
        async with mesh.connect("users", gateway=gateway) as users:

            @users.method()
            async def wait() -> None:
                await held.wait()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(users.call, "users", "wait")
                await until(lambda: value(gateway, "mesh_peer_in_flight") == 1)
                ((labels, lag),) = read(gateway, "mesh_peer_loop_lag_seconds")
                assert labels == {"rpc_service": "users", "peer": users._uplink.process.id}
                assert 0 <= lag < 10
                held.set()
            await until(lambda: value(gateway, "mesh_peer_in_flight") == 0)
        await until(lambda: len(gateway.core.sessions) == 1)
        for name in ("loop_lag_seconds", "in_flight", "last_heartbeat_timestamp_seconds"):
            assert read(gateway, f"mesh_peer_{name}") == []


async def test_a_draining_instance_is_counted_until_it_is_gone() -> None:
    async with mesh.Gateway() as gateway, trio.open_nursery() as nursery:
        instances = partial(value, gateway, "mesh_service_instances", rpc_service="users")
        started, held, leave = trio.Event(), trio.Event(), trio.Event()

        async def serve(task_status: trio.TaskStatus[None]) -> None:
            async with mesh.connect("users", gateway=gateway) as users:

                @users.method()
                async def wait() -> None:
                    started.set()
                    await held.wait()

                await users.call("mesh", "status")
                task_status.started()
                await leave.wait()

        await nursery.start(serve)
        assert (instances(state="healthy"), instances(state="draining")) == (1, 0)
        async with mesh.connect("shop", gateway=gateway) as shop, trio.open_nursery() as calls:
            calls.start_soon(shop.call, "users", "wait")
            await started.wait()
            leave.set()
            await until(lambda: instances(state="draining") == 1)
            assert instances(state="healthy") == 0
            held.set()
        await until(lambda: instances(state="draining") == 0)
        assert {labels["state"] for labels, _ in read(gateway, "mesh_service_instances")} == {
            "healthy",
            "late",
            "unresponsive",
            "draining",
        }


async def test_instances_are_counted_by_the_version_of_their_contract() -> None:
    class Old(mesh.Contract, name="users", version="1.2.0"):
        @mesh.method
        @abstractmethod
        async def get(self) -> None: ...

    class New(mesh.Contract, name="users", version="2.0.0"):
        @mesh.method
        @abstractmethod
        async def get(self) -> None: ...

    class OldService(Old):
        async def get(self) -> None:
            """Nothing."""

    class NewService(New):
        async def get(self) -> None:
            """Nothing."""

    async with mesh.Gateway() as gateway, trio.open_nursery() as nursery:
        versions = partial(read, gateway, "mesh_service_versions")
        async with (
            mesh.connect("users", gateway=gateway) as one,
            mesh.connect("users", gateway=gateway) as other,
            mesh.connect("users", gateway=gateway) as new,
            mesh.connect("plain", gateway=gateway) as plain,
        ):
            for client, service in (
                (one, OldService()),
                (other, OldService()),
                (new, NewService()),
            ):
                await nursery.start(mesh.serve, client, service)
            plain.register("get", lambda: None)
            await until(lambda: len(versions()) == 3)
            assert {(have["rpc_service"], have["version"]): n for have, n in versions()} == {
                ("users", "1.2.0"): 2,
                ("users", "2.0.0"): 1,
                ("plain", "none"): 1,
            }
            nursery.cancel_scope.cancel()
        await until(lambda: versions() == [])


async def test_a_gateway_tells_that_it_drains_and_of_its_process() -> None:
    async with mesh.Gateway() as gateway:
        assert value(gateway, "mesh_gateway_draining") == 0
        assert value(gateway, "process_resident_memory_bytes") > 1e6
        assert 0 < value(gateway, "process_start_time_seconds") < time.time()
        gateway.drain()
        assert value(gateway, "mesh_gateway_draining") == 1


async def test_depth_and_edges_are_those_of_the_calls() -> None:
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("users", gateway=gateway) as users,
        mesh.connect("orders", gateway=gateway) as orders,
        mesh.connect("shop", gateway=gateway) as shop,
    ):

        @users.method()
        async def get(params: int) -> int:
            if params % 2:
                raise mesh.NotFound("odd")
            return params

        @orders.method()
        async def place(params: int) -> int:
            result: int = await orders.call("users", "get", params)
            return result

        for client in (users, orders):
            await client.call("mesh", "status")  # depth 1, twice
        for number in range(10):
            if number % 2:
                with pytest.raises(mesh.NotFound):
                    await shop.call("orders", "place", number)
            else:
                assert await shop.call("orders", "place", number) == number
        depth = partial(value, gateway, "mesh_call_depth_bucket")
        assert (depth(le="1.0"), depth(le="2.0"), depth(le="+Inf")) == (12, 22, 22)
        for client_name, server in (("shop", "orders"), ("orders", "users")):
            ends = {"client": client_name, "server": server}
            graph = "traces_service_graph_request"
            assert value(gateway, f"{graph}_total", **ends) == 10
            assert value(gateway, f"{graph}_failed_total", **ends) == 5
            assert value(gateway, f"{graph}_server_seconds_count", **ends) == 10
