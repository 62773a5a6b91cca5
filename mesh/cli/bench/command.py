"""The command `mesh bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from mesh.cli.bench import own, target
from mesh.cli.commands import example, run
from mesh.cli.failures import WrongUsage
from mesh.cli.output import make_console, print_json, print_table
from mesh.cli.peer import gateway_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

F = TypeVar("F", bound="Callable[..., Any]")

COLUMNS = {
    "concurrency": "concurrency",
    "calls": "calls",
    "calls/s": "calls_per_second",
    "p50": "p50_us",
    "p99": "p99_us",
    "gateway": "gateway_cpu_us_per_call",
    "caller": "caller_cpu_us_per_call",
    "service": "service_cpu_us_per_call",
}
"""Headings of the table and the keys of the figures under them."""
UNITS = "p50 and p99 in us; gateway, caller and service: their CPU per call, in us"
"""Said once below the table: beside each figure they would not fit into 80 columns."""


def _concurrencies(_ctx: click.Context, _option: click.Parameter, text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise click.BadParameter(f"{text!r} is no list of whole numbers from 1, such as 1,16,64")
    return numbers


def _parameters(text: str | None, payload: int) -> Any:
    if text is None:
        return {"data": "x" * payload} if payload else {"userId": "123"}
    try:
        return json.loads(text)
    except ValueError as fault:
        raise WrongUsage(f"--params is no JSON: {fault}") from fault


def _one_or_more(flag: str, what: str, *, most: int) -> Callable[[F], F]:
    """An option that is a number from 1, its default, on."""
    return click.option(
        flag, default=1, show_default=True, type=click.IntRange(1, most), metavar="N", help=what
    )


@click.command(
    epilog=example(
        "mesh bench --concurrency 1,64 --calls 60000",
        "mesh bench --callers 10 --services 100 --depth 3 --json > before.json",
        "mesh bench --callers 10 --services 100 --depth 3 --compare before.json",
        "mesh bench --gateway unix:/run/mesh.sock --service users --method get --params '{}'",
    )
)
@click.option(
    "--concurrency",
    default="1,16,64,256",
    show_default=True,
    callback=_concurrencies,
    metavar="N,N,...",
    help="Tasks that call in turn; one run for each number.",
)
@click.option(
    "--calls",
    default=60_000,
    show_default=True,
    type=click.IntRange(min=1),
    help="Calls in a run; a tenth of that at concurrency 1.",
)
@click.option(
    "--payload",
    default=0,
    type=click.IntRange(min=0),
    metavar="BYTES",
    help="Size of the parameters; a small map if not given.",
)
@_one_or_more("--callers", "Connections that the calling tasks share.", most=1000)
@_one_or_more("--services", "Services that are called in turn.", most=900)
@_one_or_more("--depth", "Nested calls: each method calls the next, the last one echoes.", most=16)
@click.option(
    "--telemetry",
    default="on",
    show_default=True,
    type=click.Choice(["on", "off"]),
    help="Whether the mesh counts and records calls; what that costs is the difference.",
)
@click.option(
    "--stub",
    is_flag=True,
    help="Call through a contract's stub; what checking both ways costs is the difference.",
)
@click.option(
    "--compare",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="What --json printed earlier: show each figure as a ratio to it.",
)
@gateway_option
@click.option("--service", help="With --gateway: the service to load.")
@click.option("--method", help="With --gateway: the method to load.")
@click.option("--params", metavar="JSON", help="With --gateway: its parameters.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for each run.")
def bench(
    *,
    concurrency: list[int],
    calls: int,
    payload: int,
    callers: int,
    services: int,
    depth: int,
    telemetry: str,
    stub: bool,
    compare: Path | None,
    gateway: str | None,
    service: str | None,
    method: str | None,
    params: str | None,
    as_json: bool,
) -> None:
    """Measure throughput, latency and processor time per call.

    Without --gateway it starts a gateway and an echo service of its own, fresh for every run:
    caller, gateway and service are three processes on a Unix socket, with everything switched on
    but what you switch off.
    """
    if gateway is not None and not (service and method):
        raise WrongUsage("--gateway needs --service and --method: what should be called?")
    if gateway is None and (service or method or params):
        raise WrongUsage("--service, --method and --params need --gateway, the mesh to load")
    if gateway is not None and (services > 1 or depth > 1 or telemetry == "off" or stub):
        raise WrongUsage(
            "--services, --depth, --telemetry and --stub are for a mesh of its own, without "
            "--gateway"
        )
    if stub and (services > 1 or depth > 1):
        raise WrongUsage("--stub calls one method of one service: no --services, no --depth")
    earlier = _read_earlier(compare) if compare is not None else {}
    parameters = _parameters(params, payload)
    console = make_console(stderr=True)
    rows: list[dict[str, Any]] = []
    for number in concurrency:
        count = calls if number > 1 else max(1, calls // 10)

        def measure(
            on_progress: Callable[[int], None], number: int = number, n: int = count
        ) -> Any:
            if gateway is None:
                return own.measure(
                    number,
                    n,
                    parameters,
                    on_progress,
                    callers=callers,
                    services=services,
                    depth=depth,
                    telemetry=telemetry == "on",
                    stub=stub,
                )
            load = target.Load([str(service)], str(method), parameters, number, n, callers)
            return run(target.measure, gateway, load, on_progress)

        figures = _with_progress(console, f"concurrency {number}", count, measure)
        if compare is not None:
            figures["ratios"] = _ratios(figures, earlier.get(_shape(figures), {}))
        rows.append(figures)
        if as_json:
            print_json(figures)
    if not as_json:
        _print(make_console(), rows)


def _shape(figures: dict[str, Any]) -> tuple[Any, ...]:
    """What two runs must have in common to be compared."""
    return figures.get("concurrency"), *(
        figures.get(key, 1) for key in ("callers", "services", "depth")
    )


def _read_earlier(path: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        return {_shape(row): row for row in rows}
    except (ValueError, AttributeError) as fault:
        raise WrongUsage(
            f"{path} is not what `mesh bench --json` prints, a JSON map per line: {fault}"
        ) from fault


def _ratios(now: dict[str, Any], earlier: dict[str, Any]) -> dict[str, float]:
    return {
        key: round(now[key] / earlier[key], 3)
        for key in COLUMNS.values()
        if key.endswith(("_second", "_us", "_per_call")) and now.get(key) and earlier.get(key)
    }


def _with_progress(
    console: Console, title: str, total: int, measure: Callable[[Callable[[int], None]], Any]
) -> dict[str, Any]:
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task(title, total=total)
        figures: dict[str, Any] = measure(lambda done: progress.update(task, completed=done))
        return figures


def _print(console: Console, rows: list[dict[str, Any]]) -> None:
    columns = [name for name, key in COLUMNS.items() if any(key in row for row in rows)]
    table = [[_cell(COLUMNS[name], row.get(COLUMNS[name])) for name in columns] for row in rows]
    print_table(console, columns, table, figures=COLUMNS)
    console.print(UNITS, soft_wrap=True)
    if any("ratios" in row for row in rows):
        compared = [name for name in columns if any(COLUMNS[name] in row["ratios"] for row in rows)]
        table = [
            [
                str(row["concurrency"]),
                *(_ratio(row["ratios"].get(COLUMNS[name])) for name in compared),
            ]
            for row in rows
        ]
        print()
        print("as a ratio to the earlier run" if compared else "the file has no run like these")
        if compared:
            print_table(console, ["concurrency", *compared], table, figures=COLUMNS)
    for row in rows:
        if row["errors"]:
            failed = ", ".join(f"{count:,} {reason}" for reason, count in row["errors"].items())
            print(f"concurrency {row['concurrency']}: failed calls: {failed}")


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    if key.endswith("_us"):
        return f"{value:,.0f}"
    if key.endswith("_us_per_call"):
        return f"{value:,.1f}"
    return f"{value:,}"
