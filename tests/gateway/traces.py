"""What tests of traces need: meshes whose peers are processes of their own, and trees of spans."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

import mesh
from mesh.process import Process, measure_usage
from mesh_telemetry import TraceSettings
from mesh_telemetry.spans import CLIENT, SERVER, Span

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mesh.gateway.tracing import Tracing
    from mesh_telemetry import KeptTrace

QUIET = TraceSettings(baseline=0)
"""Keeps only what there is a reason for."""
EPOCH = 1_700_000_000.0


def process(name: str) -> Process:
    """A process of its own, whose wall clock agrees with trio's."""
    return Process(
        random.Random(name), measure_usage, lambda: EPOCH + trio.current_time(), f"{name}-1"
    )


class Mesh:
    """One gateway, and peers that are processes of their own."""

    def __init__(self, gateway: mesh.Gateway) -> None:
        self.gateway = gateway

    @property
    def tracing(self) -> Tracing:
        """The gateway's traces."""
        tracing = self.gateway.core.tracing
        assert tracing is not None
        return tracing

    @property
    def kept(self) -> list[KeptTrace]:
        """The kept traces, newest first."""
        return self.tracing.store.find(limit=10_000)

    @property
    def counts(self) -> dict[str, int]:
        """Decisions that have been made."""
        return {what: count for what, count in self.tracing.sampler.counts.items() if count}

    def peer(self, name: str, **more: Any) -> Any:
        """Connect a peer."""
        own = more.pop("process", None) or process(name)
        return mesh.connect(name, gateway=more.pop("gateway", self.gateway), process=own, **more)

    async def settled(self) -> None:
        """Return once everything that is kept has been told, and what is not is forgotten."""
        await trio.sleep(2.5)

    def check_nothing_left(self) -> None:
        """Nothing is held but what is in the store."""
        tracing = self.tracing
        assert not tracing.pending
        assert not tracing._quiet
        assert not tracing.collector._fresh
        assert not len(tracing.collector.debts)


@asynccontextmanager
async def running(traces: TraceSettings | None = None, **more: Any) -> AsyncIterator[Mesh]:
    """A gateway whose wall clock agrees with trio's."""
    gateway = mesh.Gateway(traces=traces, process=process("gateway"), **more)
    async with gateway:
        yield Mesh(gateway)


class Node(NamedTuple):
    """A span and what is below it."""

    span: Span
    resource: str
    below: list[Node]

    @property
    def outline(self) -> Any:
        """Kind, service and name of it and of all below, by start."""
        kind = {CLIENT: "client", SERVER: "server"}.get(self.span.kind, "internal")
        head = f"{kind} {self.resource} {self.span.name}"
        return (head, *[node.outline for node in self.below]) if self.below else head

    def walk(self) -> list[Node]:
        """It and all below."""
        return [self, *[one for node in self.below for one in node.walk()]]


def forest(trace: KeptTrace) -> list[Node]:
    """The spans of a trace below those whose parents are not in it."""
    nodes = {
        span.span_id: Node(span, str(resource["service.name"]), [])
        for resource, span in trace.spans()
    }
    roots: list[Node] = []
    for node in sorted(nodes.values(), key=lambda node: (node.span.start, node.span.kind)):
        above = nodes.get(node.span.parent_id)
        (above.below if above is not None else roots).append(node)
    return roots


def tree(trace: KeptTrace) -> Node:
    """The spans of a trace that has one root."""
    (root,) = forest(trace)
    assert root.span.parent_id == b""
    return root


def hop(caller: str, callee: str, method: str, *below: Any) -> Any:
    """The outline of one call that reached its callee."""
    return (
        f"client {caller} {method}",
        (
            f"server mesh-gateway {method}",
            (
                f"client mesh-gateway {method}",
                (f"server {callee} {method}", *below) if below else f"server {callee} {method}",
            ),
        ),
    )
