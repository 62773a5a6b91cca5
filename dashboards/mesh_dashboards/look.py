"""The look of the house: how a panel, a table and a whole dashboard are made.

Colours are Grafana's own by name, which the dark and the light theme each show in their way. Widths
are for a laptop of 1366 x 768: a dashboard has 24 columns, and its first screen answers whether all
is well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from grafana_foundation_sdk.cog.builder import Builder

    Panel: TypeAlias = Builder[models.Panel]

DATASOURCE = common_models.DataSourceRef(type_val="prometheus", uid="${datasource}")

STAT_HEIGHT, CHART_HEIGHT = 4, 7

GOOD_SUCCESS = ((None, "red"), (0.99, "orange"), (0.999, "green"))
BAD_ABOVE_ZERO = ((None, "green"), (1e-9, "orange"))
NEUTRAL = ((None, "blue"),)

CODES = {
    "ok": "green",
    "cancelled": "super-light-blue",
    "invalid_argument": "light-yellow",
    "not_found": "light-blue",
    "already_exists": "dark-yellow",
    "permission_denied": "light-purple",
    "unauthenticated": "super-light-purple",
    "failed_precondition": "blue",
    "aborted": "semi-dark-blue",
    "out_of_range": "dark-blue",
    "resource_exhausted": "purple",
    "deadline_exceeded": "orange",
    "unavailable": "semi-dark-red",
    "internal": "red",
    "unknown": "light-red",
    "unimplemented": "semi-dark-orange",
    "data_loss": "dark-red",
}
"""Callers' own faults are cool, failures of a service or the mesh are warm."""
STATES = {"healthy": "green", "late": "yellow", "unresponsive": "red", "draining": "purple"}
LATENCIES = {"p50": "green", "p95": "orange", "p99": "red"}

Steps = tuple[tuple[float | None, str], ...]


class Section(NamedTuple):
    """A row with its panels; it may start closed."""

    title: str
    panels: Sequence[Panel]


class Column(NamedTuple):
    """A column of a table: one query, and how its figures are shown."""

    title: str
    query: str
    unit: str
    decimals: int | None = None
    steps: Steps = ()
    """Thresholds that colour the figure."""


def target(expression: str, legend: str = "__auto", *, ref: str = "A") -> prometheus.Dataquery:
    """A query over the time that the dashboard shows."""
    return (
        prometheus.Dataquery()
        .datasource(DATASOURCE)
        .expr(expression)
        .legend_format(legend)
        .range()
        .ref_id(ref)
    )


def instant(expression: str, *, ref: str) -> prometheus.Dataquery:
    """A query of the end of that time, a row for each series."""
    query = prometheus.Dataquery().datasource(DATASOURCE).expr(expression)
    return query.instant().format(PromQueryFormat.TABLE).legend_format("__auto").ref_id(ref)


def thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    """Colours from values on; the first one has no value."""
    made = [models.Threshold(value, colour) for value, colour in steps]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(made)


def coloured(steps: Steps) -> models.DynamicConfigValue:
    """The same for one field."""
    made = [{"value": value, "color": colour} for value, colour in steps]
    return models.DynamicConfigValue("thresholds", {"mode": "absolute", "steps": made})


def figure(
    title: str,
    description: str,
    query: str,
    unit: str,
    *,
    steps: Steps = NEUTRAL,
    decimals: int | None = None,
    empty: str = "0",
    span: int = 4,
    height: int = STAT_HEIGHT,
    legend: str = "__auto",
) -> stat.Panel:
    """One figure with its course behind it; ``empty`` is shown where it has no value at the end."""
    # Grafana shows the last value, however old. So there is one at the end: no number.
    ending = f"({query}) or on () vector(nan)"
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .span(span)
        .height(height)
        .unit(unit)
        .no_value(empty)
        .thresholds(thresholds(steps))
        .mappings([_no_number(empty)])
        .color_mode(common_models.BigValueColorMode.VALUE)
        .graph_mode(common_models.BigValueGraphMode.AREA)
        .reduce_options(common.ReduceDataOptions().calcs(["last"]))
        .with_target(target(ending, legend))
    )
    return panel if decimals is None else panel.decimals(decimals)


def _no_number(text: str) -> models.SpecialValueMap:
    result = models.ValueMappingResult(text=text)
    match = models.SpecialValueMatch.NULL_AND_NAN
    options = models.DashboardSpecialValueMapOptions(match=match, result=result)
    return models.SpecialValueMap(options=options)


