"""The last kept traces of a gateway that drains."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

import mesh
from mesh.limits import Limits
from tests.telemetry.backends import running

if TYPE_CHECKING:
    import pytest


async def test_a_call_that_the_drain_ends_is_exported_with_all_its_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running() as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", backend.endpoint)
        gateway = mesh.Gateway(limits=Limits(drain=0.3))
        async with trio.open_nursery() as nursery:
            await nursery.start(gateway.serve)
            async with (
                mesh.connect("svc", gateway=gateway) as svc,
                mesh.connect("caller", gateway=gateway) as caller,
            ):

                @svc.method("hang")
                async def hang(_: object) -> None:
                    await trio.sleep(60)

                async def call() -> None:
                    with contextlib.suppress(mesh.Unavailable):
                        await caller.call("svc", "hang")

                nursery.start_soon(call)
                await trio.sleep(0.2)
                gateway.drain()
                with trio.fail_after(10):
                    while gateway._nursery is not None:  # noqa: ASYNC110 - until its exporter ends
                        await trio.sleep(0.05)
        assert backend.names.count("svc.hang") == 4
