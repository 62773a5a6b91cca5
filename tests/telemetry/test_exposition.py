"""What scrapers see, judged by prometheus_client's own parsers."""

from __future__ import annotations

import logging
from itertools import accumulate
from math import inf, isnan, nan
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Gauge
from prometheus_client import Histogram as ClientHistogram
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

from mesh_telemetry import (
    CODE_NAMES,
    DEPTH_BOUNDS,
    DURATION_BOUNDS,
    FAMILIES,
    OPENMETRICS,
    TEXT,
    CallMetrics,
    Exposition,
    GatewayCounters,
    Row,
    escape_label,
    names,
    negotiate,
)
from mesh_telemetry.rendering import SLICE_LINES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

PARSERS: dict[str, Callable[[str], Iterable[Metric]]] = {
    TEXT: text_string_to_metric_families,
    OPENMETRICS: openmetrics_parser.text_string_to_metric_families,
}
PROMETHEUS_2_42 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;"
    "version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
FORMATS = pytest.mark.parametrize("accept", [TEXT, OPENMETRICS])

label_values = st.one_of(
    st.sampled_from(
        ["", "\\", '"', "\n", '\\"', "\\n", "a,b", "{}", "%s", "%", "%%d", "# EOF", "é"]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)


def families(exposition: Exposition, accept: str) -> list[Metric]:
    content_type, slices = exposition.render(accept)
    assert content_type == accept
    return list(PARSERS[accept]("".join(slices)))


def samples(exposition: Exposition, accept: str) -> Samples:
    found: Samples = {}
    for family in families(exposition, accept):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"{key} is rendered twice"
            found[key] = sample.value
    return found


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, TEXT),
        ("", TEXT),
        ("*/*", TEXT),
        ("text/plain", TEXT),
        ("text/plain; version=0.0.4", TEXT),
        ("text/plain; version=1.0.0; escaping=allow-utf-8", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text; version=1.0.0", OPENMETRICS),
        ("application/openmetrics-text; version=0.0.1, text/plain;q=0.5", TEXT),
        ("application/openmetrics-text; version=1.x", TEXT),
        (PROMETHEUS_2_42, OPENMETRICS),
    ],
)
def test_the_accept_header_chooses_the_format(accept: str | None, content_type: str) -> None:
    assert negotiate(accept) == content_type
    assert Exposition(CallMetrics(), GatewayCounters()).render(accept)[0] == content_type


@FORMATS
def test_an_idle_gateway_is_rendered(accept: str) -> None:
    found = samples(Exposition(CallMetrics(), GatewayCounters()), accept)
    assert found[key("mesh_protocol_errors_total")] == 0
    assert found[key("mesh_connections_opened_total")] == 0


@FORMATS
@given(
    counted=st.dictionaries(
        st.tuples(label_values, label_values, label_values),
        st.tuples(
            st.dictionaries(st.integers(0, len(CODE_NAMES) - 1), st.integers(1, 10**12)),
            st.lists(st.floats(0.0, 1e6), max_size=5),
            st.integers(0, 1000),
        ),
        max_size=6,
    )
)
def test_rendered_values_are_the_counted_ones(
    accept: str,
    counted: dict[tuple[str, str, str], tuple[dict[int, int], list[float], int]],
) -> None:
    """Whatever the names, each count comes back from the parser under its true labels."""
    metrics = CallMetrics()
    expected: Samples = {}
    for (caller, service, method), (codes, durations, in_flight) in counted.items():
        series = metrics.series(caller, service, method)
        for number, count in codes.items():
            series.codes[number] += count
            labels = {"caller": caller, "rpc_service": service, "rpc_method": method}
            expected[key("mesh_calls_total", **labels, code=CODE_NAMES[number])] = count
        for seconds in durations:
            series.method.observe(seconds)
        series.method.in_flight += in_flight
        series.method.abandoned += 1
        series.method.late += 2
    for method_series in metrics.methods():
        labels = {"rpc_service": method_series.service, "rpc_method": method_series.method}
        for bound, count in zip(
            [*map(str, DURATION_BOUNDS), "+Inf"], accumulate(method_series.buckets), strict=True
        ):
            expected[key("mesh_call_duration_seconds_bucket", **labels, le=bound)] = count
        total = sum(method_series.buckets)
        expected[key("mesh_call_duration_seconds_count", **labels)] = total
        expected[key("mesh_call_duration_seconds_sum", **labels)] = method_series.duration_sum
        expected[key("mesh_calls_in_flight", **labels)] = method_series.in_flight
        expected[key("mesh_calls_abandoned_total", **labels)] = method_series.abandoned
        expected[key("mesh_calls_late_total", **labels)] = method_series.late
    for name in ("opened", "closed", "refused"):
        expected[key(f"mesh_connections_{name}_total")] = 0
    expected[key("mesh_protocol_errors_total")] = 0

    found = samples(Exposition(metrics, GatewayCounters()), accept)
    derived = "traces_", "mesh_call_depth"  # their own tests judge these
    assert {key: found[key] for key in found if not key[0].startswith(derived)} == expected


