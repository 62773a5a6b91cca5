"""The service graph and the depth histogram, as scrapers read them."""

from __future__ import annotations

import pytest
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

from mesh_telemetry import (
    DEPTH_BOUNDS,
    DURATION_BOUNDS,
    OPENMETRICS,
    TEXT,
    CallMetrics,
    Exposition,
    GatewayCounters,
)
from mesh_telemetry.graph import STEP, ServiceGraph

FORMATS = pytest.mark.parametrize("accept", [TEXT, OPENMETRICS])
SECONDS = "traces_service_graph_request_server_seconds"


def read(exposition: Exposition, accept: str) -> dict[tuple[str, frozenset[str]], float]:
    """Every sample by its name and label values."""
    text = "".join(exposition.render(accept)[1])
    parse = (
        openmetrics_parser.text_string_to_metric_families
        if accept == OPENMETRICS
        else text_string_to_metric_families
    )
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def test_the_end_of_a_call_is_counted_for_its_caller_and_its_method() -> None:
    calls = CallMetrics()
    orders, shop = (calls.series(caller, "users", "get") for caller in ("orders", "shop"))
    orders.method.in_flight = 3
    orders.ended(0, 0.0001)
    orders.ended(4, 0.3)
    shop.ended(0, 31.0)
    assert (orders.codes[0], orders.codes[4], shop.codes[0]) == (1, 1, 1)
    assert (sum(orders.buckets), sum(shop.buckets)) == (2, 1)
    assert orders.method.buckets == [
        a + b for a, b in zip(orders.buckets, shop.buckets, strict=True)
    ]
    assert orders.method.buckets[0] == orders.method.buckets[-1] == 1
    assert orders.duration_sum == pytest.approx(0.3001)
    assert orders.method.duration_sum == pytest.approx(31.3001)
    assert orders.method.in_flight == 0


@FORMATS
def test_edges_add_up_the_methods_of_a_service(accept: str) -> None:
    calls = CallMetrics()
    calls.series("orders", "users", "get").ended(0, 0.002)
    calls.series("orders", "users", "list").ended(14, 0.2)
    calls.series("orders", "users", "get").codes[8] += 1  # refused: no duration
    calls.series("shop", "orders", "place").ended(0, 40.0)
    calls.method("stock", "reserve")  # never called: no edge
    found = read(Exposition(calls, GatewayCounters()), accept)
    users, orders = frozenset({"orders", "users"}), frozenset({"shop", "orders"})
    assert found["traces_service_graph_request_total", users] == 3
    assert found["traces_service_graph_request_failed_total", users] == 2
    assert found[f"{SECONDS}_count", users] == 2
    assert found[f"{SECONDS}_sum", users] == pytest.approx(0.202)
    assert found[f"{SECONDS}_bucket", users | {"0.0025"}] == 1
    assert found[f"{SECONDS}_bucket", users | {"+Inf"}] == 2
    assert found["traces_service_graph_request_total", orders] == 1
    assert found["traces_service_graph_request_failed_total", orders] == 0
    assert found[f"{SECONDS}_bucket", orders | {"30.0"}] == 0
    assert not any("stock" in labels for name, labels in found if name.startswith("traces_"))


def test_the_gateways_own_service_is_no_part_of_the_graph() -> None:
    calls = CallMetrics()
    for service in ("mesh", "users"):
        calls.series("mesh-cli", service, "tap").ended(0, 61.0)
    found = read(Exposition(calls, GatewayCounters(), own_service="mesh"), TEXT)
    edges = {labels for name, labels in found if name == "traces_service_graph_request_total"}
    assert edges == {frozenset({"mesh-cli", "users"})}
    assert found["mesh_calls_total", frozenset({"mesh-cli", "mesh", "tap", "ok"})] == 1


@FORMATS
def test_edges_are_counters_from_one_scrape_to_the_next(accept: str) -> None:
    calls = CallMetrics()
    exposition = Exposition(calls, GatewayCounters())
    edge = "traces_service_graph_request_total", frozenset({"orders", "users"})
    for count in (1, 2, 3):
        calls.series("orders", "users", "get").ended(0, 0.002)
        assert read(exposition, accept)[edge] == count


def test_adding_up_many_series_pauses() -> None:
    calls = CallMetrics()
    for number in range(STEP * 3):
        calls.series("orders", f"service-{number % 7}", f"method-{number}").ended(0, 0.001)
    graph = ServiceGraph(calls)
    assert list(graph.collect()) == [""] * 3
    assert sum(edge.requests for edge in graph.edges()) == STEP * 3
    assert len(graph.edges()) == 7
    assert len(graph.edges()[0].buckets) == len(DURATION_BOUNDS) + 1


@FORMATS
def test_depths_become_a_histogram(accept: str) -> None:
    counters = GatewayCounters(max_depth=20)
    for depth in (1, 1, 1, 2, 7, 16, 17, 20):
        counters.depths[depth] += 1
    found = read(Exposition(CallMetrics(), counters), accept)
    none: frozenset[str] = frozenset()
    assert found["mesh_call_depth_count", none] == 8
    assert found["mesh_call_depth_sum", none] == 65
    wanted = {1: 3, 2: 4, 6: 4, 8: 5, 12: 5, 16: 6}
    for bound, count in wanted.items():
        assert found["mesh_call_depth_bucket", frozenset({f"{bound:.1f}"})] == count
    assert found["mesh_call_depth_bucket", frozenset({"+Inf"})] == 8


@pytest.mark.parametrize("max_depth", [1, 3, 16, 100])
def test_the_depth_histogram_fits_any_limit(max_depth: int) -> None:
    counters = GatewayCounters(max_depth)
    counters.depths[max_depth] += 1
    found = read(Exposition(CallMetrics(), counters), TEXT)
    for bound in DEPTH_BOUNDS:
        labels = frozenset({f"{bound:.1f}"})
        assert found["mesh_call_depth_bucket", labels] == (max_depth <= bound)
