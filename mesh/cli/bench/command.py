"""The command `mesh bench`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

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

COLUMNS = {
    "concurrency": "concurrency",
    "calls": "calls",
    "calls/s": "calls_per_second",
    "p50": "p50_us",
    "p99": "p99_us",
    "gateway CPU": "gateway_cpu_us_per_call",
    "caller CPU": "caller_cpu_us_per_call",
    "service CPU": "service_cpu_us_per_call",
}
"""Headings of the table and the keys of the figures under them."""


def _concurrencies(ctx: click.Context, option: click.Parameter, text: str) -> list[int]:  # noqa: ARG001
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


@click.command(
    epilog=example(
        "mesh bench --concurrency 1,64 --calls 60000",
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
    gateway: str | None,
    service: str | None,
    method: str | None,
    params: str | None,
    as_json: bool,
) -> None:
    """Measure throughput, latency and processor time per call.

    Without --gateway it starts a gateway and an echo service of its own, fresh for every run:
    caller, gateway and service are three processes on a Unix socket, with everything switched on.
    """
    if gateway is not None and not (service and method):
        raise WrongUsage("--gateway needs --service and --method: what should be called?")
    if gateway is None and (service or method or params):
        raise WrongUsage("--service, --method and --params need --gateway, the mesh to load")
    parameters = _parameters(params, payload)
    console = make_console(stderr=True)
    rows: list[dict[str, Any]] = []
    for number in concurrency:
        count = calls if number > 1 else max(1, calls // 10)

        def measure(
            on_progress: Callable[[int], None], number: int = number, n: int = count
        ) -> Any:
            if gateway is None:
                return own.measure(number, n, parameters, on_progress)
            load = target.Load(str(service), str(method), parameters, number, n)
            return run(target.measure, gateway, load, on_progress)

        figures = _with_progress(console, f"concurrency {number}", count, measure)
        rows.append(figures)
        if as_json:
            print_json(figures)
    if not as_json:
        _print(rows)


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


def _print(rows: list[dict[str, Any]]) -> None:
    columns = [name for name, key in COLUMNS.items() if any(key in row for row in rows)]
    table = [[_cell(COLUMNS[name], row.get(COLUMNS[name])) for name in columns] for row in rows]
    print_table(make_console(), columns, table, figures=COLUMNS)
    for row in rows:
        if row["errors"]:
            failed = ", ".join(f"{count:,} {reason}" for reason, count in row["errors"].items())
            print(f"concurrency {row['concurrency']}: failed calls: {failed}")


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    if key.endswith("_us"):
        return f"{value:,.0f} us"
    if key.endswith("_us_per_call"):
        return f"{value:,.1f} us"
    return f"{value:,}"
