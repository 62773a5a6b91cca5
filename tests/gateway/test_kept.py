"""Kept traces as a gateway tells them: in Python, over the wire and over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import re
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode
from uuid import UUID

import msgspec
import pytest
import trio
import trio.testing

import mesh
from mesh.gateway import TraceFilters
from mesh.gateway.kept import SLICE
from mesh.process import Process
from mesh_telemetry import TraceSettings, explain, names, spans

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mesh_telemetry import TraceSummary


async def ask(gateway: mesh.Gateway, path: str, **query: object) -> tuple[int, Any]:
    """Status and document of an answer of the admin server."""

    def blocking(address: str) -> tuple[int, Any]:
        with closing(http.client.HTTPConnection(address, timeout=10)) as connection:
            connection.request("GET", f"{path}?{urlencode(query)}" if query else path)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    assert gateway.admin_address is not None
    return await trio.to_thread.run_sync(blocking, gateway.admin_address, abandon_on_cancel=True)


async def read(gateway: mesh.Gateway, path: str, accept: str = "*/*") -> tuple[str, str]:
    """Content type and text of an answer of the admin server."""

    def blocking(address: str) -> tuple[str, str]:
        with closing(http.client.HTTPConnection(address, timeout=10)) as connection:
            connection.request("GET", path, headers={"accept": accept})
            answer = connection.getresponse()
            return answer.headers["content-type"], answer.read().decode()

    assert gateway.admin_address is not None
    return await trio.to_thread.run_sync(blocking, gateway.admin_address, abandon_on_cancel=True)


async def complete(gateway: mesh.Gateway, count: int) -> list[TraceSummary]:
    """The traces of the gateway once so many are complete."""
    with trio.fail_after(5):
        while True:
            found = await gateway.traces.find()
            if sum(trace.complete for trace in found) >= count:
                return found
            await trio.testing.wait_all_tasks_blocked(0.01)


@asynccontextmanager
async def shop() -> AsyncIterator[tuple[mesh.Gateway, mesh.Client]]:
    """A gateway with three complete traces: one of two hops, one of one hop, one that failed."""
    async with (
        mesh.Gateway(admin="127.0.0.1:0") as gateway,
        mesh.connect("users", gateway=gateway) as users,
        mesh.connect("orders", gateway=gateway) as orders,
        mesh.connect("shop", gateway=gateway) as caller,
    ):

        @users.method()
        async def get(user: str) -> str:
            if user == "nobody":
                raise mesh.NotFound("there is no such user", reason="USER_NOT_FOUND")
            return user.title()

        @orders.method()
        async def place(user: str) -> Any:
            return await orders.call("users", "get", user)

        for peer in (users, orders):
            await peer.call("mesh", "status")
        for activity, service, method, user in (
            ("order/1", "orders", "place", "ada"),
            ("look 2", "users", "get", "ada"),
            ("order/3", "users", "get", "nobody"),
        ):
            with mesh.activity(activity):
                try:
                    await caller.call(service, method, user)
                except mesh.NotFound:
                    assert user == "nobody"
        await complete(gateway, 3)
        yield gateway, caller


async def test_the_three_ways_to_ask_tell_the_same() -> None:
    async with shop() as (gateway, caller):
        here = msgspec.to_builtins(await gateway.traces.find())
        assert [trace["activity_id"] for trace in here] == ["order/3", "look 2", "order/1"]
        assert await caller.call("mesh", "traces") == here
        assert await ask(gateway, "/api/traces") == (200, {"traces": here})
        newest, _, nested = here
        assert (newest["reason"], newest["code"], newest["errors"]) == ("error", "not_found", 1)
        assert (nested["spans"], nested["services"]) == (
            8,
            ["mesh-gateway", "orders", "shop", "users"],
        )
        trace_id = nested["trace_id"]
        otlp = await gateway.traces.otlp(trace_id)
        assert sum(len(scope["spans"]) for one in otlp["resourceSpans"]
                   for scope in one["scopeSpans"]) == 8  # fmt: skip
        assert await caller.call("mesh", "trace", trace_id) == otlp
        assert await ask(gateway, f"/api/traces/{trace_id}") == (200, otlp)
        drawn = msgspec.to_builtins(await gateway.traces.waterfall(trace_id))
        assert drawn["summary"] == nested
        assert [row["depth"] for row in drawn["rows"]] == list(range(8))
        asked = {"id": trace_id, "format": "waterfall"}
        assert await caller.call("mesh", "trace", asked) == drawn
        assert await ask(gateway, f"/api/traces/{trace_id}", format="waterfall") == (200, drawn)


async def test_the_text_for_people_is_the_same_by_all_three_ways() -> None:
    async with shop() as (gateway, caller):
        text = await gateway.traces.text("order/1")
        assert text.endswith("\n")
        lines = text.splitlines()
        assert lines[0].startswith("orders.place by shop  ok after ")
        assert [line.split()[:2] for line in lines[4:7]] == [
            ["milliseconds", "total"],
            ["orders.place", lines[5].split()[1]],
            ["└─", "users.get"],
        ]
        path = f"/api/traces/{quote('order/1')}"
        plain = "text/plain; charset=utf-8"
        assert await read(gateway, f"{path}?format=text") == (plain, text)
        assert await read(gateway, path, "text/plain") == (plain, text)
        assert await caller.call("mesh", "trace", {"id": "order/1", "format": "text"}) == text
        wide = await gateway.traces.text("order/1", 200)
        assert wide != text
        assert await read(gateway, f"{path}?format=text&width=200") == (plain, wide)
        asked = {"id": "order/1", "format": "text", "width": 200}
        assert await caller.call("mesh", "trace", asked) == wide
        narrow = await gateway.traces.text("order/1", 40)
        assert max(map(len, narrow.splitlines()[5:7])) < max(map(len, lines[5:7]))


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"),
        ("", "application/json"),
        ("text/plain", "text/plain; charset=utf-8"),
        ("text/plain; charset=utf-8, */*;q=0.1", "text/plain; charset=utf-8"),
        ("text/*", "text/plain; charset=utf-8"),
        ("application/json, text/plain;q=0.5", "application/json"),
        ("application/json, text/plain", "application/json"),
        ("text/plain;q=x", "application/json"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "application/json"),
        ("TEXT/PLAIN;Q=1.0, application/json;q=0.9", "text/plain; charset=utf-8"),
    ],
)
async def test_an_accept_header_chooses_between_json_and_text(accept: str, kind: str) -> None:
    async with shop() as (gateway, _):
        path = f"/api/traces/{quote('order/1')}"
        assert (await read(gateway, path, accept))[0] == kind
        assert (await read(gateway, f"{path}?format=otlp", accept))[0] == "application/json"


async def test_zeros_before_a_width_say_nothing() -> None:
    async with shop() as (gateway, _):
        path = f"/api/traces/{(await gateway.traces.find())[0].trace_id}?format=text&width="
        assert await read(gateway, f"{path}{'0' * 5000}40") == await read(gateway, f"{path}40")


@pytest.mark.parametrize("width", ["39", "1001", "-80", "8e1", "wide", "", "000", "9" * 5000])
async def test_a_width_that_cannot_be_is_refused(width: str) -> None:
    async with shop() as (gateway, caller):
        some = (await gateway.traces.find())[0].trace_id
        status, told = await ask(gateway, f"/api/traces/{some}", format="text", width=width)
        assert status == 400
        assert told["error"].startswith("width must be a whole number from 40 to 1,000, not ")
        status, told = await ask(gateway, f"/api/traces/{some}", width="80")
        assert (status, told) == (400, {"error": "width is for format text, not for otlp"})
        with pytest.raises(mesh.InvalidArgument, match="from 40 to 1,000, not -1"):
            await caller.call("mesh", "trace", {"id": some, "format": "text", "width": -1})


@pytest.mark.parametrize(
    ("filters", "activities"),
    [
        ({"service": "orders"}, ["order/1"]),
        ({"service": "users"}, ["order/3", "look 2", "order/1"]),
        ({"method": "place"}, ["order/1"]),
        ({"method": "users.get"}, ["order/3", "look 2", "order/1"]),
        ({"code": "not_found"}, ["order/3"]),
        ({"service": "orders", "code": "not_found"}, []),
        ({"min_duration": "0.001us"}, ["order/3", "look 2", "order/1"]),
        ({"min_duration": "1h"}, []),
        ({"activity_id": "look 2"}, ["look 2"]),
        ({"reason": "ERROR"}, ["order/3"]),
        ({"reason": "baseline", "limit": 1}, ["look 2"]),
        ({"service": "", "limit": "2"}, ["order/3", "look 2"]),
    ],
)
async def test_filters(filters: dict[str, Any], activities: list[str]) -> None:
    async with shop() as (gateway, caller):
        status, told = await ask(gateway, "/api/traces", **filters)
        assert status == 200
        assert [trace["activity_id"] for trace in told["traces"]] == activities
        assert await caller.call("mesh", "traces", filters) == told["traces"]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("services", "users", "no filter 'services'; there are service, method, code, min_dur"),
        ("service", "x" * 258, "filter service must be the name of a service, at most 257 char"),
        ("code", "404", "filter code must be one of ok, cancelled, unknown, .*, not '404'"),
        ("min_duration", "-1", "filter min_duration must be a duration, in seconds or such as"),
        ("min_duration", "long", "filter min_duration must be a duration, .*, not 'long'"),
        ("activity_id", "é", "filter activity_id must be 1 to 128 printable ASCII characters"),
        ("reason", "boring", "filter reason must be one of error, refused, cancelled, slow, "),
        ("limit", "0", "filter limit must be a whole number from 1 to 1,000, not 0"),
        ("limit", "1e3", "filter limit must be a whole number from 1 to 1,000, not '1e3'"),
    ],
)
async def test_a_filter_that_cannot_be_is_named_with_what_it_takes(
    name: str, value: str, told: str
) -> None:
    async with mesh.Gateway(admin="127.0.0.1:0") as gateway:
        with pytest.raises(mesh.InvalidArgument, match=told) as wrong:
            await gateway.traces.find(**{name: value})
        message = wrong.value.message
        assert await ask(gateway, "/api/traces", **{name: value}) == (400, {"error": message})
        async with mesh.connect("shop", gateway=gateway) as caller:
            with pytest.raises(mesh.InvalidArgument) as wrong:
                await caller.call("mesh", "traces", {name: value})
            assert wrong.value.message == message


@pytest.mark.parametrize("value", [True, [], {}, float("nan"), float("inf"), -1, 10**30])
@pytest.mark.parametrize("name", ["service", "code", "min_duration", "limit"])
def test_programs_may_give_anything(name: str, value: object) -> None:
    with pytest.raises(mesh.InvalidArgument, match=f"filter {name} must be"):
        TraceFilters.read({name: value})


async def test_a_parameter_that_is_given_twice_is_refused() -> None:
    async with mesh.Gateway(admin="127.0.0.1:0") as gateway:
        told = {"error": "code is given twice"}
        assert await ask(gateway, "/api/traces?code=ok&code=unknown") == (400, told)


async def test_a_trace_is_found_by_its_first_digits_or_its_activity() -> None:
    async with shop() as (gateway, _):
        trace = (await gateway.traces.find(activity_id="order/1"))[0]
        whole = trace.trace_id
        pasted = (f" {whole}\n", str(UUID(whole)), f"00-{whole}-00f067aa0ba902b7-01", "order/1 ")
        for name in (whole, whole[:6], whole.upper(), "order/1", *pasted):
            status, told = await ask(gateway, f"/api/traces/{quote(name)}", format="waterfall")
            assert (status, told["summary"]["trace_id"]) == (200, trace.trace_id), name


async def test_the_decisions_are_the_same_by_all_three_ways() -> None:
    async with shop() as (gateway, caller):
        trace = (await gateway.traces.find(activity_id="order/1"))[0]
        by_code = msgspec.to_builtins(await gateway.traces.explain("order/1"))
        assert by_code["steps"][0]["decision"] == "only_instance"
        assert by_code["summary"]["trace_id"] == trace.trace_id
        wanted = {"id": trace.trace_id, "format": "explain"}
        assert await caller.call("mesh", "trace", wanted) == by_code
        path = f"/api/traces/{trace.trace_id[:6]}"
        assert await ask(gateway, path, format="explain") == (200, by_code)
        assert await ask(gateway, path, format="explain", width=80) == (
            400,
            {"error": "width is for format text, not for explain"},
        )


async def test_what_is_not_there_is_explained() -> None:
    async with mesh.Gateway(admin="127.0.0.1:0") as gateway:
        status, told = await ask(gateway, "/api/traces/abcdef")
        assert status == 404
        assert told["error"] == (
            "no kept trace 'abcdef': it was not kept, or has made way; or the call failed in its "
            "caller and never came here, so that only its error tells why"
        )
        status, told = await ask(gateway, "/api/traces/" + "a-" * 60)
        assert status == 404
        assert len(told["error"]) <= 220
    async with shop() as (gateway, caller):
        status, told = await ask(gateway, "/api/traces/" + "0" * 32)
        assert status == 404
        with pytest.raises(mesh.NotFound) as missing:
            await caller.call("mesh", "trace", "0" * 32)
        assert (missing.value.message, missing.value.reason) == (told["error"], "TRACE_NOT_FOUND")
        assert re.match(
            r"3 are kept now, of 16 spans, the oldest from \d+ s ago; they stay until newer ones "
            r"need the room of 20,000 spans or 128MiB, and what is over its quota",
            missing.value.details["kept"],
        )
        assert missing.value.details["ids"].startswith("an id is that of a trace, 32 hexadecimal")
        status, told = await ask(gateway, "/api/traces/%C3%A9")
        assert status == 400
        assert told["error"].startswith("'\u00e9' names no trace: an id is that of a trace, 32 ")
        some = (await gateway.traces.find())[0].trace_id
        assert await ask(gateway, f"/api/traces/{some}", format="xml") == (
            400,
            {"error": "format must be one of otlp, waterfall, text, explain, not 'xml'"},
        )
        assert await ask(gateway, f"/api/traces/{some}", form="otlp") == (
            400,
            {"error": "no parameter 'form'; there are format, width"},
        )


async def test_a_trace_that_is_kept_while_its_entry_call_runs_is_told_by_that_call() -> None:
    failed, held = trio.Event(), trio.Event()
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("orders", gateway=gateway) as orders,
        mesh.connect("shop", gateway=gateway) as caller,
        trio.open_nursery() as nursery,
    ):

        @orders.method()
        async def refuse() -> None:
            raise mesh.NotFound("no such thing")

        @orders.method()
        async def place() -> None:
            with pytest.raises(mesh.NotFound):
                await orders.call("orders", "refuse")
            failed.set()
            await held.wait()

        nursery.start_soon(caller.call, "orders", "place")
        await failed.wait()
        with trio.fail_after(5):
            while not (found := await gateway.traces.find()):
                await trio.testing.wait_all_tasks_blocked(0.01)
        (running,) = found
        assert (running.caller, running.service, running.method) == ("shop", "orders", "place")
        assert (running.duration_ms, running.code) == (None, "")
        held.set()
        (ended,) = await complete(gateway, 1)
        assert (ended.caller, ended.service, ended.method) == ("shop", "orders", "place")


async def test_the_spans_of_the_mesh_name_its_version() -> None:
    """Those of the gateway, and those that peers tell."""
    async with shop() as (gateway, _):
        for one in await gateway.traces.find():
            otlp = await gateway.traces.otlp(one.trace_id)
            scopes = [
                part["scope"] for told in otlp["resourceSpans"] for part in told["scopeSpans"]
            ]
            assert len(scopes) >= 3
            assert scopes == [{"name": "spanmesh", "version": mesh.__version__}] * len(scopes)


async def test_digits_that_name_several_are_told_apart() -> None:
    async with mesh.Gateway(admin="127.0.0.1:0") as gateway:
        tracing = gateway.core.tracing
        assert tracing is not None
        for last in range(5):
            tracing.store.open(bytes(15) + bytes([last]), "forced", 0)
        status, told = await ask(gateway, "/api/traces/000000")
        assert status == 400
        assert told["error"].startswith(f"5 kept traces begin with 000000: {'0' * 31}4, ")
        assert told["error"].endswith(" and 2 more")
        assert (await ask(gateway, f"/api/traces/{'0' * 32}"))[0] == 200


async def test_without_telemetry_it_says_so() -> None:
    async with (
        mesh.Gateway(admin="127.0.0.1:0", telemetry=False) as gateway,
        mesh.connect("shop", gateway=gateway) as caller,
    ):
        for path in ("/api/traces", "/api/traces/abcdef"):
            status, told = await ask(gateway, path)
            assert status == 404
            assert "keeps no traces, as its telemetry is off" in told["error"]
        for method, params in (("traces", None), ("trace", "abcdef")):
            with pytest.raises(mesh.FailedPrecondition, match="telemetry is off"):
                await caller.call("mesh", method, params)


async def test_big_traces_do_not_hold_up_the_loop() -> None:
    """They may also grow, or make way, while they are told."""
    async with mesh.Gateway() as gateway:
        tracing = gateway.core.tracing
        assert tracing is not None
        trace_id, count = os.urandom(16), 1750
        tracing.store.open(trace_id, "forced", 0).duration = 1.0

        def make(number: int) -> spans.Span:
            facts = spans.CallFacts(
                trace_id=trace_id,
                span_id=number.to_bytes(8, "big"),
                parent_id=(number // 2).to_bytes(8, "big") if number > 1 else b"",
                kind=spans.SERVER,
                method="users.get",
                start=number,
                end=count * 2,
                code=0,
            )
            return spans.build(facts)

        resource: spans.Attributes = {names.SERVICE_NAME: "users"}
        tracing.store.add(trace_id, "p", resource, [make(n) for n in range(1, count)])
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1
                if turns == 3:
                    tracing.store.add(trace_id, "q", resource, [make(count)])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            drawn = await gateway.traces.waterfall(trace_id.hex())
            assert len(drawn.rows) == drawn.summary.spans == count - 1, "of one moment"
            assert turns > 10
            whole = await gateway.traces.waterfall(trace_id.hex())
            turns = 0
            await gateway.traces.waterfall(trace_id.hex())
            of_rows, turns = turns, 0
            explained = await gateway.traces.explain(trace_id.hex())
            assert turns > of_rows + len(whole.rows) // SLICE - 2
            assert explained.steps == explain(whole.rows)
            turns = 10
            otlp = await gateway.traces.otlp(trace_id.hex())
            assert len(otlp["resourceSpans"]) == 2
            assert turns > 20
            turns = 10
            text = await gateway.traces.text(trace_id.hex())
            assert len(text.splitlines()) > 100
            assert turns > 60
            nursery.cancel_scope.cancel()


async def test_a_call_may_ask_for_its_trace_to_be_kept() -> None:
    settings = TraceSettings(baseline=0)
    async with (
        mesh.Gateway(traces=settings) as gateway,
        mesh.connect("users", gateway=gateway) as users,
    ):
        users.register("get", lambda: "Ada")
        users.register("nested", partial(users.call, "users", "get"))
        await users.call("mesh", "status")
        with mesh.traced():
            await users.call("users", "nested")
        await users.call("users", "nested")
        (trace,) = await complete(gateway, 1)
        assert (trace.reason, trace.method, trace.spans) == ("forced", "nested", 8)


async def test_a_trace_is_not_complete_before_all_have_told_their_part() -> None:
    """Also a service that is gone before it could be asked is missed from the beginning."""
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("shop", gateway=gateway) as caller,
    ):
        tracing = gateway.core.tracing
        assert tracing is not None
        async with mesh.connect("users", gateway=gateway, process=Process()) as users:
            users.register("get", lambda: "Ada")
            await users.call("mesh", "status")
            with mesh.activity("one"), mesh.traced():
                await caller.call("users", "get")
            tracing.collector.collect_now()
            (trace,) = await gateway.traces.find(activity_id="one")
            assert len(trace.missing) == 2
            assert all(said.endswith("has not answered yet") for said in trace.missing)
            await complete(gateway, 1)
            with mesh.activity("two"):
                await caller.call("users", "get")
            (session,) = [one for one in gateway.core.sessions.values() if one.name == "users"]
            del tracing.collector.debts.sessions[session.process_id]
            tracing.collector.collect_now()
            (trace,) = await gateway.traces.find(activity_id="two")
            assert any("disconnected before it sent its spans" in said for said in trace.missing)
