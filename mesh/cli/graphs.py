"""Who calls whom as a graph for tools that draw: Graphviz' DOT, and Mermaid for Markdown.

A name is quoted wherever it stands, as `end` or `users-2` mean something else to these languages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mesh_telemetry.texts import duration

if TYPE_CHECKING:
    from collections.abc import Sequence


def rate(per_second: float) -> str:
    """Calls per second for people; a few an hour are told from none."""
    if 0 < per_second < 0.01:
        return "<0.01"
    return f"{per_second:.2f}" if 0 < per_second < 1 else f"{per_second:,.1f}"


def share(part: int, whole: int) -> str:
    """A part of a whole for people; one in a million is told from none."""
    if not part:
        return "0%"
    return f"{part / whole:.1%}" if part * 1000 >= whole else "<0.1%"


def dot(edges: Sequence[dict[str, Any]]) -> str:
    """The graph in DOT (https://graphviz.org/doc/info/lang.html).

    Args:
        edges: One for each caller of each service, as `mesh edges --json` tells those of methods.
    """
    lines = ["digraph mesh {", "  rankdir=LR;", "  node [shape=box];"]
    lines += [f"  {_dot_quoted(name)};" for name in _nodes(edges)]
    for edge in edges:
        ends = f"{_dot_quoted(edge['caller'])} -> {_dot_quoted(edge['service'])}"
        label = r"\n".join(_label(edge))
        color = ", color=red" if edge["errors"] else ""
        lines.append(f'  {ends} [label="{label}"{color}];')
    return "\n".join([*lines, "}", ""])


def mermaid(edges: Sequence[dict[str, Any]]) -> str:
    """The graph in Mermaid (https://mermaid.js.org/syntax/flowchart.html); see :func:`dot`."""
    ids = {name: f"n{number}" for number, name in enumerate(_nodes(edges))}
    lines = ["flowchart LR"]
    lines += [f"  {own}[{_mermaid_quoted(name)}]" for name, own in ids.items()]
    for edge in edges:
        label = ", ".join(_label(edge))
        lines.append(f'  {ids[edge["caller"]]} -->|"{label}"| {ids[edge["service"]]}')
    failing = [str(number) for number, edge in enumerate(edges) if edge["errors"]]
    if failing:
        lines.append(f"  linkStyle {','.join(failing)} stroke:red")
    return "\n".join([*lines, ""])


def _nodes(edges: Sequence[dict[str, Any]]) -> list[str]:
    return sorted({edge[end] for edge in edges for end in ("caller", "service")})


def _label(edge: dict[str, Any]) -> list[str]:
    told = [f"{rate(edge['calls_per_second'])}/s"]
    if edge["errors"]:
        told.append(f"{share(sum(edge['errors'].values()), edge['calls'])} errors")
    if edge["p99"] is not None:
        told.append(f"p99 {duration(edge['p99'])}")
    return told


def _dot_quoted(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _mermaid_quoted(name: str) -> str:
    escaped = name.replace("#", "#35;").replace('"', "#quot;")
    return f'"{escaped}"'
