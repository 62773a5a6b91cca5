"""A real Prometheus reads a real gateway: what it answers is what the callers have counted."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import trio

import mesh
from mesh_telemetry import TEXT
from tests.end_to_end.prometheus import check_by_promtool, get, prometheus, tool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@contextlib.asynccontextmanager
async def gateway_process(folder: Path) -> AsyncIterator[tuple[str, str]]:
    """A gateway as a process; yields where peers and where scrapers find it."""
    command = [sys.executable, "-m", "mesh.cli", "gateway", "--json", "--admin", "127.0.0.1:0"]
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                [*command, "--listen", f"unix:{folder / 'gateway.sock'}"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        )
        try:
            assert process.stdout is not None
            line = b""
            with trio.fail_after(30):
                while not line.endswith(b"\n"):
                    line += await process.stdout.receive_some()
            ready = json.loads(line)
            yield ready["addresses"][0], ready["admin"]
        finally:
            process.terminate()


@contextlib.asynccontextmanager
async def loaded_mesh(folder: Path) -> AsyncIterator[tuple[str, Counter[tuple[str, ...]]]]:
    """A mesh after some load; yields the scrapers' address and what the callers have counted.

    The counts are by caller, service, method and code.
    """
    seen: Counter[tuple[str, ...]] = Counter()

    async def call(client: mesh.Client, service: str, method: str, params: object) -> None:
        code = "ok"
        try:
            await client.call(service, method, params)
        except mesh.CallError as failure:
            code = str(failure.code)
        seen[client.name, service, method, code] += 1

    async with (
        gateway_process(folder) as (address, admin),
        mesh.connect("users", gateway=address) as users,
        mesh.connect("orders", gateway=address) as orders,
        mesh.connect("shop", gateway=address) as shop,
        mesh.connect("web", gateway=address) as web,
    ):

        @users.method()
        async def get_user(params: int) -> int:
            if params % 5 == 0:
                raise mesh.NotFound("every fifth is nobody")
            return params

        @orders.method()
        async def place(params: int) -> int:
            await call(orders, "users", "get_user", params)
            return params

        for client in (users, orders):
            await call(client, "mesh", "status", None)
        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(call, shop, "orders", "place", number)
                nursery.start_soon(call, web, "users", "get_user", number)
        for _ in range(7):
            await call(web, "users", "no_such_method", None)
        yield admin, seen


async def test_prometheus_answers_what_the_callers_have_counted(tmp_path: Path) -> None:
    async with (
        loaded_mesh(tmp_path) as (admin, seen),
        prometheus(tmp_path, admin) as server,
    ):
        await server.scraped_since(time.time())
        counted: Counter[tuple[str, ...]] = Counter()
        for (caller, service, method, code), calls in seen.items():
            known = method != "no_such_method"
            names = (service, method) if known else ("_OTHER", "_OTHER")
            counted[caller, code, names[1], names[0]] += calls
        answer = await server.query(
            'sum by (caller, code, rpc_method, rpc_service) (mesh_calls_total{caller!="mesh"})'
        )
        assert answer == dict(counted)

        # A rate of an idle mesh, and ratios that are there before the first error.
        assert set((await server.query("sum(rate(mesh_calls_total[5s]))")).values()) <= {0.0}

        edges = await server.query("traces_service_graph_request_total")
        # Without those of the gateway's own service, which the peers asked.
        assert {ends[:1] + ends[-1:]: calls for ends, calls in edges.items()} == {
            ("orders", "users"): 300,
            ("shop", "orders"): 300,
            ("web", "users"): 300,
            ("web", "_OTHER"): 7,
        }
        failed = await server.query(
            'sum by (client) (traces_service_graph_request_failed_total{server="users"})'
        )
        assert failed == {("orders",): 60, ("web",): 60}
        # What Grafana asks for its service graph: each answers of each edge, also before an error.
        await server.scraped_since(time.time())
        graph = "traces_service_graph_request"
        for of in ("total", "failed_total", "server_seconds_sum", "server_seconds_bucket"):
            drawn = await server.query(f"sum by (client, server) (rate({graph}_{of}[1m]))")
            assert drawn.keys() == {(ends[0], ends[-1]) for ends in edges}
        durations = "sum by (rpc_service) (mesh_call_duration_seconds_count)"
        assert (await server.query(durations))["users",] == 600
        slowest = await server.query(
            "max(histogram_quantile(1, sum by (le, client, server) "
            "(traces_service_graph_request_server_seconds_bucket)))"
        )
        assert 0 < slowest[()] <= 30

        everything = sum(seen.values())
        # All calls of all peers came in; the seven refused ones went nowhere, and those for the
        # gateway's own service leave no process.
        inside = sum(calls for (_, service, *_), calls in seen.items() if service == "mesh")
        frames = 'sum(mesh_frames_total{{kind="call",direction="{}"}})'
        assert await server.query(frames.format("in")) == {(): everything}
        assert await server.query(frames.format("out")) == {(): everything - 7 - inside}
        below = await server.query('mesh_call_depth_bucket{le="1.0"}')
        assert list(below.values()) == [everything - 7 - 300]
        assert list((await server.query("mesh_call_depth_count")).values()) == [everything - 7]
        assert sum((await server.query("mesh_calls_in_flight")).values()) == 0
        assert sum((await server.query('mesh_service_instances{state="healthy"}')).values()) == 3
        assert sum((await server.query("mesh_connections")).values()) == 4
        assert len(await server.query("mesh_peer_loop_lag_seconds")) == 3  # mesh's own included
        assert min((await server.query("mesh_bytes_total")).values()) > everything * 20


async def test_every_exemplar_that_prometheus_has_opens_a_trace(tmp_path: Path) -> None:
    async with (
        loaded_mesh(tmp_path) as (admin, _),
        prometheus(tmp_path, admin) as server,
    ):
        await server.scraped_since(time.time())
        found = await server.exemplars("mesh_call_duration_seconds_bucket")
        # Some failed, and entry calls as well as those inside them.
        methods = {f"{labels['rpc_service']}.{labels['rpc_method']}" for labels, _ in found}
        assert methods == {"users.get_user", "orders.place"}
        for labels, exemplar in found:
            (trace_id,) = exemplar["labels"].values()
            opened = json.loads(
                await trio.to_thread.run_sync(
                    get, admin, f"/api/traces/{trace_id}?format=waterfall"
                )
            )
            assert opened["summary"]["trace_id"] == trace_id
            took = float(exemplar["value"])
            assert took <= float(labels["le"])
            assert exemplar["timestamp"] <= time.time()
            method = f"{labels['rpc_service']}.{labels['rpc_method']}"
            spans = [row for row in opened["rows"] if row["name"] == method]
            # The gateway's own span is what was counted.
            assert min(abs(row["duration_ms"] - took * 1e3) for row in spans) < 0.01


async def test_promtool_finds_nothing_to_complain_of(tmp_path: Path) -> None:
    """It reads the older format only; Prometheus itself asks for OpenMetrics."""
    promtool = tool("promtool")
    async with loaded_mesh(tmp_path) as (admin, _):
        text = await trio.to_thread.run_sync(get, admin, "/metrics", TEXT)
    await check_by_promtool(promtool, text)
