"""What a gateway finds wrong with its mesh, in real ones with the faults in question."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
import trio.testing
from opentelemetry import trace as otel

import mesh
from mesh.gateway.checks import ENOUGH, GOES_ON, Finding, _instance, _service, check
from mesh.gateway.losses import BELIEVED, BELIEVED_RATE, MOST_PEERS, MOST_TRACES, RECENT, Losses
from tests.gateway.raw_peer import raw_peer, register_header
from tests.gateway.traces import running
from tests.telemetry import backends

if TYPE_CHECKING:
    from trio.testing import MockClock


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


async def test_what_may_have_been_a_typo_is_a_note_unless_it_goes_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limits = mesh.Limits(service_wait=0)
    async with (
        mesh.Gateway(limits=limits) as gateway,
        mesh.connect("shop", gateway=gateway) as shop,
    ):

        async def miscall(service: str, times: int) -> str:
            for _ in range(times):
                with pytest.raises(mesh.NotFound):
                    await shop.call(service, "get")
            return findings(gateway)[service].level

        assert await miscall("usrs", 1) == "note"
        assert findings(gateway)["usrs"].what.endswith("it was called 1 time by shop")
        assert await miscall("odrers", ENOUGH - 1) == "note"
        assert await miscall("odrers", 1) == "error"
        assert [one.subject for one in check(gateway.core, gateway.views)] == ["odrers", "usrs"]
        await trio.sleep(GOES_ON - 1)
        assert await miscall("usrs", 1) == "note"
        await trio.sleep(2)
        assert await miscall("usrs", 1) == "error"
        await trio.sleep(RECENT + 1)
        assert findings(gateway) == {}


async def test_a_service_that_was_waited_for_in_vain(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A young gateway waits for what may yet come; that nobody serves it is still what is wrong."""
    async with mesh.Gateway() as gateway, mesh.connect("shop", gateway=gateway) as shop:
        for _ in range(25):
            with pytest.raises(mesh.DeadlineExceeded):
                await shop.call("nobody", "do", timeout=0.01)
        (finding,) = findings(gateway).values()
        assert finding.what == "nobody serves it, and it was called 25 times by shop"


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


@pytest.mark.parametrize(
    ("versions", "told"),
    [
        ("1.0.0 1.0.0", []),
        ("1.0.0 2.0.0", []),  # side by side on purpose
        ("0.1.0 0.2.0", []),
        ("- -", []),
        ("1.0.0 1.1.0 2.0.0 1.1.0", ["different versions of one contract: 1.0.0 (1), 1.1.0 (2)"]),
        (
            "0.1.0 0.1.1 - -",
            ["of one contract: 0.1.0 (1), 0.1.1 (1)", "2 of its instances have no"],
        ),
    ],
)
async def test_only_versions_of_one_contract_are_an_unfinished_deployment(
    versions: str, told: list[str]
) -> None:
    async with mesh.Gateway() as gateway, AsyncExitStack() as stack:
        for number, version in enumerate(versions.split()):
            users = await stack.enter_async_context(raw_peer(gateway, process_id=f"p{number}"))
            named = version.replace("-", "")
            await users.send(register_header("users", "get", version=named))
        await trio.testing.wait_all_tasks_blocked()
        service = gateway.service("users")
        assert service is not None
        found = list(_service(service))
        assert len(found) == len(told)
        for finding, part in zip(found, told, strict=True):
            assert part in finding.what


async def test_callers_that_no_instance_fits_are_named_until_one_does(
    autojump_clock: MockClock,
) -> None:
    """Or until five minutes have passed since the last."""
    async with (
        mesh.Gateway() as gateway,
        raw_peer(gateway, "users", process_id="users-3") as users,
        mesh.connect("orders", gateway=gateway) as orders,
    ):
        await users.send(register_header("users", "get", version="2.0.0"))
        await trio.sleep(6)

        async def refused(count: int) -> None:
            for _ in range(count):
                with pytest.raises(mesh.FailedPrecondition):
                    await orders.call("users", "get", version="1.4.0")

        await refused(80)
        await trio.sleep(200)
        await refused(40)
        finding = findings(gateway)["users"]
        assert finding.level == "error"
        assert finding.what == (
            "orders calls it by version 1.4.0, which no instance serves: 120 refused in the last "
            "five minutes; 2.0.0 (users at users-3) is another contract"
        )
        assert finding.advice == (
            "Run an instance of users 1.4.0 beside these, or call by the contract 2.0.0."
        )
        await trio.sleep(200)
        assert "40 refused" in findings(gateway)["users"].what
        async with raw_peer(gateway, "users", process_id="users-4") as old:
            await old.send(register_header("users", "get", version="1.5.0"))
            await trio.testing.wait_all_tasks_blocked()
            assert "users" not in findings(gateway)
        await trio.testing.wait_all_tasks_blocked()
        assert "40 refused" in findings(gateway)["users"].what
        await trio.sleep(200)
        assert "users" not in findings(gateway)


async def until_found(gateway: mesh.Gateway, subject: str) -> Finding:
    """What is found of this, once there is something."""
    with trio.fail_after(20):
        while subject not in findings(gateway):
            await trio.testing.wait_all_tasks_blocked(0.02)
    return findings(gateway)[subject]


