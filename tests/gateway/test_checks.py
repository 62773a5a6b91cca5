"""What a gateway finds wrong with its mesh, in real ones with the faults in question."""

from __future__ import annotations

import socket

import msgspec
import pytest
import trio

import mesh
from mesh.gateway.checks import ENOUGH, Finding, _instance, _service, check


def findings(gateway: mesh.Gateway) -> dict[str, Finding]:
    """What is found, by subject."""
    return {finding.subject: finding for finding in check(gateway.core, gateway.views)}


async def test_a_mesh_in_order_has_no_findings() -> None:
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("users", gateway=gateway) as users,
    ):
        users.register("get", lambda: None)
        assert await users.call("users", "get") is None
        assert findings(gateway) == {}
        assert await users.call("mesh", "check") == []


async def test_a_method_that_fails_too_often() -> None:
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("users", gateway=gateway) as users,
    ):

        @users.method()
        async def get(params: int) -> int:
            if params == 0:
                raise mesh.NotFound("an answer, no fault")
            if params < 0:
                raise mesh.Unavailable("the database is gone", reason="NO_DATABASE")
            return params

        for number in range(ENOUGH):
            if number % 2:
                await users.call("users", "get", 1)
            else:
                with pytest.raises(mesh.NotFound):
                    await users.call("users", "get", 0)
        assert findings(gateway) == {}
        for _ in range(2):
            with pytest.raises(mesh.Unavailable):
                await users.call("users", "get", -1)
        found = findings(gateway)["users.get"]
        assert found.level == "error"
        assert found.what == f"2 of its last {ENOUGH + 2} calls failed: NO_DATABASE (2)"
        assert "mesh info users" in found.advice
        assert (await users.call("mesh", "check"))[0]["subject"] == "users.get"


async def test_a_backend_that_takes_no_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found until it takes some."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        port = taken.getsockname()[1]
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        async with mesh.Gateway() as gateway, mesh.connect("users", gateway=gateway) as users:
            users.register("get", lambda: None)
            await users.call("users", "get")
            with trio.fail_after(20):
                while not (found := findings(gateway)):  # noqa: ASYNC110 - told by a thread
                    await trio.sleep(0.05)
            (finding,) = found.values()
            assert finding.what == (
                f"spans are lost on their way to http://127.0.0.1:{port}/v1/traces: "
                "connection refused"
            )


async def test_a_service_that_is_called_and_that_nobody_serves() -> None:
    async with (
        mesh.Gateway(limits=mesh.Limits(service_wait=0)) as gateway,
        mesh.connect("shop", gateway=gateway) as shop,
    ):
        for _ in range(2):
            with pytest.raises(mesh.NotFound):
                await shop.call("users", "get")
        assert findings(gateway)["users"].what == (
            "nobody serves it, and it was called 2 times by shop"
        )


async def test_a_busy_instance_and_a_draining_gateway() -> None:
    held, started = trio.Event(), trio.Event()
    async with (
        mesh.Gateway(limits=mesh.Limits(max_in_flight=1)) as gateway,
        mesh.connect("users", gateway=gateway) as users,
        trio.open_nursery() as nursery,
    ):

        @users.method()
        async def wait() -> None:
            started.set()
            await held.wait()

        await users.call("mesh", "status")
        nursery.start_soon(users.call, "users", "wait")
        await started.wait()
        busy = findings(gateway)[f"users at {users._uplink.process.id}"]
        assert busy.what == "it works on 1 calls, of 1 at most"
        gateway.core.draining = True
        assert "drains" in findings(gateway)[f"gateway {gateway.instance}"].what
        held.set()


async def test_each_state_of_an_instance_has_its_finding() -> None:
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("users", gateway=gateway) as users,
    ):
        users.register("get", lambda: None)
        await users.call("mesh", "status")
        service = gateway.service("users")
        assert service is not None
        (good,) = service.instances
        assert list(_instance("users", good, 1000)) == []
        replace = msgspec.structs.replace
        for changed, level, says in (
            (replace(good, state="late", heartbeat_age_s=20.0), "warning", "it is late: no"),
            (replace(good, state="unresponsive"), "error", "it is unresponsive: no heartbeat"),
            (replace(good, loop_lag_s=0.35), "warning", "held up for 350 ms"),
            (replace(good, queued_bytes=20 << 20), "warning", "20,971,520 bytes wait"),
            (replace(good, in_flight=900), "warning", "900 calls, of 1,000 at most"),
        ):
            (finding,) = _instance("users", changed, 1000)
            assert finding.level == level
            assert says in finding.what
            assert finding.advice.endswith(".")
        assert list(_service(service)) == []
        mixed = [replace(good, version="1.0"), replace(good, version="1.1"), good]
        (finding,) = _service(replace(service, instances=mixed))
        assert finding.what == "its instances have different versions: none (1), 1.0 (1), 1.1 (1)"
        (finding,) = _service(replace(service, instances=[replace(good, state="draining")]))
        assert (finding.level, finding.what) == ("error", "no instance is connected any more")
