"""Turns the counts into the text that Prometheus scrapes, without stopping the event loop.

prometheus_client's ``generate_latest`` over 500 histograms and 6,000 counters stops a loop for
129 ms, and starves it from a thread. So the call series are rendered here, from line prefixes
prepared once per series, and as an iterator of slices between which an async caller lets others
run. prometheus_client keeps what it is good at: the registry of slow metrics, the choice of the
format, and, in the tests, the parsers that judge the output.

Two formats, which differ in the headers of counters, in exemplars and in the end mark only:
Prometheus text 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/) and OpenMetrics
1.0 (https://prometheus.io/docs/specs/om/open_metrics_spec/), which alone has exemplars. ``le`` is
written ``1.0`` in both, as OpenMetrics demands, so that a series keeps its identity when the format
changes. There are no ``_created`` series.
"""

from __future__ import annotations

import logging
import re
from math import isfinite, isnan
from typing import TYPE_CHECKING, TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from mesh_telemetry import names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from mesh_telemetry.exemplars import Exemplar

TEXT = "text/plain; version=0.0.4; charset=utf-8"
"""Content type of the Prometheus text format."""
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
"""Content type of OpenMetrics."""

SLICE_LINES = 1000
"""Lines per slice: at most about 1 ms of work, the longest that the loop should be held."""

Row: TypeAlias = "tuple[str, Mapping[str, str], float]"
"""A metric's name from :mod:`mesh_telemetry.names`, its labels, its value."""
RowSource: TypeAlias = "Callable[[], Iterable[Row]]"
"""Called at each scrape, in the loop: it must not block. One metric's rows come from one source."""

_log = logging.getLogger(__name__)
_AWKWARD = re.compile(r'[\\\n"\ud800-\udfff]')
LE = [*(repr(bound) for bound in names.DURATION_BOUNDS), "+Inf"]


def negotiate(accept: str | None) -> str:
    """Choose the content type, :data:`TEXT` or :data:`OPENMETRICS`, for an ``Accept`` header.

    The decision is prometheus_client's, so that a gateway answers a scraper like any other Python
    process. Whoever asks for a later version of a format gets the one implemented here, as the
    content type says.
    """
    try:
        _, chosen = choose_encoder(accept or "")
    except TypeError:  # prometheus_client on a version such as "1.x", which it cannot compare
        return TEXT
    return OPENMETRICS if chosen.startswith("application/openmetrics-text") else TEXT


def escape_label(value: str) -> str:
    r"""Escape a label value: ``\``, ``"`` and line feed; a lone surrogate becomes ``?``."""
    if _AWKWARD.search(value) is None:
        return value
    value = value.encode("utf-8", "replace").decode("utf-8")
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


class Renderer:
    """What all expositions share: a registry, its slow metrics, and the choice of the format.

    Args:
        own: The families that the subclass renders by itself.
        sources: Callbacks for slow metrics; see :meth:`add`.

    Attributes:
        registry: A registry of its own, never prometheus_client's global one. Collectors that are
            registered here are rendered too, each family in one go.
    """

    def __init__(self, own: Iterable[names.Family], sources: Iterable[RowSource]) -> None:
        self.registry = CollectorRegistry()
        self._own = tuple(own)
        self._complained_of: set[str] = set()
        for source in sources:
            self.add(source)

    def add(self, source: RowSource) -> None:
        """Add slow metrics that are read at every scrape.

        A source that raises is left out of the scrape and logged, once until it works again.
        Sources are called one by one with pauses in between, so several small ones stop the loop
        for less long than a large one.
        """
        self.registry.register(_RowCollector(source))

    def render(self, accept: str | None = None) -> tuple[str, Iterator[str]]:
        """Render everything.

        Args:
            accept: The ``Accept`` header of the request.

        Returns:
            The content type, and the text in slices of about 1 ms of work each. Counting goes on
            between two slices; each method's histogram is consistent in itself.
        """
        content_type = negotiate(accept)
        return content_type, self._slices(openmetrics=content_type == OPENMETRICS)

    def _slices(self, *, openmetrics: bool) -> Iterator[str]:
        yield from self._own_slices(openmetrics=openmetrics)
        yield from self._registry_slices(openmetrics=openmetrics)
        if openmetrics:
            yield "# EOF\n"

    def _own_slices(self, *, openmetrics: bool) -> Iterator[str]:
        """The metrics that are rendered here, without prometheus_client."""
        raise NotImplementedError

    def _registry_slices(self, *, openmetrics: bool) -> Iterator[str]:
        encode, _ = choose_encoder(OPENMETRICS if openmetrics else "")
        rendered = {family.base for family in self._own}
        for metric in self.registry.collect():
            if metric.name in rendered:
                # Scrapers reject the whole text if a family comes twice.
                if metric.name not in self._complained_of:
                    self._complained_of.add(metric.name)
                    _log.error("metric %s comes from two sources; the first one wins", metric.name)
                continue
            rendered.add(metric.name)
            yield ""  # a pause: whoever collected the metric has taken time already
            try:
                if isinstance(metric, _RowFamily):
                    header = header_of(metric.family, openmetrics=openmetrics)
                    yield from sliced(header, map(_sample_line, metric.samples))
                else:
                    yield encode(_One(metric)).decode().removesuffix("# EOF\n")
            except Exception:  # noqa: BLE001 - whatever is wrong with one metric, others are shown
                if metric.name not in self._complained_of:
                    self._complained_of.add(metric.name)
                    _log.exception("metric %s cannot be rendered", metric.name)


