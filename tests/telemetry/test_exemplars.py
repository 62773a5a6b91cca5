"""Exemplars as scrapers read them: each leads to a trace that is in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client.openmetrics import parser

from mesh_telemetry import (
    DURATION_BOUNDS,
    OPENMETRICS,
    TEXT,
    CallMetrics,
    Exemplar,
    Exemplars,
    Exposition,
    GatewayCounters,
    TraceStore,
)
from mesh_telemetry.spans import SERVER, Span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.metrics_core import Metric
    from prometheus_client.samples import Sample

PARSE: Callable[[str], Iterable[Metric]] = parser.text_string_to_metric_families
BOUNDS = [*DURATION_BOUNDS, float("inf")]
LES = [*map(str, DURATION_BOUNDS), "+Inf"]


def trace_id(number: int) -> bytes:
    return bytes([number]) * 16


class Shop:
    """A store and the methods whose calls are in its traces."""

    def __init__(self) -> None:
        self.store = TraceStore(40)
        self.calls = CallMetrics()
        self.exemplars = Exemplars(self.store)
        self.exposition = Exposition(self.calls, GatewayCounters())

    def keep(self, number: int, spans: int = 0) -> None:
        """Have a trace in the store, with so many spans more."""
        held = self.store.open(trace_id(number), "error", 0)
        made = [
            Span(held.trace_id, (len(held) + more + 1).to_bytes(8), b"", "do", SERVER, 1, 2)
            for more in range(spans)
        ]
        self.store.add(held.trace_id, "p", {}, made)

    def end(self, method: str, number: int, seconds: float, ended: float) -> None:
        """A call is counted, and is an exemplar if its trace is in the store."""
        series = self.calls.method("users", method)
        series.observe(seconds)
        self.exemplars.attach(series, Exemplar(trace_id(number), seconds, ended))

    def samples(self) -> list[Sample]:
        """All that prometheus_client reads."""
        text = "".join(self.exposition.render(OPENMETRICS)[1])
        return [sample for family in PARSE(text) for sample in family.samples]

    def shown(self) -> dict[tuple[str, str], tuple[bytes, float, float]]:
        """Trace id, value and time of each exemplar, by method and ``le``."""
        found = {}
        for sample in self.samples():
            if sample.exemplar is not None:
                assert sample.name == "mesh_call_duration_seconds_bucket"
                assert list(sample.exemplar.labels) == ["trace_id"]
                assert sample.exemplar.timestamp is not None
                found[sample.labels["rpc_method"], sample.labels["le"]] = (
                    bytes.fromhex(sample.exemplar.labels["trace_id"]),
                    sample.exemplar.value,
                    float(sample.exemplar.timestamp),
                )
        return found


def test_a_bucket_shows_the_call_that_ended_last() -> None:
    shop = Shop()
    for number in (1, 2, 3):
        shop.keep(number)
    shop.end("get", 1, 0.002, 100.0)
    shop.end("get", 2, 0.0025, 101.5)
    shop.end("get", 3, 0.0024, 99.0)  # kept later, but older
    shop.end("get", 3, 31.0, 102.125)
    shop.end("list", 1, 0.0, 103.0)
    assert shop.shown() == {
        ("get", "0.0025"): (trace_id(2), 0.0025, 101.5),
        ("get", "+Inf"): (trace_id(3), 31.0, 102.125),
        ("list", "0.0001"): (trace_id(1), 0.0, 103.0),
    }


def test_the_figures_are_the_same_with_and_without_exemplars() -> None:
    plain, shop = Shop(), Shop()
    shop.keep(1)
    for seconds in (0.00005, 0.3, 0.3, 40.0):
        for one in (plain, shop):
            one.end("get", 1, seconds, 100.0)
    assert (len(plain.shown()), len(shop.shown())) == (0, 3)
    assert [sample[:3] for sample in shop.samples()] == [sample[:3] for sample in plain.samples()]


def test_the_older_format_has_none() -> None:
    shop = Shop()
    shop.keep(1)
    shop.end("get", 1, 0.3, 100.0)
    older = "".join(shop.exposition.render(TEXT)[1])
    assert not [line for line in older.splitlines() if " # " in line and line[0] != "#"]
    assert trace_id(1).hex() not in older


def test_a_trace_that_comes_back_is_shown_again() -> None:
    shop = Shop()
    shop.keep(1)
    shop.end("get", 1, 0.3, 100.0)
    for number in range(2, 20):
        shop.keep(number, spans=4)
    assert shop.shown() == {}
    shop.keep(1)
    shop.end("get", 1, 0.3, 90.0)
    assert shop.shown() == {("get", "0.5"): (trace_id(1), 0.3, 90.0)}


def test_nothing_is_held_of_what_is_no_longer_shown() -> None:
    shop = Shop()
    for number in range(1, 5):
        shop.keep(number)
        shop.end("get", number, 0.3, 100.0 + number)
    assert list(shop.exemplars._places) == [trace_id(4)]
    for number in range(5, 20):
        shop.keep(number)
    assert shop.exemplars._places == {}


numbers = st.integers(1, 14)
methods = st.sampled_from(["get", "list"])
seconds = st.one_of(st.sampled_from([0.0, *DURATION_BOUNDS, 31.0]), st.floats(0.0, 100.0))
keeps = st.tuples(st.just("keep"), numbers, st.integers(0, 6))
ends = st.tuples(methods, numbers, seconds, st.integers(0, 50))


@given(st.lists(st.one_of(keeps, ends), max_size=60))
@example([("keep", 1, 0), ("get", 1, 0.3, 1), *[("keep", number, 4) for number in range(2, 14)]])
def test_no_exemplar_names_a_trace_that_is_not_in_the_store(
    steps: list[tuple[str, int, int] | tuple[str, int, float, int]],
) -> None:
    """After each step of any sequence: the newest call of each bucket, while its trace is there."""
    shop = Shop()
    expected: dict[tuple[str, str], tuple[bytes, float, float]] = {}
    for step in steps:
        if len(step) == 3:
            shop.keep(step[1], step[2])
        else:
            method, number, took, ended = step
            shop.end(method, number, took, ended)
            le = next(le for le, bound in zip(LES, BOUNDS, strict=True) if took <= bound)
            shown = expected.get((method, le))
            if trace_id(number) in shop.store.traces and (shown is None or shown[2] <= ended):
                expected[method, le] = trace_id(number), took, ended
        expected = {at: one for at, one in expected.items() if one[0] in shop.store.traces}
        shown_now = shop.shown()
        assert all(shop.store.get(named) is not None for named, *_ in shown_now.values())
        assert shown_now == {at: pytest.approx(one) for at, one in expected.items()}
