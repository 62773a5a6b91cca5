"""What a gateway tells about its mesh: the same in Python, over the wire and over HTTP."""

from __future__ import annotations

import http.client
import json
import time
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
import trio.testing

import mesh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def ask(gateway: mesh.Gateway, path: str, method: str = "GET") -> tuple[int, str]:
    """Status and body of an answer of the admin server."""

    def blocking(address: str) -> tuple[int, str]:
        with closing(http.client.HTTPConnection(address, timeout=10)) as connection:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    assert gateway.admin_address is not None
    return await trio.to_thread.run_sync(blocking, gateway.admin_address, abandon_on_cancel=True)


@asynccontextmanager
async def shop() -> AsyncIterator[tuple[mesh.Gateway, mesh.Client]]:
    """A gateway with an admin server, the service `users`, and a caller."""
    async with (
        mesh.Gateway(admin="127.0.0.1:0") as gateway,
        mesh.connect("users", gateway=gateway, metadata={"zone": "north"}) as users,
        mesh.connect("shop", gateway=gateway) as caller,
    ):

        @users.method()
        async def get(params: int) -> int:
            if params < 0:
                raise mesh.NotFound("negative")
            return params

        @users.method("list")
        async def list_all() -> None:
            await trio.sleep_forever()

        await users.call("mesh", "status")
        yield gateway, caller


def timeless(value: Any) -> Any:
    """A view as plain data without what changes between two looks."""
    changing = "_s", "_us", "_at", "memory_bytes", "in_flight", "routed", "outbox_bytes"
    if isinstance(value, dict):
        return {key: timeless(one) for key, one in value.items() if not key.endswith(changing)}
    return [timeless(one) for one in value] if isinstance(value, list) else value


async def test_services_are_told_with_all_that_is_known() -> None:
    async with shop() as (gateway, _):
        (users,) = [service for service in gateway.services() if service.name == "users"]
        (instance,) = users.instances
        assert (users.methods, users.versions) == (["get", "list"], [])
        assert (instance.peer, instance.state, instance.methods) == (
            "users",
            "healthy",
            ["get", "list"],
        )
        assert instance.metadata == {"zone": "north"}
        assert 0 <= instance.connected_s < 60
        assert abs(instance.connected_at - time.time()) < 60
        assert 0 <= instance.heartbeat_age_s < 60
        assert instance.in_flight == 0
        assert gateway.service("nobody") is None


async def test_the_three_ways_to_ask_tell_the_same() -> None:
    async with shop() as (gateway, caller):
        for params in (1, 2, -1):
            try:
                await caller.call("users", "get", params)
            except mesh.NotFound:
                assert params < 0
        for name, own in (
            ("services", gateway.services),
            ("status", gateway.status),
            ("edges", lambda: list(gateway.views.edges())),
        ):
            status, body = await ask(gateway, f"/api/{name}")
            over_wire = timeless(await caller.call("mesh", name))
            here = timeless(msgspec.to_builtins(own()))
            assert status == 200
            if name == "edges":  # asking is a call itself
                over_http = [edge for edge in json.loads(body) if edge["caller"] == "shop"][:1]
                over_wire = [edge for edge in over_wire if edge["service"] == "users"]
                here = [edge for edge in here if edge["service"] == "users"]
            else:
                over_http = json.loads(body)
            assert timeless(over_http) == over_wire == here


async def test_a_sample_is_all_counts_by_method_over_the_wire_and_over_http() -> None:
    """What a client needs to tell rates, errors, latencies and time of two of them by itself."""
    async with shop() as (gateway, caller), mesh.connect("web", gateway=gateway) as other:
        began = trio.current_time()
        for params in (1, 2, -1):
            for client in (caller, other):
                try:
                    await client.call("users", "get", params)
                except mesh.NotFound:
                    assert params < 0
        took = trio.current_time() - began
        with pytest.raises(mesh.Unimplemented):
            await caller.call("users", "nosuch")
        status, body = await ask(gateway, "/api/sample")
        over_http, over_wire = json.loads(body), await caller.call("mesh", "sample")
        assert status == 200
        for told in (over_http, over_wire):
            assert told.keys() == {"gateway", "services", "methods"}
            told["methods"] = [one for one in told["methods"] if one["service"] == "users"]
        assert timeless(over_http["gateway"]) == timeless(over_wire["gateway"])
        assert timeless(over_http["services"]) == timeless(over_wire["services"])
        assert over_http["methods"] == over_wire["methods"]
        rows = {row["method"]: row for row in over_http["methods"]}
        get = rows["get"]
        assert (get["calls"], get["errors"], get["in_flight"]) == (6, {"not_found": 2}, 0)
        assert (sum(get["buckets"]), len(get["buckets"])) == (6, 18)
        assert 0 < get["duration_s"] < took
        assert over_http["gateway"]["gateway"] == gateway.status().gateway


