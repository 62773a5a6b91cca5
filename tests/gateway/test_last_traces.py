"""The last kept traces of a gateway that drains."""

from __future__ import annotations

import pytest
import trio

import mesh
from mesh.limits import Limits
from tests.telemetry.backends import running


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
                hanging = trio.Event()

                @svc.method("hang")
                async def hang(_: object) -> None:
                    hanging.set()
                    await trio.sleep_forever()

                async def call() -> None:
                    with pytest.raises(mesh.Unavailable):
                        await caller.call("svc", "hang")

                nursery.start_soon(call)
                await hanging.wait()
                async with gateway.events() as stream:
                    gateway.drain()
                    with trio.fail_after(10):
                        async for _ in stream:  # until the gateway's end
                            pass
        assert backend.names.count("svc.hang") == 4