def chart(
    title: str,
    description: str,
    queries: Mapping[str, str],
    unit: str,
    *,
    span: int = 8,
    height: int = CHART_HEIGHT,
    stacked: bool = False,
    exemplars: bool = False,
    highest: float | None = None,
    lowest: float | None = 0,
    steps: bool = False,
    colours: Mapping[str, str] = {},
    empty: str = "nothing yet",
) -> timeseries.Panel:
    """Lines over time; the queries by their legends.

    Args:
        title: What is shown.
        description: What it means, for who sees it the first time.
        queries: PromQL by legend.
        unit: Grafana's name of the unit.
        span: Columns of 24.
        height: In rows of Grafana's grid.
        stacked: Whether the lines add up to something.
        exemplars: Whether single calls are shown, which link to their traces.
        highest: Where the axis ends at least, None for where the data end.
        lowest: Where it begins at most.
        steps: Whether values hold until the next one, as states do.
        colours: Of legends that mean the same everywhere; others have theirs by their place.
        empty: What is shown without any series.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .span(span)
        .height(height)
        .unit(unit)
        .no_value(empty)
        .line_width(1)
        .fill_opacity(25 if stacked else 0)
        .show_points(common_models.VisibilityMode.NEVER)
        .line_interpolation(
            common_models.LineInterpolation.STEP_AFTER
            if steps
            else common_models.LineInterpolation.LINEAR
        )
        .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC))
        .legend(
            common.VizLegendOptions()
            .display_mode(common_models.LegendDisplayMode.LIST)
            .placement(common_models.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(common_models.TooltipDisplayMode.MULTI)
            .sort(common_models.SortOrder.DESCENDING)
        )
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
    if lowest is not None:
        panel.axis_soft_min(lowest)
    if highest is not None:
        panel.axis_soft_max(highest)
    for ref, (legend, query) in zip("ABCDEFGH", queries.items(), strict=False):
        asked = target(query, legend, ref=ref)
        panel.with_target(asked.exemplar(True) if exemplars else asked)
    for name, colour in colours.items():
        fixed = {"mode": "fixed", "fixedColor": colour}
        panel.override_by_name(name, [models.DynamicConfigValue("color", fixed)])
    return panel


def rows(
    title: str,
    description: str,
    labels: Mapping[str, str],
    columns: Sequence[Column],
    *,
    span: int = 24,
    height: int = 8,
    links: Iterable[Mapping[str, object]] = (),
    lowest_first: str = "",
    empty: str = "nothing yet",
) -> table.Panel:
    """A table of instant queries, joined where their labels are equal.

    Args:
        title: What is shown.
        description: What it means.
        labels: Columns by the labels that all queries have, in their order.
        columns: The figures; the first one sorts the table, the highest above, unless
            ``lowest_first`` says otherwise.
        span: Columns of 24.
        height: In rows of Grafana's grid.
        links: Where the names in a row lead to.
        lowest_first: The figure that sorts the table, the lowest above.
        empty: What is shown without any series.
    """
    refs = "ABCDEFGH"[: len(columns)]
    renamed = dict(labels)
    order = {name: number for number, name in enumerate(labels)}
    for number, (ref, column) in enumerate(zip(refs, columns, strict=True), len(labels)):
        # Grafana names the value of a query alone `Value`, of several by their letters.
        value = f"Value #{ref}" if len(columns) > 1 else "Value"
        renamed[value], order[value] = column.title, number
    panel = (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .span(span)
        .height(height)
        .unit("none")
        .no_value(empty)
        .cell_height(common_models.TableCellHeight.SM)
        .sort_by(
            [
                common.TableSortByFieldState()
                .display_name(lowest_first or columns[0].title)
                .desc(not lowest_first)
            ]
        )
        .with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            models.DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": {"Time": True},
                    "indexByName": order,
                    "renameByName": renamed,
                },
            )
        )
    )
    for ref, column in zip(refs, columns, strict=True):
        panel.with_target(instant(column.query, ref=ref))
        panel.override_by_name(column.title, _shown(column))
    linked = list(links)
    if linked:
        for name in labels.values():
            panel.override_by_name(name, [models.DynamicConfigValue("links", linked)])
    return panel


def _shown(column: Column) -> list[models.DynamicConfigValue]:
    shown = [
        models.DynamicConfigValue("unit", column.unit),
        models.DynamicConfigValue("custom.align", "right"),
    ]
    if column.decimals is not None:
        shown.append(models.DynamicConfigValue("decimals", column.decimals))
    if column.steps:
        shown += [
            coloured(column.steps),
            models.DynamicConfigValue("custom.cellOptions", {"type": "color-text"}),
        ]
    return shown
