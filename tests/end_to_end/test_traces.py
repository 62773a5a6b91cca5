"""Traces of real processes that are killed: what is kept is whole, or names who is missing."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING, Any

import pytest
import trio

import mesh
from mesh.process import Process
from mesh_telemetry.texts import milliseconds
from tests.end_to_end.processes import HERE, Running, World, world

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PATIENCE = 20
"""Seconds."""


async def start(it: World, *what: str) -> Running:
    return await it.start(str(HERE / "mortal.py"), it.address, *what)


async def service(it: World) -> Running:
    running = await start(it, "service")
    assert await running.line() == "ready"
    return running


async def kept(client: mesh.Client, is_settled: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The only kept trace, once it is as it shall be."""
    with trio.fail_after(PATIENCE):
        while True:
            found = await client.call("mesh", "traces")
            if found and is_settled(found[0]):
                assert len(found) == 1
                return dict(found[0])
            await trio.sleep(0.02)


def is_complete(trace: dict[str, Any]) -> bool:
    return bool(trace["complete"])


def is_gone(trace: dict[str, Any]) -> bool:
    """Whoever lives has answered, and one is named."""
    return len(trace["missing"]) == 1 and "disconnected" in trace["missing"][0]


async def test_a_service_that_is_killed_before_it_tells_its_spans(tmp_path: Path) -> None:
    """The trace has all other parts, and says whose part is missing."""
    async with world(tmp_path) as it:
        await it.gateway()
        running = await service(it)
        async with mesh.connect("test", gateway=it.address) as client:
            assert await client.call("work", "die") == "dying"
            assert await running.wait() == -signal.SIGKILL
            trace = await kept(client, is_gone)
            (sentence,) = trace["missing"]
            assert sentence.startswith("work (")
            assert sentence.endswith("): disconnected before it sent its spans")
            assert (trace["spans"], trace["complete"]) == (3, False)
            assert sorted(trace["services"]) == ["mesh-gateway", "test"]
            # Its successor is another process, and owes nothing of this.
            await service(it)
            assert await client.call("work", "get") == "got"


async def test_a_gateway_that_is_killed_between_call_and_result(tmp_path: Path) -> None:
    """Its traces are lost with it; those of the next are whole, whatever peers still held."""
    async with world(tmp_path) as it:
        gateway = await it.gateway()
        await service(it)
        async with mesh.connect("test", gateway=it.address) as client:
            lost: list[mesh.CallError] = []

            async def call() -> None:
                with pytest.raises(mesh.Unavailable) as caught:
                    await client.call("work", "wait")
                lost.append(caught.value)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                with trio.fail_after(PATIENCE):
                    while not (await client.call("mesh", "status"))["in_flight"] > 1:
                        await trio.lowlevel.checkpoint()
                await gateway.end(signal.SIGKILL)
            assert lost[0].reason == "CONNECTION_LOST"
            await it.gateway()
            with trio.fail_after(PATIENCE):
                while "work" not in [one["name"] for one in await client.call("mesh", "services")]:
                    await trio.lowlevel.checkpoint()
            assert await client.call("work", "get") == "got"
            trace = await kept(client, is_complete)
            assert (trace["spans"], trace["method"], trace["missing"]) == (4, "get", [])


@pytest.mark.parametrize("how", ["dies", "leaves"])
async def test_a_caller_that_ends_right_after_its_result(tmp_path: Path, how: str) -> None:
    """One that leaves in good order has told its span; one that is killed is named."""
    async with world(tmp_path) as it:
        await it.gateway()
        await service(it)
        running = await start(it, "caller", how)
        assert await running.wait() == (-signal.SIGKILL if how == "dies" else 0)
        async with mesh.connect("test", gateway=it.address, process=Process()) as client:
            if how == "leaves":
                trace = await kept(client, is_complete)
                assert (trace["spans"], trace["caller"]) == (4, "short")
                return
            trace = await kept(client, is_gone)
            (sentence,) = trace["missing"]
            assert sentence.startswith("short (")
            assert (trace["spans"], trace["complete"]) == (3, False)


async def drawing(it: World, *what: str) -> list[str]:
    """The lines that `mesh trace` prints."""
    running = await it.start("-m", "mesh.cli", "trace", *what, "--gateway", it.address)
    assert running.process.stdout is not None
    with trio.fail_after(PATIENCE):
        printed = b"".join([data async for data in running.process.stdout])
    assert await running.wait() == 0, running.errors.read_text()
    return printed.decode().splitlines()