class HistogramLines:
    """The lines of one histogram: one %-format for all is a fifth faster than a format per line."""

    __slots__ = ("_format",)

    def __init__(self, family: names.Family, values: Iterable[str], bounds: Iterable[str]) -> None:
        labels = labels_of(family.labels, values).replace("%", "%%")
        name, before, alone = family.name, "", ""
        if labels:
            before, alone = f"{labels},", f"{{{labels}}}"
        buckets = [f'{name}_bucket{{{before}le="{bound}"}} %s\n' for bound in bounds]
        self._format = "".join((*buckets, f"{name}_sum{alone} %s\n", f"{name}_count{alone} %s\n"))

    def render(
        self,
        cumulated: Sequence[int],
        total: float,
        exemplars: Mapping[int, Exemplar] | None = None,
    ) -> str:
        """The lines of this histogram.

        Args:
            cumulated: Its counts, cumulated.
            total: The sum of what was observed.
            exemplars: By bucket, for OpenMetrics only: the other format has none.
        """
        if not exemplars:
            return self._format % (*cumulated, total, cumulated[-1])
        counts: list[int | str] = [*cumulated]
        for bucket, (trace_id, seconds, ended) in exemplars.items():
            counts[bucket] = (
                f'{cumulated[bucket]} # {{{names.TRACE_ID}="{trace_id.hex()}"}} '
                f"{seconds!r} {ended:.3f}"
            )
        return self._format % (*counts, total, cumulated[-1])


class _RowFamily(Metric):
    """A family whose samples are known to be plain: a name, labels and a value, no exemplars."""

    def __init__(self, family: names.Family) -> None:
        super().__init__(family.base, family.help, family.type)
        self.family = family


class _RowCollector(Collector):
    """Hands the rows of one source to a registry."""

    def __init__(self, source: RowSource) -> None:
        self._source = source
        self._failed = False

    def collect(self) -> Iterable[Metric]:
        try:
            families = _group(self._source())
        except Exception:  # noqa: BLE001 - whatever is wrong with one metric, the others are shown
            if not self._failed:
                _log.exception("metrics source %r failed; its metrics are missing", self._source)
            self._failed = True
            return []
        self._failed = False
        return families


def _group(rows: Iterable[Row]) -> list[_RowFamily]:
    families: dict[str, _RowFamily] = {}
    for name, labels, value in rows:
        found = families.get(name)
        if found is None:
            family = names.FAMILIES.get(name)
            if family is None or family.type == "histogram":
                raise ValueError(f"{name!r} is no counter or gauge of mesh_telemetry.names")
            if labels.keys() != set(family.labels):
                raise ValueError(f"{name} has the labels {family.labels}, not {tuple(labels)}")
            found = families[name] = _RowFamily(family)
        found.samples.append(Sample(name, dict(labels), value))
    return list(families.values())


class _One(Collector):
    """A registry of one family, so that prometheus_client encodes families one by one."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return [self._metric]


def header_of(family: names.Family, *, openmetrics: bool) -> str:
    """The two lines before a family's samples."""
    name = family.base if openmetrics else family.name
    return f"# HELP {name} {family.help}\n# TYPE {name} {family.type}\n"


def labels_of(labels: Iterable[str], values: Iterable[str]) -> str:
    """What stands between a sample's braces."""
    pairs = zip(labels, values, strict=True)
    return ",".join([f'{label}="{escape_label(value)}"' for label, value in pairs])


def _sample_line(sample: Sample) -> str:
    if not sample.labels:
        return f"{sample.name} {_number(sample.value)}\n"
    labels = labels_of(sample.labels, sample.labels.values())
    return f"{sample.name}{{{labels}}} {_number(sample.value)}\n"


def _number(value: float) -> str:
    """A number as Go's ParseFloat reads it, which is what both formats ask for."""
    if isfinite(value):
        return repr(float(value))
    return "NaN" if isnan(value) else "+Inf" if value > 0 else "-Inf"


def sliced(header: str, lines: Iterable[str]) -> Iterator[str]:
    """Join lines under a header, a slice at a time."""
    pending = [header]
    for line in lines:
        pending.append(line)
        if len(pending) >= SLICE_LINES:
            yield "".join(pending)
            pending.clear()
    yield "".join(pending)
