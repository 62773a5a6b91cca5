"""What stands around the panels: variables, links, annotations, and the dashboard itself."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from grafana_foundation_sdk.builders import dashboard, prometheus
from grafana_foundation_sdk.models import dashboard as models

from mesh_dashboards.look import DATASOURCE, Section
from mesh_dashboards.queries import USERS_OWN, series, total
from mesh_dashboards.shipped import ADMIN, TRACES
from mesh_telemetry import names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from grafana_foundation_sdk.cog.builder import Builder

TAG = "mesh"
"""All dashboards have it, and link to all others that have."""
ALL = models.VariableOption(selected=True, text=["All"], value=["$__all"])

_EVERYWHERE = (
    "${__url_time_range}&${datasource:queryparam}&${job:queryparam}&${instance:queryparam}"
)


def sources(build_info: str = names.GATEWAY_LOOP_LAG.name) -> list[Builder[models.VariableModel]]:
    """The variables that every dashboard has: data source, job, instance, and two for links.

    Args:
        build_info: The metric whose jobs and instances there are to choose from; by default one
            that only gateways have.
    """
    return [
        dashboard.DatasourceVariable("datasource")
        .label("Data source")
        .description("The Prometheus that scrapes the mesh.")
        .type("prometheus")
        .current(models.VariableOption(text="Mesh Prometheus", value="mesh-prometheus")),
        choice("job", "Job", f"label_values({build_info}, job)", "Prometheus's jobs."),
        choice(
            "instance",
            "Instance",
            f'label_values({build_info}{{job=~"$job"}}, instance)',
            "Gateways, by the address that Prometheus scrapes.",
        ),
        dashboard.TextBoxVariable("admin")
        .label("Gateway's API")
        .description("Where your browser reaches a gateway's admin address: links to its traces.")
        .default_value(ADMIN)
        .current(models.VariableOption(text=ADMIN, value=ADMIN)),
        dashboard.TextBoxVariable("traces")
        .label("Traces")
        .description("The uid of the Tempo data source that links to traces open.")
        .hide(models.VariableHide.HIDE_VARIABLE)
        .default_value(TRACES)
        .current(models.VariableOption(text=TRACES, value=TRACES)),
    ]


def choice(
    name: str, label: str, query: str, description: str, *, everything: str = ".+"
) -> dashboard.QueryVariable:
    """A variable of which several values, or all, are chosen.

    Args:
        name: Its name in queries.
        label: Its name for people.
        query: What values there are.
        description: What it means.
        everything: What stands for all in queries; where empty, these are the values there are.
    """
    asked = _asked(name, label, query, description).multi(True).include_all(True).current(ALL)
    return asked.all_value(everything) if everything else asked


def service_choice(*, single: bool) -> dashboard.QueryVariable:
    """The services that the gateways know, but for their own."""
    known = series(names.SERVICE_INSTANCES.name, USERS_OWN)
    query = f"label_values({known}, {names.RPC_SERVICE})"
    if single:
        return _asked("service", "Service", query, "The service that is shown.")
    return choice("service", "Service", query, "Services that are called.")


def method_choice() -> dashboard.QueryVariable:
    """The methods of the services that are chosen."""
    known = series(f"{names.CALL_DURATION.name}_count", f'{names.RPC_SERVICE}=~"$service"')
    query = f"label_values({known}, {names.RPC_METHOD})"
    return choice("method", "Method", query, "Methods that are called.")


def _asked(name: str, label: str, query: str, description: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .description(description)
        .datasource(DATASOURCE)
        .query(query)
        .definition(query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )


def to_service(service: str = "Service") -> dict[str, object]:
    """A link from a row of a table, whose column has the service's name, to its dashboard."""
    return {
        "title": f"Dashboard of ${{__data.fields.{service}}}",
        "url": f"/d/mesh-service?{_EVERYWHERE}"
        f"&var-service=${{__data.fields.{service}:percentencode}}",
    }


def to_traces() -> list[dict[str, object]]:
    """Links from a row with the columns Service and Method to the traces of that method."""
    service = "${__data.fields.Service:percentencode}"
    method = "${__data.fields.Method:percentencode}"
    query = {
        "refId": "A",
        "datasource": {"type": "tempo", "uid": "${traces}"},
        "queryType": "traceql",
        "query": f'{{ name = "{service}.{method}" }}',
        "limit": 20,
    }
    panes = {
        "mesh": {
            "datasource": "${traces}",
            "queries": [query],
            "range": {"from": "${__from}", "to": "${__to}"},
        }
    }
    told = re.sub(
        "%24%7B.+?%7D", lambda found: unquote(found[0]), quote(json.dumps(panes), safe="")
    )
    return [
        {
            "title": "Traces in Tempo",
            "url": f"/explore?schemaVersion=1&panes={told}",
            "targetBlank": True,
        },
        {
            "title": "Traces that the gateway keeps",
            "url": f"${{admin:raw}}/api/traces?service={service}&method={method}",
            "targetBlank": True,
        },
    ]


def board(
    uid: str,
    title: str,
    description: str,
    variables: Sequence[Builder[models.VariableModel]],
    sections: Sequence[Section],
    *,
    since: str = "now-1h",
) -> models.Dashboard:
    """A whole dashboard."""
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .timezone("browser")
        .readonly()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .time(since, "now")
        .refresh("30s")
        .variables(list(variables))
        .link(
            dashboard.DashboardLink("Mesh")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .include_vars(True)
            .keep_time(True)
        )
        .annotations(_annotations())
    )
    for section in sections:
        made.with_row(dashboard.Row(section.title))
        for panel in section.panels:
            made.with_panel(panel)
    built = made.build()
    for number, one in enumerate(built.panels or (), 1):
        one.id_val = number
    return built


def _annotations() -> list[Builder[models.AnnotationQuery]]:
    only_gateways = series(names.GATEWAY_LOOP_LAG.name)
    started = series("process_start_time_seconds")
    return [
        # The time is in the value, so that a start is one mark, whatever was scraped when.
        _annotation(
            "Gateway started",
            f"{started} * 1000 and on (job, instance) {only_gateways}",
            "blue",
            "Gateway {{instance}} started",
        ).use_value_for_time(True),
        _annotation(
            "Gateway drains", series(names.GATEWAY_DRAINING.name), "orange", "{{instance}} drains"
        ),
        _annotation(
            "Service drains",
            total(
                names.SERVICE_INSTANCES,
                f'{names.STATE}="draining"',
                by=(names.RPC_SERVICE,),
            ),
            "purple",
            "An instance of {{rpc_service}} drains",
        ),
    ]


def _annotation(name: str, query: str, colour: str, title: str) -> dashboard.AnnotationQuery:
    """Marks where the query's value is not zero."""
    asked = prometheus.Dataquery().datasource(DATASOURCE).expr(query).range().ref_id("Anno")
    return (
        dashboard.AnnotationQuery()
        .name(name)
        .datasource(DATASOURCE)
        .enable(True)
        .icon_color(colour)
        .target(asked)
        .title_format(title)
    )
