"""`mesh ping`: how long a round trip takes, to the gateway or on to a service's event loop."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import click
import trio

from mesh.cli.commands import example, run
from mesh.cli.listing import BUILTIN
from mesh.cli.output import print_json
from mesh.cli.peer import Seconds, check_name, gateway_option, json_option, peer
from mesh.units import tell_seconds
from mesh_telemetry.logs import clean
from mesh_telemetry.texts import duration

if TYPE_CHECKING:
    from mesh.client import Client


@click.command(epilog=example("mesh ping", "mesh ping orders --count 10"))
@click.argument("service", required=False, callback=check_name)
@click.option("--count", type=click.IntRange(1), default=5, show_default=True, help="Round trips.")
@click.option(
    "--interval",
    type=Seconds(0, 3600),
    default=0.2,
    show_default=True,
    help="Seconds between two.",
)
@gateway_option
@json_option
def ping(
    *,
    service: str | None,
    count: int,
    interval: float,
    gateway: str | None,
    as_json: bool,
) -> None:
    """Measure round trips to the gateway, or from it to every instance of SERVICE.

    The first kind is a whole call through the gateway; the second is a bare ping to the instance's
    event loop, which shows whether it is busy. Exits 1 if an instance did not answer.
    """
    trips = run(_ping, service, count, interval, gateway, quiet=as_json)
    if as_json:
        print_json({"target": service or "gateway", "instances": _summaries(trips)})
    else:
        for summary in _summaries(trips):
            click.secho(_sentence(summary), bold=True)
    if any(None in seconds for seconds in trips.values()):
        raise click.exceptions.Exit(1)


Trips = dict[str, list[float | None]]
"""Seconds of each round trip by instance, None for one without an answer."""


async def _ping(
    service: str | None,
    count: int,
    interval: float,
    gateway: str | None,
    *,
    quiet: bool,
) -> Trips:
    trips: Trips = {}
    async with peer(gateway) as client:
        for number in range(1, count + 1):
            if number > 1:
                await trio.sleep(interval)
            for name, seconds in await _round(client, service):
                trips.setdefault(name, []).append(seconds)
                if not quiet:
                    took = duration(seconds) if seconds is not None else "no answer"
                    click.echo(f"{clean(name)}  {number}  {took}")
    return trips


async def _round(client: Client, service: str | None) -> list[tuple[str, float | None]]:
    if service is None:
        start = trio.current_time()
        status = await client.call(BUILTIN, "status")
        return [(f"gateway {status['gateway']}", trio.current_time() - start)]
    return [
        (row["process_id"], row["round_trip_us"] / 1e6 if row["round_trip_us"] else None)
        for row in await client.call(BUILTIN, "ping", service)
    ]


def _summaries(trips: Trips) -> list[dict[str, Any]]:
    summaries = []
    for name, seconds in trips.items():
        answered = [one for one in seconds if one is not None]
        summaries.append(
            {
                "instance": name,
                "sent": len(seconds),
                "answered": len(answered),
                "min_s": tell_seconds(min(answered)) if answered else None,
                "median_s": tell_seconds(statistics.median(answered)) if answered else None,
                "max_s": tell_seconds(max(answered)) if answered else None,
                "round_trips_s": [tell_seconds(one) for one in seconds],
            }
        )
    return summaries


def _sentence(summary: dict[str, Any]) -> str:
    figures = ", ".join(
        f"{what} {duration(summary[f'{what}_s'])}" for what in ("min", "median", "max")
    )
    name, sent, answered = (summary[what] for what in ("instance", "sent", "answered"))
    return f"{clean(name)}: {answered} of {sent} answered; {figures}"
