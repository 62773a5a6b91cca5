"""`mesh drain`: ask the gateway to end, without losing a call."""

from __future__ import annotations

from typing import Any

import click
import trio

from mesh import events
from mesh.cli.commands import example, run
from mesh.cli.listing import BUILTIN
from mesh.cli.output import print_json
from mesh.cli.peer import gateway_option, json_option, peer


@click.command(epilog=example("mesh drain", "mesh drain --wait --gateway unix:/run/mesh.sock"))
@click.option("--wait", is_flag=True, help="Return once the gateway has ended.")
@gateway_option
@json_option
def drain(*, wait: bool, gateway: str | None, as_json: bool) -> None:
    """Have the gateway take no new calls, let those in flight end, then stop.

    Calls in flight have 10 s by default. The services stay, and wait for a gateway that comes back.
    """
    status = run(_drain, gateway, wait=wait)
    if as_json:
        print_json({**status, "stopped": wait})
    else:
        others = max(0, status["in_flight"] - 1)  # the call that asked is one of them
        click.echo(
            f"gateway {status['gateway']} has ended"
            if wait
            else f"gateway {status['gateway']} drains; {others} calls are in flight"
        )


async def _drain(gateway: str | None, *, wait: bool) -> dict[str, Any]:
    async with peer(gateway) as client, client.events() as stream:
        status: dict[str, Any] = await client.call(BUILTIN, "drain")
        if wait:
            async for event in stream:
                if isinstance(event, events.Disconnected):
                    break
        await trio.lowlevel.checkpoint()
    return status
