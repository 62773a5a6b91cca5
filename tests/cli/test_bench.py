"""`mesh bench` in small: every option works, and tells what it was given. Speed is not judged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from mesh.cli import main
from mesh.cli.bench.command import COLUMNS, UNITS, _print

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Mesh

FIGURES = (
    "calls_per_second",
    "p50_us",
    "p99_us",
    "gateway_cpu_us_per_call",
    "caller_cpu_us_per_call",
)


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_run_tells_its_shape_and_its_figures_as_json(shell: Mesh) -> None:
    """One line for each concurrency; a tenth of the calls with one task."""
    ended = shell(
        "bench", "--concurrency", "1,6", "--calls", "300", "--callers", "3", "--services", "2",
        "--depth", "2", "--payload", "100000", "--json",
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    one, six = rows(ended.stdout)
    assert (one["concurrency"], one["calls"]) == (1, 30)
    assert (six["concurrency"], six["calls"]) == (6, 300)
    for row in (one, six):
        assert (row["callers"], row["services"], row["depth"]) == (3, 2, 2)
        assert row["errors"] == {}
        assert all(row[figure] > 0 for figure in (*FIGURES, "service_cpu_us_per_call"))
        assert row["p50_us"] <= row["p99_us"]


def test_a_run_may_go_through_a_stub(shell: Mesh) -> None:
    ended = shell("bench", "--stub", "--concurrency", "4", "--calls", "200", "--json")
    (row,) = rows(ended.stdout)
    assert (row["stub"], row["calls"], row["errors"]) == (True, 200, {})
    assert all(row[figure] > 0 for figure in (*FIGURES, "service_cpu_us_per_call"))


def test_a_run_is_compared_with_an_earlier_one(shell: Mesh, tmp_path: Path) -> None:
    """With the one of the same shape; where there is none, it says so."""
    earlier = tmp_path / "before.json"
    shape = {"callers": 1, "services": 1, "depth": 1}
    before = [
        {"concurrency": 4, **shape, "calls_per_second": 1, "p50_us": 1e9},
        {"concurrency": 4, **shape, "depth": 2, "calls_per_second": 1e9},
    ]
    earlier.write_text("".join(json.dumps(row) + "\n" for row in before))
    arguments = ("bench", "--concurrency", "4", "--calls", "200", "--compare", str(earlier))
    (row,) = rows(shell(*arguments, "--json").stdout)
    assert row["ratios"]["calls_per_second"] == row["calls_per_second"]
    assert 0 <= row["ratios"]["p50_us"] < 1
    assert set(row["ratios"]) == {"calls_per_second", "p50_us"}
    shown = shell(*arguments).stdout.splitlines()
    assert shown[0].split()[:3] == ["CONCURRENCY", "CALLS", "CALLS/S"]
    assert shown[1].split()[:2] == ["4", "200"]
    assert "as a ratio to the earlier run" in shown
    earlier.write_text(json.dumps({"concurrency": 5}))
    assert "the file has no run like these" in shell(*arguments).stdout


def test_the_table_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    """With figures as large as they become, and every heading whole."""
    row = {
        "concurrency": 256, "calls": 100_000, "calls_per_second": 35_625.1, "p50_us": 165_029.4,
        "p99_us": 1_270_070.0, "gateway_cpu_us_per_call": 122.84, "errors": {},
        "caller_cpu_us_per_call": 1_103.5, "service_cpu_us_per_call": 119.2,
    }  # fmt: skip
    row["ratios"] = {key: 1.0 for key in row if key != "errors"}
    _print(Console(force_terminal=True, width=80, color_system=None), [row])
    heading, figures, units, *_ = capsys.readouterr().out.splitlines()
    assert heading.split() == [name.upper() for name in COLUMNS]
    assert figures.split() == [
        "256", "100,000", "35,625.1", "165,029", "1,270,070", "122.8", "1,103.5", "119.2",
    ]  # fmt: skip
    assert units == UNITS
    assert max(map(len, (heading, units))) <= 80


def test_a_running_mesh_is_loaded_and_failures_are_counted(served: Mesh) -> None:
    target = ("--gateway", served.env["MESH_GATEWAY"], "--service", "users", "--method")
    sizes = ("--concurrency", "4", "--calls", "100", "--callers", "2", "--json")
    (row,) = rows(served("bench", *target, "get", "--params", '"ada"', *sizes).stdout)
    assert (row["calls"], row["callers"], row["errors"]) == (100, 2, {})
    assert all(row[figure] > 0 for figure in FIGURES)
    failed = served("bench", *target, "get", "--params", '"nobody"', *sizes)
    assert failed.returncode == 1
    assert "USER_NOT_FOUND" in failed.stderr


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--concurrency", "0"], "is no list of whole numbers from 1"),
        (["--concurrency", "1,x"], "is no list of whole numbers from 1"),
        (["--calls", "0"], "--calls"),
        (["--payload", "-1"], "--payload"),
        (["--callers", "0"], "--callers"),
        (["--services", "901"], "--services"),
        (["--depth", "17"], "--depth"),
        (["--gateway", "unix:/x"], "--gateway needs --service and --method"),
        (["--service", "users"], "need --gateway, the mesh to load"),
        (["--gateway", "unix:/x", "--service", "a", "--method", "b", "--depth", "2"],
         "--services, --depth, --telemetry and --stub are for a mesh of its own"),
        (["--stub", "--depth", "2"], "--stub calls one method of one service"),
        (["--gateway", "unix:/x", "--service", "a", "--method", "b", "--params", "{"],
         "--params is no JSON"),
        (["--compare", "/no/such/file"], "--compare"),
    ],
)  # fmt: skip
def test_wrong_usage_has_status_2(arguments: list[str], fault: str) -> None:
    ended = CliRunner().invoke(main, ["bench", *arguments])
    assert ended.exit_code == 2
    assert fault in ended.output


def test_a_file_that_is_no_earlier_run_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    for text in ("{", "[1]", "7"):
        file.write_text(text)
        ended = CliRunner().invoke(main, ["bench", "--compare", str(file)])
        assert ended.exit_code == 2, text
        assert "is not what `mesh bench --json` prints" in ended.output
