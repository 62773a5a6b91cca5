"""`mesh edges`: the table and its figures, and graphs that the tools for them can read."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mesh.cli.edges import COLUMNS, _print, by_service, with_rates
from mesh.cli.graphs import dot, mermaid, rate, share
from mesh.cli.readings import difference
from mesh_telemetry import DURATION_BOUNDS

if TYPE_CHECKING:
    from tests.cli.conftest import Mesh


def edge(caller: str, name: str, calls: int, failed: int = 0, bucket: int = 4) -> dict[str, Any]:
    """What a gateway tells of one caller of one method, of which all calls took about as long."""
    service, _, method = name.rpartition(".")
    buckets = [0] * (len(DURATION_BOUNDS) + 1)
    buckets[bucket] = calls
    return {
        "caller": caller, "service": service, "method": method, "calls": calls,
        "errors": {"not_found": failed} if failed else {}, "p50": 1.0, "p99": 1.0,
        "buckets": buckets,
    }  # fmt: skip


def sample(uptime: float, *edges: dict[str, Any], gateway: str = "g") -> dict[str, Any]:
    """What a gateway tells at some moment."""
    return {"gateway": {"gateway": gateway, "uptime_s": uptime}, "edges": list(edges)}


def test_edges_of_a_mesh(served: Mesh) -> None:
    assert served("call", "users", "nested", '"ada"').returncode == 0
    assert served("call", "users", "nested", '"nobody"').returncode == 1
    result = served("edges")
    assert (result.returncode, result.stderr) == (0, "")
    heading, columns, *rows = result.stdout.splitlines()
    assert re.fullmatch(r"since the gateway's start, [\d.]+ m?s ago", heading)
    assert columns.split() == ["CALLER", "METHOD", "CALLS", "CALLS/S", "ERRORS", "P50", "P99"]
    told = {tuple(row.split()[:2]): row.split() for row in rows}
    assert told.keys() == {("mesh-cli", "users.nested"), ("users", "users.get")}
    assert told["users", "users.get"][2] == "2"
    assert told["users", "users.get"][4] == "50.0%"
    assert "\x1b" not in result.stdout

    document = json.loads(served("edges", "--json").stdout)
    (own,) = [one for one in document["edges"] if one["caller"] == "users"]
    assert (own["service"], own["method"], own["calls"]) == ("users", "get", 2)
    assert own["errors"] == {"not_found": 1}
    assert own["calls_per_second"] == pytest.approx(2 / document["seconds"], abs=1e-5)
    assert own["errors_per_second"] == pytest.approx(1 / document["seconds"], abs=1e-5)
    assert 0 < own["p50"] <= own["p99"] < 30
    assert "buckets" not in own

    quiet = json.loads(served("edges", "--json", "--interval", "0.05").stdout)
    assert 0.05 <= quiet["seconds"] < document["seconds"]
    assert [(one["calls"], one["p99"]) for one in quiet["edges"]] == [(0, None), (0, None)]
    heading, *_ = served("edges", "--interval", "0.05").stdout.splitlines()
    assert re.fullmatch(r"over [\d.]+ m?s", heading)

    everything = json.loads(served("edges", "--json", "--all").stdout)
    assert ("mesh-cli", "mesh", "edges") in {
        (one["caller"], one["service"], one["method"]) for one in everything["edges"]
    }

    drawn = served("edges", "--dot").stdout
    assert '"mesh-cli" -> "users" [' in drawn
    assert '"users" -> "users" [' in drawn
    drawn = served("edges", "--mermaid").stdout
    assert drawn.startswith('flowchart LR\n  n0["mesh-cli"]\n  n1["users"]\n  n0 -->|"')


@pytest.mark.parametrize("forms", [("--json", "--dot"), ("--dot", "--mermaid")])
def test_one_form_at_a_time(shell: Mesh, forms: tuple[str, ...]) -> None:
    result = shell("edges", *forms)
    assert result.returncode == 2
    assert "--json, --dot and --mermaid exclude each other" in result.stderr


@pytest.mark.parametrize(
    ("telemetry", "says"),
    [
        ("on", "Nobody has called anything yet.\n"),
        ("off", "This gateway counts no calls: its telemetry is off.\n"),
    ],
)
def test_a_mesh_without_calls(shell: Mesh, telemetry: str, says: str) -> None:
    with shell.gateway("--telemetry", telemetry):
        result = shell("edges")
        assert (result.returncode, result.stdout, result.stderr) == (0, "", says)
        assert json.loads(shell("edges", "--json").stdout)["edges"] == []


def test_of_two_samples_what_happened_between_them_counts() -> None:
    seconds, restarted, (web, shop) = difference(
        sample(100.0, edge("shop", "users.get", 50, 20, bucket=15)),
        sample(
            104.0,
            edge("web", "users.get", 8),
            {**edge("shop", "users.get", 58, 22), "buckets": [0, 8, *[0] * 13, 50, 0, 0]},
        ),
        "edges",
    )
    assert not restarted
    shop, web = with_rates(shop, seconds), with_rates(web, seconds)
    assert (shop["caller"], shop["calls"], shop["calls_per_second"]) == ("shop", 8, 2.0)
    assert (shop["errors"], shop["errors_per_second"]) == ({"not_found": 2}, 0.5)
    assert 0.0001 < shop["p50"] <= shop["p99"] <= 0.00025, "it was slow long ago"
    assert (web["calls"], web["errors"], web["calls_per_second"]) == (8, {}, 2.0)


def test_a_gateway_that_came_meanwhile_has_begun_at_zero() -> None:
    before = sample(100.0, edge("shop", "users.get", 50))
    after = sample(2.0, edge("shop", "users.get", 3), gateway="h")
    seconds, restarted, counted = difference(before, after, "edges")
    assert (seconds, restarted, counted[0]["calls"]) == (2.0, True, 3)
    assert difference(None, after, "edges")[:2] == (2.0, False)


def test_an_arrow_is_all_methods_of_a_service() -> None:
    counted = [edge("shop", "a.x", 2, 1), edge("shop", "a.y", 3, 1), edge("web", "a.x", 5)]
    shop, web = by_service(counted)
    assert (shop["caller"], shop["service"], shop["calls"]) == ("shop", "a", 5)
    assert (shop["errors"], sum(shop["buckets"])) == ({"not_found": 2}, 5)
    assert web["calls"] == 5
    assert [one["calls"] for one in counted] == [2, 3, 5], "what was told stays as it is"


@pytest.mark.parametrize(
    ("per_second", "text"),
    [(0.0, "0.0"), (0.001, "<0.01"), (0.01, "0.01"), (0.5, "0.50"), (12.34, "12.3"),
     (12345.6, "12,345.6")],
)  # fmt: skip
def test_rates_for_people(per_second: float, text: str) -> None:
    assert rate(per_second) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 0, "0%"), (0, 9, "0%"), (1, 3, "33.3%"), (1, 1000, "0.1%"), (1, 1001, "<0.1%"),
     (5, 5, "100.0%")],
)  # fmt: skip
def test_shares_for_people(part: int, whole: int, text: str) -> None:
    assert share(part, whole) == text


LONG = "a.service.with.a.name.that.is.longer.than.any.terminal.would.like.inventory"


@pytest.mark.parametrize("name", ["users", LONG])
def test_the_table_fits_80_columns(capsys: pytest.CaptureFixture[str], name: str) -> None:
    rows = [
        with_rates(edge(caller, f"{name}.{method}", 1_234_567, 12, bucket=15), 600.0)
        for caller in ("checkout-frontend", f"{name}-caller")
        for method in ("get", "reserve_the_stock_of_a_warehouse_somewhere")
    ]
    console = Console(force_terminal=True, width=80, color_system=None)
    _print(console, "since the gateway's start, 10m 0s ago", rows)
    heading, columns, *lines = capsys.readouterr().out.splitlines()
    assert heading == "since the gateway's start, 10m 0s ago"
    assert max(map(len, [columns, *lines])) <= 80
    assert len(lines) == 4, "no line is broken"
    assert columns.split() == [name.upper() for name in COLUMNS]
    assert [bool(line[:2].strip()) for line in lines] == [True, False, True, False]


names = st.one_of(
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_.\-]{0,20}", fullmatch=True),
    st.sampled_from(["end", "graph", "_OTHER", "subgraph", "a->b", 'a"b', "a\\", "a#b;", "x|y"]),
)
graphs = st.lists(
    st.builds(edge, names, names.map("{}.do".format), st.integers(3, 100), st.integers(0, 3)),
    max_size=8,
).map(lambda some: [with_rates(one, 2.0) for one in by_service(some)])

_DOT_NAME = r'"((?:[^"\\]|\\["\\])*)"'
_DOT_NODE = re.compile(rf"  {_DOT_NAME};")
_DOT_EDGE = re.compile(rf'  {_DOT_NAME} -> {_DOT_NAME} \[label="([^"]+)"(, color=red)?\];')


@given(graphs)
def test_dot_has_each_node_and_each_arrow_once(edges: list[dict[str, Any]]) -> None:
    """Read back by its grammar: nothing but what is quoted comes from a name."""

    def name(quoted: str) -> str:
        return re.sub(r"\\(.)", r"\1", quoted)

    opens, *lines, closes = dot(edges).splitlines()
    assert (opens, closes) == ("digraph mesh {", "}")
    assert lines[:2] == ["  rankdir=LR;", "  node [shape=box];"]
    nodes = [name(found[1]) for line in lines[2:] if (found := _DOT_NODE.fullmatch(line))]
    arrows = [found for line in lines[2:] if (found := _DOT_EDGE.fullmatch(line))]
    assert len(nodes) + len(arrows) == len(lines) - 2
    assert nodes == sorted({one[end] for one in edges for end in ("caller", "service")})
    assert [(name(one[1]), name(one[2]), bool(one[4])) for one in arrows] == [
        (one["caller"], one["service"], bool(one["errors"])) for one in edges
    ]


_MERMAID_NODE = re.compile(r'  (n\d+)\["([^"]*)"\]')
_MERMAID_EDGE = re.compile(r'  (n\d+) -->\|"([^"|]+)"\| (n\d+)')


@given(graphs)
def test_mermaid_has_each_node_and_each_arrow_once(edges: list[dict[str, Any]]) -> None:
    def name(quoted: str) -> str:
        return quoted.replace("#quot;", '"').replace("#35;", "#")

    opens, *lines = mermaid(edges).splitlines()
    assert opens == "flowchart LR"
    styled = lines.pop() if lines and lines[-1].startswith("  linkStyle ") else ""
    nodes = {found[1]: name(found[2]) for line in lines if (found := _MERMAID_NODE.fullmatch(line))}
    arrows = [found for line in lines if (found := _MERMAID_EDGE.fullmatch(line))]
    assert len(nodes) + len(arrows) == len(lines)
    assert list(nodes.values()) == sorted(
        {one[end] for one in edges for end in ("caller", "service")}
    )
    assert [(nodes[one[1]], nodes[one[3]]) for one in arrows] == [
        (one["caller"], one["service"]) for one in edges
    ]
    failing = [number for number, one in enumerate(edges) if one["errors"]]
    expected = f"  linkStyle {','.join(map(str, failing))} stroke:red" if failing else ""
    assert styled == expected


def test_labels_tell_rate_errors_and_latency() -> None:
    arrows = [with_rates(edge("shop", "users.get", 24, 6), 2.0)]
    arrows.append(with_rates(edge("web", "users.get", 0), 2.0))
    drawn = dot(arrows)
    assert r'"shop" -> "users" [label="12.0/s\n25.0% errors\np99 2.48 ms", color=red];' in drawn
    assert '"web" -> "users" [label="0.0/s"];' in drawn
    assert 'n0 -->|"12.0/s, 25.0% errors, p99 2.48 ms"| n1' in mermaid(arrows)
