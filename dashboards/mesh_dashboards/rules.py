"""A file of rules for Prometheus, made of the groups of the other rooms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from mesh_dashboards.alerts import alerts
from mesh_dashboards.burning import burning
from mesh_dashboards.promql import DEFAULT
from mesh_dashboards.recording import signals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mesh_dashboards.burning import Promise
    from mesh_dashboards.promql import Scope


def rules(promises: Sequence[Promise] = (), scope: Scope = DEFAULT) -> dict[str, Any]:
    """The rules that every mesh wants, and those for what contracts promise.

    Args:
        promises: What contracts promise of methods, each method once.
        scope: What all rules have in common.
    """
    return {"groups": [*signals(scope), *alerts(scope), *burning(promises, scope)]}


def to_yaml(document: dict[str, Any]) -> str:
    """The same as Prometheus reads it, and as people can."""
    head = "# Recording rules and alerts for Prometheus, made by `mesh dashboards rules`.\n"
    return head + yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=100)


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as such."""


def _write(dumper: _Dumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _write)