@FORMATS
def test_counts_go_on_between_scrapes(accept: str) -> None:
    """Prepared prefixes are no cached values, and new series appear."""
    metrics = CallMetrics()
    exposition = Exposition(metrics, GatewayCounters())
    labels = {"caller": "orders", "rpc_service": "users", "rpc_method": "get"}
    for count in (1, 2, 3):
        metrics.series("orders", "users", "get").codes[5] += 1
        found = samples(exposition, accept)
        assert found[key("mesh_calls_total", **labels, code="not_found")] == count
    metrics.series("orders", "users", "list").codes[0] += 1
    found = samples(exposition, accept)
    assert found[key("mesh_calls_total", **{**labels, "rpc_method": "list"}, code="ok")] == 1


@FORMATS
def test_gateway_counters_are_rendered(accept: str) -> None:
    counters = GatewayCounters()
    counters.reject("orders", "users", "OVERLOADED")
    counters.connections_opened = 5
    counters.connections_closed = 2
    counters.connections_refused = 1
    counters.protocol_errors = 3
    counters.fail_tls_handshake("timeout")
    counters.fail_tls_handshake("timeout")
    found = samples(Exposition(CallMetrics(), counters), accept)
    rejected = {"caller": "orders", "rpc_service": "users", "reason": "OVERLOADED"}
    assert found[key("mesh_calls_rejected_total", **rejected)] == 1
    assert found[key("mesh_connections_opened_total")] == 5
    assert found[key("mesh_connections_closed_total")] == 2
    assert found[key("mesh_connections_refused_total")] == 1
    assert found[key("mesh_protocol_errors_total")] == 3
    assert found[key("mesh_tls_handshakes_failed_total", reason="timeout")] == 2


@FORMATS
def test_every_family_is_declared_as_in_the_names(accept: str) -> None:
    metrics = CallMetrics()
    metrics.series("orders", "users", "get").codes[0] += 1
    counters = GatewayCounters()
    counters.reject("orders", "users", "OVERLOADED")
    declared = {family.base: family for family in FAMILIES.values()}
    for family in families(Exposition(metrics, counters), accept):
        name = family.name.removesuffix("_total")
        assert family.type == declared[name].type
        assert family.documentation == declared[name].help
        for sample in family.samples:
            assert tuple(sample.labels)[: len(declared[name].labels)] == declared[name].labels


def test_the_formats_name_counters_differently() -> None:
    exposition = Exposition(CallMetrics(), GatewayCounters())
    text = "".join(exposition.render(TEXT)[1])
    openmetrics = "".join(exposition.render(OPENMETRICS)[1])
    assert "# TYPE mesh_calls_total counter\n" in text
    assert "# EOF" not in text
    assert "# TYPE mesh_calls counter\n" in openmetrics
    assert openmetrics.endswith("\n# EOF\n")
    assert openmetrics.count("# EOF") == 1
    assert "_created" not in text + openmetrics