async def test_a_sample_of_many_series_lets_others_run_meanwhile() -> None:
    async with mesh.Gateway() as gateway:
        metrics = gateway.core.metrics
        for number in range(1_000):
            metrics.series(f"caller{number % 2}", "many", f"m{number // 2}").ended(0, 0.5)
        ran = 0

        async def others() -> None:
            nonlocal ran
            while True:
                await trio.lowlevel.checkpoint()
                ran += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            told = await gateway.views.sample(gateway.status)
            nursery.cancel_scope.cancel()
        assert ran >= 5
        many = [one for one in told.methods if one.service == "many"]
        assert [(one.calls, one.duration_s) for one in many] == [(2, 1.0)] * 500


def finer_than_microseconds(value: Any) -> list[Any]:
    """The figures of a view that tell noise."""
    if isinstance(value, dict):
        return [found for one in value.values() for found in finer_than_microseconds(one)]
    if isinstance(value, list):
        return [found for one in value for found in finer_than_microseconds(one)]
    return [value] if isinstance(value, float) and value != round(value, 6) else []


async def test_seconds_are_told_in_whole_microseconds() -> None:
    """Everywhere: over the wire, over HTTP and in Python."""
    async with shop() as (gateway, caller):
        with mesh.activity("one"):
            for params in range(20):
                await caller.call("users", "get", params)
        gateway.core.loop_lag = 1 / 3
        asked: dict[str, Any] = {"service": "users", "records": "one", "ping": "users"}
        for method in ("services", "service", "edges", "status", "ping", "stats", "records",
                       "sample"):  # fmt: skip
            told = await caller.call("mesh", method, asked.get(method))
            assert told, method
            assert finer_than_microseconds(told) == [], method
        for path in ("services", "services/users", "edges", "status", "sample"):
            _, body = await ask(gateway, f"/api/{path}")
            assert finer_than_microseconds(json.loads(body)) == [], path
        assert gateway.status().loop_lag_s == 0.333333


async def test_edges_tell_calls_errors_and_latencies() -> None:
    async with shop() as (gateway, caller):
        for params in (1, 2, 3, -1):
            try:
                await caller.call("users", "get", params)
            except mesh.NotFound:
                assert params < 0
        (edge,) = [edge for edge in gateway.views.edges() if edge.caller == "shop"]
        assert (edge.service, edge.method) == ("users", "get")
        assert (edge.calls, edge.errors) == (4, {"not_found": 1})
        assert (sum(edge.buckets), len(edge.buckets)) == (4, 18)
        assert edge.p50 is not None
        assert edge.p99 is not None
        assert 0 < edge.p50 <= edge.p99 < 30


async def test_an_edge_is_what_a_caller_did() -> None:
    """A gateway that nobody has called has called nobody, itself included."""
    async with mesh.Gateway(admin="127.0.0.1:0") as gateway:
        assert list(gateway.views.edges()) == []
        assert gateway.status().routed == 0
        assert (await ask(gateway, "/api/edges")) == (200, "[]")
        _, metrics = await ask(gateway, "/metrics")
        assert "mesh_build_info{" in metrics
        assert "mesh_calls_total{" not in metrics
        assert 'client="' not in metrics
        # Its methods are there all the same, once it has started.
        (own,) = gateway.services()
        assert (own.name, len(own.methods)) == ("mesh", 15)


async def test_calls_of_the_gateway_s_own_service_are_counted_like_all_others() -> None:
    async with shop() as (gateway, caller):
        for _ in range(3):
            await caller.call("mesh", "services")
        with pytest.raises(mesh.NotFound):
            await caller.call("mesh", "service", "nobody")
        rows = {row["method"]: row for row in await caller.call("mesh", "stats", "mesh")}
        assert (rows["services"]["calls"], rows["services"]["errors"]) == (3, {})
        assert 0 < rows["services"]["p50"] < 30
        assert rows["service"]["errors"] == {"not_found": 1}
        assert (rows["stats"]["calls"], rows["stats"]["in_flight"]) == (0, 1)
        (edge,) = [edge for edge in gateway.views.edges() if edge.method == "services"]
        assert (edge.caller, edge.calls) == ("shop", 3)
        await caller.call("users", "get", 1)
        others = await caller.call("mesh", "stats")
        assert {row["service"] for row in others} == {"users"}


async def test_one_service_over_the_wire_and_over_http() -> None:
    async with shop() as (gateway, caller):
        told = await caller.call("mesh", "service", "users")
        assert told["methods"] == ["get", "list"]
        status, body = await ask(gateway, "/api/services/users")
        assert (status, json.loads(body)["name"]) == (200, "users")
        status, body = await ask(gateway, "/api/services/userz")
        told = "no service 'userz' is registered; did you mean 'users'?"
        assert (status, json.loads(body)) == (404, {"error": told})
        for method in ("service", "ping"):
            with pytest.raises(mesh.NotFound) as missing:
                await caller.call("mesh", method, "userz")
            assert missing.value.message == told