async def test_a_call_that_waits_for_its_service_shows_the_wait(tmp_path: Path) -> None:
    """In the drawing and in the budget; it is neither the gateway's own time nor the way."""
    async with world(tmp_path) as it:
        await it.gateway("--limit", f"service_wait={PATIENCE}s")
        async with mesh.connect("test", gateway=it.address) as client, trio.open_nursery() as calls:
            calls.start_soon(client.call, "late", "do", {"id": "1"})
            with trio.fail_after(PATIENCE):
                while not (await client.call("mesh", "status"))["waiting"]:
                    await trio.lowlevel.checkpoint()
            await it.service("late")
        async with mesh.connect("other", gateway=it.address) as client:
            trace = await kept(client, is_complete)
            told = await client.call(
                "mesh", "trace", {"id": trace["trace_id"], "format": "waterfall"}
            )
        (waited,) = (row["waited_ms"] for row in told["rows"] if row["waited_ms"])
        assert 0 < waited <= trace["duration_ms"]
        lines = await drawing(it, trace["trace_id"])
        at = next(number for number, line in enumerate(lines) if line.startswith("late.do   "))
        total, own, way, _, bar = lines[at].split()[1:]
        assert float(own) + float(way) < float(total.replace(",", "")) - waited + 1
        assert bar.count("┄") > len(bar) / 2
        assert lines[at + 1] == f"   waited {milliseconds(waited)} for an instance of late"
        assert "┄ waits for an instance" in lines[at + 2]
        share = next(line for line in lines if line.startswith("  waiting for late"))
        assert share.split()[3:5] == milliseconds(waited).split()
        spans = await drawing(it, trace["trace_id"], "--all")
        serving = next(line for line in spans if "mesh-gateway server late.do" in line)
        assert float(serving.split()[5]) < waited / 2, "its own time has no wait in it"
        assert "┄" in serving


async def test_log_lines_are_drawn_below_the_call_that_made_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a call whose trace is kept, each in its own span; of others nothing stays."""
    async with world(tmp_path) as it:
        await it.gateway("--traces-baseline", "0")
        monkeypatch.setenv("MESH_GATEWAY", it.address)
        monkeypatch.setenv("MESH_KEEP_LOGS", "info")
        running = await it.start(str(HERE / "talkative.py"))
        assert await running.line() == "ready"
        async with mesh.connect("test") as client:
            await client.call("shop", "place", {"sku": "mug"})
            with mesh.activity("order-42"), pytest.raises(mesh.Unknown):
                await client.call("shop", "place", {"sku": "hat"})
            trace = await kept(client, is_complete)
            text = await client.call(
                "mesh", "trace", {"id": "order-42", "format": "text", "width": 120}
            )
            document = await client.call("mesh", "trace", {"id": "order-42", "format": "otlp"})
        lines = await drawing(it, trace["trace_id"])
        drawn = lines[lines.index("") + 1 : lines.index("", 4)]
        # What stands before the level is when it was; of a call's line, its name is enough.
        told = [re.sub(r"^[│├└─ ]*([0-9.]+ )?", "", one) for one in drawn[1:-1]]
        assert [one if one[:4] in {"info", "warn", "erro"} else one.split()[0] for one in told] == [
            "shop.place",
            "✗",
            "info    placing hat",
            "price",
            "warning the price of hat is old",
            "shop.reserve",
            "✗",
            "info    looking in the shelf",
            "error   no hat is left",
        ]
        assert all(one in text for one in told if one.startswith(("info", "warn", "erro")))
        spans = [
            span
            for batch in document["resourceSpans"]
            for scope in batch["scopeSpans"]
            for span in scope["spans"]
        ]
        events = {
            span["name"]: [
                {one["key"]: one["value"]["stringValue"] for one in event["attributes"]}
                for event in span["events"]
                if event["name"] == "log"
            ]
            for span in spans
            if "events" in span
        }
        assert events["price"] == [
            {"log.severity": "WARNING", "log.message": "the price of hat is old"}
        ]
        for word in ("mug", "hunter2", "not asked for"):
            assert word not in str(document)
