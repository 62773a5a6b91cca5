"""PromQL, spelled in one way: every selector by job and instance, every counter by its rate.

The names are those of :mod:`mesh_telemetry.names`. What must show a zero before the first of its
kind has happened goes through :func:`or_zero`: series of what has never happened are not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh_dashboards.promql import FAULTS, OWN_SERVICE
from mesh_telemetry import names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mesh_telemetry import Family

GATEWAYS = 'job=~"$job", instance=~"$instance"'
"""Matchers of what gateways serve."""
PEERS = 'job=~"$job", instance=~"$peer"'
"""Matchers of what peers serve of themselves."""

SERVICE = f'{names.RPC_SERVICE}=~"$service"'
METHOD = f'{names.RPC_METHOD}=~"$method"'
USERS_OWN = f'{names.RPC_SERVICE}!="{OWN_SERVICE}"'
"""Without the service `mesh`, which is the gateway's own and what commands ask."""
FAILED = f'{names.CODE}=~"{FAULTS}"'
"""Calls that are an error of the service or the mesh, as objectives count them."""

MANY = 10
"""How many lines of a kind a chart has; a table has them all."""

BY_METHOD = (names.RPC_SERVICE, names.RPC_METHOD)


def series(name: str, *matchers: str, scope: str = GATEWAYS) -> str:
    """A selector."""
    return f"{name}{{{', '.join((scope, *matchers))}}}"


def total(
    family: Family | str,
    *matchers: str,
    by: Sequence[str] = (),
    how: str = "sum",
    scope: str = GATEWAYS,
) -> str:
    """A gauge, added up or otherwise aggregated."""
    name = family if isinstance(family, str) else family.name
    return f"{how}{_by(by)} ({series(name, *matchers, scope=scope)})"


def rate(
    family: Family | str,
    *matchers: str,
    by: Sequence[str] = (),
    scope: str = GATEWAYS,
) -> str:
    """A counter's growth per second."""
    name = family if isinstance(family, str) else family.name
    selector = series(name, *matchers, scope=scope)
    return f"sum{_by(by)} (rate({selector}[$__rate_interval]))"


def increase(family: Family, *matchers: str, by: Sequence[str]) -> str:
    """A counter's growth over the time that is shown."""
    return f"sum{_by(by)} (increase({series(family.name, *matchers)}[$__range]))"


def quantile(
    q: float, family: Family, *matchers: str, by: Sequence[str] = (), scope: str = GATEWAYS
) -> str:
    """A quantile of a histogram, 0 to 1; without any observation there is none."""
    buckets = rate(f"{family.name}_bucket", *matchers, by=("le", *by), scope=scope)
    return f"histogram_quantile({q}, {buckets}) >= 0"


def or_zero(expression: str, *labels: str) -> str:
    """The same, or a zero where there is nothing yet, with ``none`` as the value of its labels.

    Without a gateway that answers there is no zero, as nobody knows.
    """
    zero = f"(0 * count ({series(names.GATEWAY_LOOP_LAG.name)}))"
    for label in labels:
        zero = f'label_replace({zero}, "{label}", "none", "", "")'
    return f"{expression} or on () {zero}"


def most(expression: str) -> str:
    """The highest of many, at each moment."""
    return f"topk({MANY}, {expression})"


def least(expression: str) -> str:
    """The lowest of many, at each moment."""
    return f"bottomk({MANY}, {expression})"


def happening(expression: str) -> str:
    """Only what is not zero, so that the legend names nothing that does not happen."""
    return f"({expression} > 0)"


def failure_ratio(*matchers: str, by: Sequence[str] = ()) -> str:
    """Which part of the calls fails, 0 to 1; nothing where there are no calls."""
    calls = rate(names.CALLS, *matchers, by=by)
    failed = rate(names.CALLS, FAILED, *matchers, by=by)
    return f"({failed} or 0 * {calls}) / ({calls} > 0)"


def success_ratio(*matchers: str, by: Sequence[str] = ()) -> str:
    """Which part of the calls does not fail."""
    return f"1 - {failure_ratio(*matchers, by=by)}"


def _by(labels: Sequence[str]) -> str:
    return f" by ({', '.join(labels)})" if labels else ""