async def test_a_backend_that_is_down_is_found_until_it_is_back(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    backend = backends.Backend()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", backend.endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.3")
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("users", gateway=gateway) as users,
    ):
        users.register("get", lambda: None)
        subject = f"gateway {gateway.instance}"
        assert findings(gateway) == {}
        await users.call("users", "get")
        found = await until_found(gateway, subject)
        assert found.level == "warning"
        assert f"spans do not reach {backend.endpoint}/v1/traces: " in found.what
        assert re.search(
            r"; [1-9] are lost since its start \(failed [1-9]\), \d+ wait$", found.what
        )
        assert found.advice.startswith("See that the backend runs there")
        assert await users.call("mesh", "check") == [msgspec.to_builtins(found)]
        backend.start()
        request.addfinalizer(backend.stop)
        with trio.fail_after(20):
            while findings(gateway):
                await users.call("users", "get")
                await trio.testing.wait_all_tasks_blocked(0.05)


async def test_a_backend_that_hangs_is_found_before_spans_are_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "40")
    with backends.running() as backend:
        backend.answering.clear()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", backend.endpoint)
        async with (
            mesh.Gateway() as gateway,
            mesh.connect("users", gateway=gateway) as users,
        ):
            users.register("get", lambda: None)
            for _ in range(9):  # four spans each
                with mesh.traced():
                    await users.call("users", "get")
            found = await until_found(gateway, f"gateway {gateway.instance}")
            waits = (
                r"3\d spans wait to be exported to http://\S+, \d+% of what may wait; 0 are lost"
            )
            assert re.match(waits, found.what)
            backend.answering.set()


async def test_spans_that_a_peer_has_lost_are_found(autojump_clock: MockClock) -> None:
    """Also those that it cannot tell of, as they have made way: they do not come in time."""
    async with running() as it, it.peer("users") as users, it.peer("shop") as shop:

        async def get() -> None:
            otel.get_current_span()._name = object()  # type: ignore[attr-defined]

        users.register("get", get)
        await users.call("mesh", "status")
        await shop.call("users", "get")
        began = autojump_clock.current_time()
        await trio.sleep(1)
        assert findings(it.gateway)["users at users-1"].what.startswith(
            "at least 1 of its spans of kept traces are lost, the last "
        )
        await trio.sleep(7)
        found = findings(it.gateway)["users at users-1"]
        assert found.level == "warning"
        assert "mesh_records_dropped_total" in found.advice
        await trio.sleep_until(began + 10 + RECENT)
        assert findings(it.gateway) == {}


def test_losses_are_bounded_and_old_ones_are_no_news() -> None:
    losses = Losses()
    for number in range(MOST_PEERS + 1):
        losses.give_up("users", f"u-{number}", 0.0, b"trace", 2)
    first, *others = losses.recent(1.0)
    assert (first.process, len(others)) == ("u-1", MOST_PEERS - 1)
    losses.drop("users", "u-1", 200.0, 3)
    assert [(one.process, one.spans) for one in losses.recent(RECENT)] == [("u-1", 3)]
    losses.give_up("users", "u-1", 600.0, b"trace", 1)
    assert [one.spans for one in losses.recent(600.0)] == [1]
    for number in range(MOST_TRACES + 1):
        losses.give_up("users", "u-1", 601.0, number.to_bytes(16), 1)
    assert [one.spans for one in losses.recent(601.0)] == [MOST_TRACES]


def test_a_process_is_believed_only_so_many_lost_spans() -> None:
    losses = Losses()
    assert losses.drop("users", "u-1", 10.0, 7) == 7
    assert losses.drop("users", "u-1", 10.0, 2**32) == BELIEVED - 7
    assert losses.drop("users", "u-1", 10.0, 2**32) == 0
    assert losses.drop("users", "u-1", 10.5, 2**32) == BELIEVED_RATE / 2
    assert losses.drop("users", "u-1", 100.0, 2**32) == BELIEVED
    (loss,) = losses.recent(100.0)
    assert loss.spans == 2 * BELIEVED + BELIEVED_RATE / 2
    assert losses.drop("orders", "o-1", 100.0, 5) == 5  # of another one, all


def test_what_is_told_late_is_no_loss() -> None:
    """What is lost for good stays one, since when it was lost."""
    losses = Losses()
    losses.give_up("users", "u-1", 0.0, b"first", 2)
    losses.give_up("users", "u-1", 100.0, b"second", 2)
    losses.tell("u-1", b"second", 1)
    assert [(one.spans, one.last) for one in losses.recent(100.0)] == [(3, 100.0)]
    losses.tell("u-1", b"second", 0)
    assert [(one.spans, one.last) for one in losses.recent(100.0)] == [(2, 0.0)]
    losses.drop("users", "u-1", 101.0, 1)
    losses.tell("u-1", b"first", 0)
    assert [(one.spans, one.last) for one in losses.recent(101.0)] == [(1, 101.0)]
    losses.give_up("users", "u-2", 101.0, b"first", 1)
    losses.tell("u-2", b"other", 0)
    losses.tell("u-2", b"first", 0)
    assert [one.process for one in losses.recent(101.0)] == ["u-1"]
