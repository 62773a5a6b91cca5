"""What users' code puts into spans never costs a peer its connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from opentelemetry import trace

import mesh
from mesh_telemetry.attributes import clean_time

if TYPE_CHECKING:
    from collections.abc import Callable


# What untyped code passes.
MOMENT: Any = 1_700_000_000.5
TEXT: Any = "now"
VERSION: Any = 1.2


def _float_start() -> None:
    trace.get_tracer("lib").start_span("s", start_time=MOMENT).end()


def _float_end() -> None:
    trace.get_tracer("lib").start_span("s").end(end_time=MOMENT)


def _float_event() -> None:
    trace.get_current_span().add_event("e", timestamp=MOMENT)


def _text_event() -> None:
    trace.get_current_span().add_event("e", timestamp=TEXT)


def _scope() -> None:
    trace.get_tracer("lib", VERSION).start_span("s").end()


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
            while True:
                found = await gateway.traces.find()
                if found and found[0].complete:
                    break
                await trio.sleep(0.02)
        assert await gateway.traces.otlp(found[0].trace_id)
        assert await caller.call("svc", "do") == 1