@pytest.mark.parametrize("path", ["/api/services", "/api/edges", "/api/status", "/api/sample"])
async def test_the_api_only_reads(path: str) -> None:
    async with shop() as (gateway, _):
        assert (await ask(gateway, path, "HEAD"))[0] == 200
        for method in ("POST", "PUT", "DELETE"):
            assert (await ask(gateway, path, method))[0] == 405


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/api", 404, "there is nothing at /api"),
        ("/api/", 404, "there is nothing at /api/"),
        ("/api/nosuch", 404, "there is nothing at /api/nosuch"),
        ("/api/services/users/get", 404, "there is nothing at /api/services/users/get"),
        ("/api/services/userz", 404, "did you mean 'users'?"),
        ("/api/services?limit=3", 400, "no parameter 'limit'; there is none here"),
        ("/api/services/users?x=1", 400, "no parameter 'x'; there is none here"),
        ("/api/edges?x=1", 400, "no parameter 'x'"),
        ("/api/status?x=1", 400, "no parameter 'x'"),
        ("/api/sample?x=1", 400, "no parameter 'x'"),
        ("/api/traces?limit=many", 400, "filter limit must be a whole number"),
        ("/api/traces?limit=1&limit=2", 400, "limit is given twice"),
        ("/api/traces?nosuch=1", 400, "no filter 'nosuch'"),
        ("/api/traces/", 400, "names no trace"),
        ("/api/traces/abcdef", 404, "no kept trace 'abcdef'"),
        ("/api/traces/abcdef?format=xml", 400, "format must be one of otlp, waterfall"),
    ],
)
async def test_the_api_tells_every_fault_in_one_form(path: str, status: int, says: str) -> None:
    def blocking(address: str, method: str) -> tuple[int, dict[str, str], bytes]:
        with closing(http.client.HTTPConnection(address, timeout=10)) as connection:
            connection.request(method, path)
            answer = connection.getresponse()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, headers, answer.read()

    async with shop() as (gateway, _):
        assert gateway.admin_address is not None
        address = gateway.admin_address

        async def run(method: str) -> tuple[int, dict[str, str], bytes]:
            return await trio.to_thread.run_sync(blocking, address, method)

        got, headers, body = await run("GET")
        assert (got, headers["content-type"]) == (status, "application/json")
        told = json.loads(body)
        assert list(told) == ["error"]
        assert says in told["error"]
        assert (await run("HEAD"))[::2] == (status, b"")
        refused, headers, body = await run("POST")
        assert (refused, headers["allow"]) == (405, "GET, HEAD")
        assert headers["content-type"] == "application/json"
        assert json.loads(body)["error"].startswith("POST is not allowed")


async def test_who_is_connected() -> None:
    async with mesh.Gateway() as gateway:
        assert not gateway.is_connected("users")
        async with mesh.connect("people", gateway=gateway) as people:
            people.register("get", lambda: None, service="users")
            await people.call("mesh", "status")
            assert gateway.is_connected("people")
            assert gateway.is_connected("users")
            assert not gateway.is_connected("user")
        with trio.fail_after(5):
            while gateway.is_connected("people"):
                await trio.testing.wait_all_tasks_blocked(0.001)
        assert not gateway.is_connected("users")
        service = gateway.service("users")  # expected back
        assert service is not None
        assert (service.instances, service.methods) == ([], [])


async def test_a_gateway_that_has_not_started_says_so() -> None:
    gateway = mesh.Gateway()
    with pytest.raises(mesh.UsageError, match="has not been started"):
        gateway.services()
    async with gateway:
        assert gateway.status().state == "running"
    assert gateway.status().state == "stopped"


async def test_a_real_drain_is_not_ready_and_says_so_until_its_calls_have_ended() -> None:
    gateway = mesh.Gateway(admin="127.0.0.1:0")
    started, held = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(gateway.serve)
        assert await ask(gateway, "/readyz") == (200, "ready\n")
        async with (
            mesh.connect("users", gateway=gateway) as users,
            mesh.connect("shop", gateway=gateway) as caller,
        ):

            @users.method()
            async def wait() -> str:
                started.set()
                await held.wait()
                return "done"

            answers: list[str] = []

            async def call() -> None:
                answers.append(await caller.call("users", "wait"))

            async with trio.open_nursery() as calls:
                calls.start_soon(call)
                await started.wait()
                told = await caller.call("mesh", "drain")
                assert (told["state"], told["draining"]) == ("draining", True)
                assert await ask(gateway, "/readyz") == (503, "not ready: draining\n")
                assert (await ask(gateway, "/healthz"))[0] == 200
                status, body = await ask(gateway, "/api/status")
                assert (status, json.loads(body)["state"]) == (200, "draining")
                assert json.loads(body)["in_flight"] == 1
                held.set()
            assert answers == ["done"]
    assert gateway.status().state == "stopped"
