"""What is left behind, and traces that miss something, are noticed."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.soak.journal import Holds
from tests.soak.leftovers import GATEWAY_GROWTH, files, in_gateway, in_peer, memory
from tests.soak.processes import Sample
from tests.soak.traces import faults

STATUS = {"in_flight": 0, "waiting": 0}
INSTANCE = {"peer": "work", "process_id": "a1", "in_flight": 0, "queued_bytes": 0}
METRICS = """
# TYPE mesh_calls_in_flight gauge
mesh_calls_in_flight{rpc_service="work",rpc_method="echo"} 0
# TYPE mesh_traces_pending gauge
mesh_traces_pending 0
# TYPE mesh_traces_stored gauge
mesh_traces_stored 70
"""


def left(
    status: dict[str, int] = STATUS, instance: dict[str, Any] = INSTANCE, metrics: str = METRICS
) -> list[str]:
    families = text_string_to_metric_families(metrics)
    return in_gateway(status, [{"instances": [instance]}], families)


def test_a_gateway_that_holds_nothing_and_one_that_holds_something() -> None:
    assert not left()
    assert left({**STATUS, "in_flight": 3}) == ["3 in_flight"]
    assert left({**STATUS, "waiting": 1}) == ["1 waiting"]
    assert left(instance={**INSTANCE, "in_flight": 1}) == ["1 in_flight of work a1"]
    assert left(instance={**INSTANCE, "queued_bytes": 9}) == ["9 queued_bytes of work a1"]
    assert left(metrics=METRICS.replace("pending 0", "pending 2")) == ["mesh_traces_pending {} 2"]
    assert len(left(metrics=METRICS.replace("} 0", "} 1"))) == 1


@pytest.mark.parametrize("holds", [
    Holds(11.0, 1, 0, 0, 0.0), Holds(11.0, 0, 1, 0, 0.0), Holds(11.0, 0, 0, 1, 0.0),
    Holds(9.0, 0, 0, 0, 0.0), None,
])  # fmt: skip
def test_a_peer_that_holds_something_or_has_not_said(holds: Holds | None) -> None:
    assert in_peer("work-1.1", holds, 10.0)
    assert not in_peer("work-1.1", Holds(11.0, 0, 0, 0, 30.0), 10.0)


def test_files_that_stay_open_and_memory_beyond_its_bound() -> None:
    start = Sample(0.0, 40_000_000, 3)
    grown = Sample(9.0, start.memory + GATEWAY_GROWTH, 3)
    assert not files("gateway.1", start, grown)
    assert not memory("gateway.1", start, grown)
    more = grown._replace(memory=grown.memory + 1, files=4)
    assert "3 files open when it was ready, and 4" in files("gateway.1", start, more)[0]
    assert "128.0 MiB more than when it was ready" in memory("gateway.1", start, more)[0]


def row(number: int, kind: str, name: str, *, gateway: bool, above: int | None = None) -> Any:
    return {
        "span_id": str(number), "parent_id": str(number - 1 if above is None else above),
        "kind": kind, "name": name, "service": "x", "code": "ok", "orphan": False,
        "of_gateway": gateway,
    }  # fmt: skip


def call(first: int, name: str, above: int) -> list[Any]:
    """The four spans of one call."""
    return [
        row(first, "client", name, gateway=False, above=above),
        row(first + 1, "server", name, gateway=True),
        row(first + 2, "client", name, gateway=True),
        row(first + 3, "server", name, gateway=False),
    ]


def view(rows: list[Any], **summary: Any) -> dict[str, Any]:
    told = {"trace_id": "abc", "complete": True, "missing": [], "spans": len(rows), **summary}
    return {"summary": told, "rows": rows}


NESTED = [*call(1, "front.through", 0), *call(5, "middle.through", 4), *call(9, "work.echo", 8)]


def test_a_whole_trace_and_those_that_miss_any_span_unsaid() -> None:
    assert not faults(view(NESTED))
    for missing in range(1, len(NESTED)):
        assert faults(view(NESTED[:missing])), missing
        rows = [one for one in NESTED if one["span_id"] != str(missing)]
        rows = [{**one, "orphan": one["parent_id"] == str(missing)} for one in rows]
        assert faults(view(rows)), missing


def test_a_trace_that_names_what_is_missing_and_one_that_does_not() -> None:
    part = NESTED[:7]
    assert not faults(view(part, complete=False, missing=["work (a1) disconnected"]))
    assert faults(view(part, complete=False)) == [
        "trace abc is not complete and names nothing missing"
    ]
    assert faults(view(part, spans=8)) == ["trace abc has 7 spans and says 8"]


def test_a_span_that_is_there_twice() -> None:
    again = {**NESTED[3], "span_id": "40"}
    assert "has 2 spans that answer" in faults(view([*NESTED, again]))[0]
