"""A peer's own `/metrics`, scraped over HTTP from real peers of a real mesh."""

from __future__ import annotations

import contextlib
import http.client
import socket
import subprocess
import sys
from math import inf
from typing import TYPE_CHECKING, Any

import pytest
import trio
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

import mesh
from mesh_telemetry import OPENMETRICS, OTHER, TEXT, PeerExposition, SideMetrics
from tests.end_to_end.prometheus import check_by_promtool, tool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from prometheus_client.metrics_core import Metric

PARSERS: dict[str, Callable[[str], Iterable[Metric]]] = {
    TEXT: text_string_to_metric_families,
    OPENMETRICS: openmetrics_parser.text_string_to_metric_families,
}
Samples = dict[tuple[str, ...], float]


def _ask(address: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
    with contextlib.closing(http.client.HTTPConnection(address, timeout=10)) as connection:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


async def ask(client: mesh.Client, path: str, **headers: str) -> tuple[int, str]:
    assert client.metrics_address is not None
    return await trio.to_thread.run_sync(
        _ask, client.metrics_address, path, headers, abandon_on_cancel=True
    )


def read(text: str, accept: str = TEXT) -> Samples:
    """Samples by name and label values; a histogram's buckets are told apart by their bound."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in PARSERS[accept](text)
        for sample in family.samples
    }


async def scrape(client: mesh.Client, accept: str = TEXT) -> Samples:
    status, text = await ask(client, "/metrics", Accept=accept)
    assert status == 200, text
    return read(text, accept)


def ended(samples: Samples, side: str) -> dict[tuple[str, ...], float]:
    name = f"rpc_{side}_call_duration_seconds_count"
    return {key[1:]: value for key, value in samples.items() if key[0] == name and value}


@contextlib.asynccontextmanager
async def two_peers(**settings: Any) -> AsyncIterator[tuple[mesh.Client, mesh.Client]]:
    """The service `users`, and a caller; both with metrics."""
    door = "127.0.0.1:0"
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("users", gateway=gateway, metrics=door, **settings) as server,
        mesh.connect("shop", gateway=gateway, metrics=door) as client,
    ):

        @server.method
        async def get(params: int) -> int:
            if params < 0:
                raise mesh.NotFound(f"no user {params}")
            if params == 0:
                raise ZeroDivisionError
            return params

        @server.method
        async def wait() -> None:
            await trio.sleep_forever()

        @server.method
        def name() -> str:
            return "Ada"

        yield server, client


async def play(client: mesh.Client) -> None:
    """A load of which every outcome is known."""
    for number in range(10):
        await client.call("users", "get", number + 1)
    await client.call("users", "name")
    for number, error in ((-1, mesh.NotFound), (-2, mesh.NotFound), (0, mesh.Unknown)):
        with pytest.raises(error):
            await client.call("users", "get", number)
    with pytest.raises(mesh.InvalidArgument):
        await client.call("users", "get", object())  # never leaves
    with pytest.raises(mesh.DeadlineExceeded):
        await client.call("users", "wait", timeout=0.05)
    with trio.move_on_after(0.05):
        await client.call("users", "wait")
    with pytest.raises(mesh.MeshError):
        await client.call("users", "nothing")


@pytest.mark.parametrize("accept", [TEXT, OPENMETRICS])
async def test_a_scrape_equals_the_calls_made(accept: str) -> None:
    async with two_peers() as (server, client):
        await play(client)
        while server.status().serving:  # handlers that are cancelled end a little later
            await trio.lowlevel.checkpoint()
        made, served = await scrape(client, accept), await scrape(server, accept)
    assert ended(made, "client") == {
        ("users", "get", "ok"): 10,
        ("users", "get", "not_found"): 2,
        ("users", "get", "unknown"): 1,
        ("users", "get", "invalid_argument"): 1,
        ("users", "name", "ok"): 1,
        ("users", "wait", "deadline_exceeded"): 2,
        ("users", "nothing", "unimplemented"): 1,
    }
    assert ended(made, "server") == {}
    assert ended(served, "client") == {}
    waits = {key: count for key, count in ended(served, "server").items() if key[1] == "wait"}
    # Which side notices a deadline first decides how the handler is told.
    assert {key[2] for key in waits} <= {"cancelled", "deadline_exceeded"}
    assert sum(waits.values()) == 2
    assert {key: n for key, n in ended(served, "server").items() if key not in waits} == {
        ("users", "get", "ok"): 10,
        ("users", "get", "not_found"): 2,
        ("users", "get", "unknown"): 1,
        ("users", "name", "ok"): 1,
    }
    for samples, side in ((made, "client"), (served, "server")):
        name = f"rpc_{side}_call_duration_seconds"
        assert samples[f"{name}_bucket", "users", "get", "ok", "+Inf"] == 10
        assert 0 < samples[f"{name}_sum", "users", "get", "ok"] < 10
        in_flight = f"rpc_{side}_calls_in_flight"
        assert {value for key, value in samples.items() if key[0] == in_flight} == {0}
    assert made["rpc_client_call_duration_seconds_sum", "users", "wait", "deadline_exceeded"] > 0.09


async def test_a_nested_call_that_its_callers_deadline_ends_has_that_code() -> None:
    """As at the gateway, though the handler only sees that it is cancelled."""
    async with two_peers() as (server, client):

        async def outer() -> None:
            await server.call("users", "wait")

        server.register("outer", outer)
        for _ in range(5):
            with pytest.raises(mesh.DeadlineExceeded):
                await client.call("users", "outer", timeout=0.05)
        with trio.fail_after(10):
            while server.status().calling or server.status().serving:
                await trio.lowlevel.checkpoint()
        made = await scrape(server)
    assert ended(made, "client") == {("users", "wait", "deadline_exceeded"): 5}


async def test_calls_in_flight_are_shown_on_both_sides() -> None:
    async with two_peers() as (server, client), trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(client.call, "users", "wait")
        with trio.fail_after(10):
            while server.status().serving < 3:
                await trio.lowlevel.checkpoint()
        made, served = await scrape(client), await scrape(server)
        nursery.cancel_scope.cancel()
    assert made["rpc_client_calls_in_flight", "users", "wait"] == 3
    assert served["rpc_server_calls_in_flight", "users", "wait"] == 3
    assert served["rpc_server_calls_in_flight", "users", "get"] == 0


async def test_calls_whose_gateway_is_lost_end_on_both_sides() -> None:
    door, gateway = "127.0.0.1:0", mesh.Gateway()
    life = trio.CancelScope()

    async def run_gateway(*, task_status: trio.TaskStatus[None]) -> None:
        with life:
            await gateway.serve(task_status=task_status)

    async def call() -> None:
        with pytest.raises(mesh.Unavailable):
            await client.call("users", "wait")

    async with trio.open_nursery() as nursery:
        await nursery.start(run_gateway)
        async with (
            mesh.connect("users", gateway=gateway, metrics=door) as server,
            mesh.connect("shop", gateway=gateway, metrics=door) as client,
        ):
            server.register("wait", trio.sleep_forever)
            with trio.fail_after(10):
                async with trio.open_nursery() as calls:
                    calls.start_soon(call)
                    while not server.status().serving:
                        await trio.lowlevel.checkpoint()
                    life.cancel()
                while server.is_connected:
                    await trio.lowlevel.checkpoint()
            made, served = await scrape(client), await scrape(server)
            assert (await ask(server, "/readyz"))[0] == 503
            assert (await ask(server, "/healthz"))[0] == 200
    assert ended(made, "client") == {("users", "wait", "unavailable"): 1}
    assert ended(served, "server") == {("users", "wait", "cancelled"): 1}
    assert served["rpc_server_calls_in_flight", "users", "wait"] == 0


async def test_what_raises_for_its_arguments_is_not_counted() -> None:
    async with two_peers() as (_, client):
        nothing: Any = None
        with pytest.raises(TypeError):
            await client.call(nothing, nothing)
        with pytest.raises(ValueError, match="timeout"):
            await client.call("users", "get", 1, timeout=-1)
        samples = await scrape(client)
    assert ended(samples, "client") == {}
    assert samples["rpc_client_calls_in_flight", "users", "get"] == 0


async def test_the_runtime_and_the_process_are_shown() -> None:
    async with two_peers(limits=mesh.Limits(max_threads=7)) as (server, _):
        samples = await scrape(server)
        assert (await ask(server, "/readyz")) == (200, "ready\n")
        assert (await ask(server, "/api/status"))[0] == 404
    assert samples["mesh_runtime_threads_in_use",] == 0
    assert samples["mesh_runtime_threads_limit",] == 7
    assert samples["mesh_runtime_loop_lag_seconds",] >= 0
    assert samples["mesh_build_info", mesh.__version__] == 1
    names = {key[0] for key in samples}
    assert names >= {"python_info", "process_cpu_seconds_total", "process_resident_memory_bytes"}


def test_names_beyond_the_bound_are_counted_as_other() -> None:
    side = SideMetrics(max_methods=2)
    for number in range(5):
        series = side.method("users", f"m{number}")
        series.in_flight += 1
        series.ended(5, 0.1)
    samples = read("".join(PeerExposition(side, SideMetrics()).render()[1]))
    assert ended(samples, "client") == {
        ("users", "m0", "not_found"): 1,
        ("users", "m1", "not_found"): 1,
        (OTHER, OTHER, "not_found"): 3,
    }


async def test_promtool_accepts_a_peers_metrics() -> None:
    promtool = tool("promtool")
    async with two_peers() as (_, client):
        await play(client)
        _, text = await ask(client, "/metrics", Accept=TEXT)
    await check_by_promtool(promtool, text)


async def test_an_address_in_use_is_said_clearly() -> None:
    async with two_peers() as (_, client):
        taken = client.metrics_address
        with pytest.raises(mesh.AddressInUse, match=f"metrics address {taken} is in use: stop"):
            async with mesh.connect("late", gateway="unix:/nowhere", metrics=taken):
                pytest.fail("the block was entered")


def test_a_program_whose_address_is_in_use_ends_with_that_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(mesh.AddressInUse, match=f"metrics address {address} is in use: stop"):
            mesh.run(lambda _: None, name="late", metrics=address)


async def test_metrics_beyond_the_loopback_need_a_token() -> None:
    with pytest.raises(mesh.UsageError, match=r"metrics address 0\.0\.0\.0:0 is reachable"):
        async with mesh.connect("users", connect_timeout=0, metrics="0.0.0.0:0"):
            pytest.fail("the block was entered")
    token = "s3cret"
    async with mesh.connect(
        "users",
        gateway="unix:/nowhere",
        connect_timeout=0,
        metrics="0.0.0.0:0",
        metrics_token=token,
    ) as client:
        assert (await ask(client, "/metrics"))[0] == 401
        assert (await ask(client, "/metrics", Authorization=f"Bearer {token}"))[0] == 200
        assert (await ask(client, "/readyz"))[0] == 503


async def test_the_address_is_free_again_after_the_block() -> None:
    async with two_peers() as (_, client):
        address = client.metrics_address
    async with mesh.connect(
        "users", gateway="unix:/nowhere", connect_timeout=0, metrics=address
    ) as again:
        assert again.metrics_address == address


async def test_metrics_are_served_while_the_peer_drains() -> None:
    async with mesh.Gateway() as gateway, trio.open_nursery() as nursery:
        may_end = trio.Event()
        async with mesh.connect("shop", gateway=gateway) as caller:
            async with mesh.connect("users", gateway=gateway, metrics="127.0.0.1:0") as server:
                server.register("wait", may_end.wait)
                nursery.start_soon(caller.call, "users", "wait")

                async def look() -> None:
                    while not server.status().closing:
                        await trio.lowlevel.checkpoint()
                    assert await ask(server, "/readyz") == (503, "not ready: draining\n")
                    in_flight = (await scrape(server))[
                        "rpc_server_calls_in_flight", "users", "wait"
                    ]
                    assert in_flight == 1
                    may_end.set()

                with trio.fail_after(10):
                    while not server.status().serving:
                        await trio.lowlevel.checkpoint()
                nursery.start_soon(look)
            assert may_end.is_set()


def test_nothing_is_imported_or_made_unless_asked_for() -> None:
    program = (
        "import sys, trio, mesh\n"
        "async def main():\n"
        "    async with mesh.Gateway() as g, mesh.connect('users', gateway=g) as c:\n"
        "        c.register('get', trio.sleep)\n"
        "        await c.call('users', 'get', 0)\n"
        "        assert c.metrics_address is None\n"
        "        assert type(c) is mesh.Client\n"
        "trio.run(main)\n"
        "unwanted = {'starlette', 'hypercorn', 'mesh.http', 'mesh.measuring'}\n"
        "print(sorted(unwanted & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


async def test_a_call_with_no_limit_is_cancelled_by_its_program() -> None:
    async with two_peers() as (server, client):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def call() -> None:
                    await client.call("users", "wait", timeout=inf)

                nursery.start_soon(call)
                with trio.fail_after(10):
                    while not server.status().serving:
                        await trio.lowlevel.checkpoint()
                scope.cancel()
        assert ended(await scrape(client), "client") == {("users", "wait", "cancelled"): 1}


async def test_the_records_that_traces_are_made_of_are_shown() -> None:
    """How many are held, and how many have made way too early."""
    async with two_peers() as (server, client):
        before = client._uplink.records.dropped  # of all tests in this process
        await client.call("users", "get", 1)
        after = await scrape(client)
        assert after["mesh_records",] == len(client._uplink.records) >= 2
        for reason, count in client._uplink.records.dropped.items():
            assert after["mesh_records_dropped_total", reason] == count == before[reason]
        assert server._uplink.records is client._uplink.records, "they share a process"
