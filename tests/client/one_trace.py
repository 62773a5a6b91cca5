"""A service, a caller, and the one trace that their gateway keeps."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from mesh_telemetry import TraceSettings
from tests.gateway.traces import Mesh, Node, running, tree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import mesh


ALL = TraceSettings(baseline=10_000, max_spans_per_second=1e9)


@asynccontextmanager
async def pair(
    traces: TraceSettings = ALL, **more: Any
) -> AsyncIterator[tuple[Mesh, mesh.Client, mesh.Client]]:
    """A service named users, and a caller named web."""
    async with (
        running(traces, **more) as it,
        it.peer("users") as users,
        it.peer("web") as web,
    ):
        yield it, users, web


async def only(it: Mesh) -> Node:
    """The tree of the only kept trace, which must be complete."""
    await it.settled()
    (trace,) = it.kept
    assert trace.missing == []
    assert trace.complete
    return tree(trace)


def attributes(node: Node) -> dict[str, Any]:
    return dict(node.span.attributes)