@FORMATS
@given(
    rows=st.dictionaries(
        st.tuples(label_values, label_values), st.floats(allow_nan=False), max_size=5
    )
)
def test_rows_of_sources_are_rendered(accept: str, rows: dict[tuple[str, str], float]) -> None:
    def heartbeats() -> Iterator[Row]:
        for (service, peer), value in rows.items():
            yield names.PEER_LAST_HEARTBEAT.name, {"rpc_service": service, "peer": peer}, value

    exposition = Exposition(CallMetrics(), GatewayCounters(), [heartbeats])
    found = samples(exposition, accept)
    for (service, peer), value in rows.items():
        labels = {"rpc_service": service, "peer": peer}
        assert found[key(names.PEER_LAST_HEARTBEAT.name, **labels)] == value


@FORMATS
def test_rows_of_several_metrics_are_grouped(accept: str) -> None:
    """OpenMetrics forbids that two families interleave; a source need not care."""

    def source() -> list[Row]:
        return [
            ("mesh_frames_total", {"kind": "call", "direction": "in"}, 3),
            ("mesh_connections", {}, 2),
            ("mesh_frames_total", {"kind": "call", "direction": "out"}, 4),
            ("mesh_gateway_loop_lag_seconds", {}, nan),
            ("mesh_outbox_bytes", {}, inf),
            ("mesh_build_info", {"version": "0.1.0"}, 1),
        ]

    found = samples(Exposition(CallMetrics(), GatewayCounters(), [source]), accept)
    assert found[key("mesh_frames_total", kind="call", direction="in")] == 3
    assert found[key("mesh_frames_total", kind="call", direction="out")] == 4
    assert found[key("mesh_connections")] == 2
    assert found[key("mesh_outbox_bytes")] == inf
    assert isnan(found[key("mesh_gateway_loop_lag_seconds")])
    assert found[key("mesh_build_info", version="0.1.0")] == 1


def failing() -> list[Row]:
    raise RuntimeError("the registry is gone")


def unnamed() -> list[Row]:
    return [("mesh_unheard_of", {}, 1.0)]


def wrongly_labelled() -> list[Row]:
    return [("mesh_connections", {"peer": "x"}, 1.0)]


