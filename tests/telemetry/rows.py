"""Rows of waterfalls as tests make them up."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from mesh_telemetry import WaterfallRow

Row: TypeAlias = dict[str, Any]
"""The fields of a row; :func:`tree` gives it its ids."""
GATEWAY = "gw1"
"""What the gateway happens to be called."""

SUMMARY: dict[str, Any] = {
    "trace_id": "0af7651916cd43dd8448eb211c80319c",
    "reason": "slow",
    "started": "2026-01-31T12:00:00.250000Z",
    "duration_ms": 29.0,
    "caller": "shop",
    "service": "orders",
    "method": "place",
    "code": "ok",
    "activity_id": "order-42",
    "spans": 12,
    "services": ["gw1", "orders", "payments", "shop", "users"],
    "errors": 0,
    "complete": True,
    "missing": [],
    "dropped": 0,
}


def row(depth: int, service: str, name: str, kind: str, start: float, end: float,
        **rest: Any) -> Row:  # fmt: skip
    """A row; its parent is the row of `depth - 1` that :func:`tree` finds above it."""
    values: Row = {
        "depth": depth,
        "span_id": "",
        "parent_id": "",
        "service": service,
        "instance": f"{service}-1",
        "name": name,
        "kind": kind,
        "start_ms": start,
        "duration_ms": end - start,
        "self_ms": 0.0,
        "code": "" if kind == "internal" else "ok",
        "outcome": "" if kind == "internal" else "ok",
        "error": False,
        "error_type": "",
        "error_message": "",
        "deadline_ms": None,
        "attributes": {},
        "events": [],
        "orphan": False,
        "shifted_ms": 0.0,
        "of_gateway": service == GATEWAY,
        "method": "" if kind == "internal" else name,
    }
    return values | rest


def tree(*rows: Row) -> list[WaterfallRow]:
    """The rows with ids by their place."""
    above: list[Row] = []
    for number, one in enumerate(rows):
        one["span_id"] = str(number)
        del above[one["depth"] :]
        one["parent_id"] = above[-1]["span_id"] if above else ""
        above.append(one)
    return msgspec.convert(rows, list[WaterfallRow])


def call(depth: int, caller: str, name: str, start: float, end: float, way: float = 1.0,
         **rest: Any) -> list[Row]:  # fmt: skip
    """The four spans of a hop, the way of which takes so long there, and as long back."""
    callee = name.partition(".")[0]
    half = way / 2
    return [
        row(depth, caller, name, "client", start, end, **rest),
        row(depth + 1, GATEWAY, name, "server", start + half, end - half, **rest),
        row(depth + 2, GATEWAY, name, "client", start + half, end - half, **rest),
        row(depth + 3, callee, name, "server", start + way, end - way, **rest),
    ]


def nested() -> list[Row]:
    """The trace that :data:`SUMMARY` is about."""
    return [
        *call(0, "shop", "orders.place", 0, 30, deadline_ms=500.0),
        *call(4, "orders", "users.get", 2, 8, deadline_ms=498.0),
        *call(4, "orders", "payments.charge", 10, 28, way=4, deadline_ms=490.0),
    ]
