"""Kept traces: each is whole, or says which part it misses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

NEXT = {"front.through": "middle.through", "middle.through": "work."}
"""What a method that ended with ok has called, or how that begins."""


def faults(view: Mapping[str, Any]) -> list[str]:
    """What is wrong with a kept trace of which nothing is in flight any more.

    A call that reached its service has four spans, each below the one before: its caller's, two of
    the gateway, and its service's. A call that failed may have come less far.

    Args:
        view: The trace as ``/api/traces/ID?format=waterfall`` tells it.
    """
    summary, rows = view["summary"], view["rows"]
    name = f"trace {summary['trace_id']}"
    if summary["spans"] != len(rows):
        return [f"{name} has {len(rows)} spans and says {summary['spans']}"]
    if not summary["complete"]:
        return [] if summary["missing"] else [f"{name} is not complete and names nothing missing"]
    found = [f"{name} is complete and misses the parent of {_tell(row)}"
             for row in rows if row["orphan"]]  # fmt: skip
    below: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        below.setdefault(row["parent_id"], []).append(row)
    for row in rows:
        under = below.get(row["span_id"], [])
        if row["kind"] == "client":
            reached = [one for one in under if one["kind"] == "server"
                       and one["of_gateway"] is not row["of_gateway"]]  # fmt: skip
            if len(reached) > 1 or (row["code"] == "ok" and not reached):
                found.append(f"{name} has {len(reached)} spans that answer {_tell(row)}")
        elif row["code"] == "ok":
            called = row["name"] if row["of_gateway"] else NEXT.get(row["name"], "")
            if called and not any(one["name"].startswith(called) for one in under):
                found.append(f"{name} misses what {_tell(row)} called")
    return found


def _tell(row: Mapping[str, Any]) -> str:
    return f"{row['kind']} {row['service']} {row['name']} {row['code']}"
