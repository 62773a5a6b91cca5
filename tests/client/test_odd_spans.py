"""What users' code puts into spans never costs a peer its connection."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import trio
from opentelemetry import trace

import mesh
from mesh_telemetry.attributes import clean_time

if TYPE_CHECKING:
    from collections.abc import Callable


def _float_start() -> None:
    trace.get_tracer("lib").start_span("s", start_time=time.time()).end()  # type: ignore[arg-type]


def _float_end() -> None:
    trace.get_tracer("lib").start_span("s").end(end_time=time.time())  # type: ignore[arg-type]


def _float_event() -> None:
    trace.get_current_span().add_event("e", timestamp=time.time())  # type: ignore[arg-type]


def _text_event() -> None:
    trace.get_current_span().add_event("e", timestamp="now")  # type: ignore[arg-type]


def _scope() -> None:
    trace.get_tracer("lib", 1.2).start_span("s").end()  # type: ignore[arg-type]


@pytest.mark.parametrize("odd", [_float_start, _float_end, _float_event, _text_event, _scope])
async def test_a_span_with_fields_of_a_wrong_type_is_told(odd: Callable[[], None]) -> None:
    mesh.install_tracer_provider()
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("svc", gateway=gateway) as svc,
        mesh.connect("caller", gateway=gateway) as caller,
    ):

        @svc.method("do")
        async def do(_: object) -> None:
            odd()

        async with svc.events() as served, caller.events() as called:
            with mesh.traced():
                await caller.call("svc", "do")
            with trio.fail_after(5):
                while True:
                    found = await gateway.traces.find()
                    if found and found[0].complete:
                        break
                    await trio.sleep(0.02)
            await trio.sleep(0.1)
            for stream in (served, called):
                with trio.move_on_after(0.05):
                    async for event in stream:
                        assert not isinstance(event, mesh.events.Disconnected)


def test_times_become_whole_nanoseconds() -> None:
    assert clean_time(1.9) == 1
    assert clean_time(2**70) == 2**63 - 1
    assert clean_time(-(2**70)) == -(2**63)
    assert clean_time(float("nan")) == clean_time(float("inf")) == clean_time("now") == 0
    assert clean_time(None) == 0


async def test_a_resource_that_is_no_text_ends_no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=\udcff")
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("svc", gateway=gateway) as svc,
        mesh.connect("caller", gateway=gateway) as caller,
    ):

        @svc.method("do")
        async def do(_: object) -> int:
            return 1

        with mesh.traced():
            assert await caller.call("svc", "do") == 1
        with trio.fail_after(5):
            while not ((found := await gateway.traces.find()) and found[0].complete):  # noqa: ASYNC110
                await trio.sleep(0.02)
        assert await gateway.traces.otlp(found[0].trace_id)
        assert await caller.call("svc", "do") == 1