def histogram() -> list[Row]:
    return [("mesh_call_depth", {}, 1.0)]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (failing, "the registry is gone"),
        (unnamed, "'mesh_unheard_of' is no counter or gauge"),
        (wrongly_labelled, "mesh_connections has the labels"),
        (histogram, "'mesh_call_depth' is no counter or gauge"),
    ],
)
def test_a_broken_source_is_logged_once_and_hides_nothing_else(
    source: Callable[[], list[Row]], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    def healthy() -> list[Row]:
        return [("mesh_outbox_bytes", {}, 7.0)]

    exposition = Exposition(CallMetrics(), GatewayCounters(), [source, healthy])
    for _ in range(3):
        assert samples(exposition, OPENMETRICS)[key("mesh_outbox_bytes")] == 7.0
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert why in str(record.exc_info[1])


@FORMATS
def test_a_value_that_is_no_number_hides_nothing_else(
    accept: str, caplog: pytest.LogCaptureFixture
) -> None:
    def source() -> list[Row]:
        broken: Any = None
        return [("mesh_connections", {}, broken), ("mesh_outbox_bytes", {}, 7.0)]

    exposition = Exposition(CallMetrics(), GatewayCounters(), [source])
    for _ in range(2):
        found = samples(exposition, accept)
        assert found[key("mesh_outbox_bytes")] == 7.0
        assert key("mesh_connections") not in found
    assert [record.getMessage() for record in caplog.records] == [
        "metric mesh_connections cannot be rendered"
    ]


def test_a_source_that_breaks_again_is_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    broken = True

    def source() -> list[Row]:
        if broken:
            raise RuntimeError("broken")
        return [("mesh_connections", {}, 1.0)]

    exposition = Exposition(CallMetrics(), GatewayCounters(), [source])
    samples(exposition, TEXT)
    broken = False
    assert samples(exposition, TEXT)[key("mesh_connections")] == 1.0
    broken = True
    samples(exposition, TEXT)
    assert len(caplog.records) == 2


@FORMATS
def test_a_family_from_two_sources_appears_once(
    accept: str, caplog: pytest.LogCaptureFixture
) -> None:
    def first() -> list[Row]:
        return [("mesh_connections", {}, 1.0)]

    def second() -> list[Row]:
        return [("mesh_connections", {}, 2.0), ("mesh_protocol_errors_total", {}, 9.0)]

    exposition = Exposition(CallMetrics(), GatewayCounters(), [first, second])
    for _ in range(2):
        found = samples(exposition, accept)
        assert found[key("mesh_connections")] == 1.0
        assert found[key("mesh_protocol_errors_total")] == 0.0
    assert [record.getMessage() for record in caplog.records] == [
        "metric mesh_connections comes from two sources; the first one wins",
        "metric mesh_protocol_errors comes from two sources; the first one wins",
    ]


@FORMATS
def test_collectors_of_prometheus_client_are_rendered_too(accept: str) -> None:
    exposition = Exposition(CallMetrics(), GatewayCounters())
    gauge = Gauge("app_queue_length", "Orders waiting.", ["shop"], registry=exposition.registry)
    gauge.labels("north").set(4)
    other = ClientHistogram("app_seconds", "How long.", registry=exposition.registry)
    other.observe(0.3, {"trace_id": "abc"})
    found = samples(exposition, accept)
    assert found[key("app_queue_length", shop="north")] == 4
    assert found[key("app_seconds_count")] == 1


@FORMATS
def test_slices_are_bounded_and_join_to_the_whole(accept: str) -> None:
    metrics = CallMetrics()
    for method in range(300):
        for caller in range(4):
            series = metrics.series(f"caller-{caller}", "users", f"method-{method}")
            series.codes[:] = [1] * len(CODE_NAMES)
    counters = GatewayCounters()
    for number in range(2500):
        counters.reject("caller-1", "users", f"REASON_{number}")

    def peers() -> Iterator[Row]:
        for number in range(2500):
            yield "mesh_peer_in_flight", {"rpc_service": "users", "peer": str(number)}, number

    exposition = Exposition(metrics, counters, [peers])
    slices = list(exposition.render(accept)[1])
    longest = max(text.count("\n") for text in slices)
    # A slice ends with the series that fills it, and may begin with a header.
    assert longest <= SLICE_LINES + len(CODE_NAMES) + 2
    expected = 300 * 4 * len(CODE_NAMES) + 300 * (len(DURATION_BOUNDS) + 3 + 3) + 2500 + 2500 + 4
    expected += len(DEPTH_BOUNDS) + 3  # of one histogram
    expected += 4 * (2 + len(DURATION_BOUNDS) + 3)  # of four edges
    assert len(samples(exposition, accept)) == expected


def test_counting_may_go_on_between_two_slices() -> None:
    metrics = CallMetrics()
    counters = GatewayCounters()
    for number in range(1500):
        metrics.series("orders", "users", f"method-{number}").codes[0] += 1
        counters.reject("orders", "users", f"REASON_{number}")
    exposition = Exposition(metrics, counters)
    parts: list[str] = []
    for number, text in enumerate(exposition.render(OPENMETRICS)[1]):
        parts.append(text)
        metrics.series("orders", "users", f"late-{number}").method.observe(0.1)
        counters.reject("orders", "users", f"LATE_{number}")
    assert list(PARSERS[OPENMETRICS]("".join(parts)))


@pytest.mark.parametrize(
    ("value", "escaped"),
    [("plain", "plain"), ('a"b', 'a\\"b'), ("a\\b", "a\\\\b"), ("a\nb", "a\\nb"), ("\ud800", "?")],
)
def test_label_values_are_escaped(value: str, escaped: str) -> None:
    assert escape_label(value) == escaped


def test_rows_are_visible_to_prometheus_client() -> None:
    """The private registry is a real one: its own tools see the slow metrics."""
    labels: Mapping[str, str] = {"version": "0.1.0"}
    exposition = Exposition(
        CallMetrics(), GatewayCounters(), [lambda: [("mesh_build_info", labels, 1)]]
    )
    assert exposition.registry.get_sample_value("mesh_build_info", dict(labels)) == 1
