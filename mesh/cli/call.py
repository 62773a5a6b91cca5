"""`mesh call`: one call from a shell, with everything that is known when it fails."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import click
import msgspec
import trio

from mesh.cli.commands import example, run
from mesh.cli.completing import complete_method, complete_params, complete_service
from mesh.cli.failures import hint
from mesh.cli.making import prepare_call
from mesh.cli.output import make_console, outcome, print_json, print_value, to_json
from mesh.cli.peer import (
    Seconds,
    check_activity,
    check_name,
    gateway_option,
    json_option,
    peer,
    version_option,
)
from mesh.context import activity
from mesh.errors import CallError, Reason
from mesh.units import tell_seconds
from mesh_telemetry.logs import clean
from mesh_telemetry.texts import duration

_AFTER = frozenset(
    {
        Reason.HANDLER_FAILED,
        Reason.INVALID_RESULT,
        Reason.UNENCODABLE,
        Reason.UNDECODABLE,
        Reason.MESSAGE_TOO_LARGE,
    }
)
"""Reasons that tell of what a handler did or returned, unless the call did not run at all."""


def _parse_params(ctx: click.Context, _parameter: click.Parameter, text: str | None) -> Any:
    if text is None or ctx.resilient_parsing:  # a shell completes, and standard input is its own
        return None
    return read_params(text)


def read_params(text: str) -> Any:
    """Read the JSON of an argument, of @FILE, or of standard input for -."""
    where = "PARAMS"
    try:
        if text == "-":
            where = "standard input"
            text = sys.stdin.read()
        elif text.startswith("@"):
            where = text[1:]
            text = Path(where).read_text(encoding="utf-8")
        return msgspec.json.decode(text)
    except OSError as fault:
        raise click.BadParameter(f"{where} cannot be read: {fault.strerror or fault}") from fault
    except (msgspec.DecodeError, UnicodeError, RecursionError) as fault:
        raise click.BadParameter(
            f'{where} is no JSON: {fault}. Write it in quotes, such as \'{{"user_id": "ada"}}\''
        ) from fault


@click.command(
    epilog=example(
        """mesh call users get '{"user_id": "ada"}'""",
        "mesh call orders place @order.json --timeout 0.5",
        "mesh call mesh status --json",
    )
)
@click.argument("service", callback=check_name, shell_complete=complete_service)
@click.argument("method", callback=check_name, shell_complete=complete_method)
@click.argument("params", required=False, callback=_parse_params, shell_complete=complete_params)
@click.option(
    "--timeout",
    type=Seconds(0, min_open=True),
    help="Seconds, also for the gateway to answer. [default: the contract's, else 30; and 2]",
    metavar="S",
)
@version_option
@click.option(
    "--activity",
    "activity_id",
    callback=check_activity,
    metavar="ID",
    help="Call on behalf of this activity. [default: a new one]",
)
@gateway_option
@json_option
def call(
    *,
    service: str,
    method: str,
    params: Any,
    timeout: float | None,
    version: str | None,
    activity_id: str | None,
    gateway: str | None,
    as_json: bool,
) -> None:
    """Call METHOD of SERVICE and print its result as JSON.

    PARAMS is JSON, or @FILE, or - for standard input. Where SERVICE has a contract, METHOD and
    PARAMS are checked by it before the call is sent. With --json, one document tells the outcome,
    the activity id and the duration. Exits 1 if the call failed.
    """
    ended = run(
        _call, service, method, params, gateway,
        timeout=timeout, version=version, activity_id=activity_id,
    )  # fmt: skip
    error: CallError | None = ended.pop("error")
    if as_json:
        ended["error"] = describe(error) if error is not None else None
        print_json(ended)
    elif error is None:
        print_value(make_console(), ended["result"])
        if sys.stderr.isatty():
            click.secho(
                f"{service}.{method} took {duration(ended['duration_s'])}, "
                f"activity {ended['activity_id']}",
                err=True,
                dim=True,
            )
    else:
        print_error(f"{service}.{method}", error)
    if error is not None:
        raise click.exceptions.Exit(1)


async def _call(
    service: str,
    method: str,
    params: Any,
    gateway: str | None,
    *,
    timeout: float | None,  # noqa: ASYNC109 - travels with the call
    version: str | None,
    activity_id: str | None,
) -> dict[str, Any]:
    result: Any = None
    error: CallError | None = None
    start = trio.current_time()
    with activity(activity_id) as activity_id:  # noqa: PLR1704 - the same id, or a new one
        try:
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(peer(gateway, patience=timeout))
                made = await prepare_call(
                    stack, client, gateway, service, method, params,
                    timeout=timeout, version=version,
                )  # fmt: skip
                start = trio.current_time()
                result = await made.call(service, method, params, version)
                end = trio.current_time()
        except CallError as raised:
            error, end = raised, trio.current_time()
    return {
        "ok": error is None,
        "service": service,
        "method": method,
        "activity_id": activity_id,
        "duration_s": tell_seconds(end - start),
        "result": result,
        "error": error,
    }


def describe(error: CallError) -> dict[str, Any]:
    """All that is known of a failed call, for programs."""
    return {
        "code": str(error.code),
        "reason": error.reason,
        "message": error.message,
        "chain": error.chain,
        "details": error.details,
        "activity_id": error.activity_id or None,
        "maybe_executed": error.maybe_executed,
        "traceback": error.remote_traceback,
    }


def print_error(target: str, error: CallError) -> None:
    """Print on stderr all that is known of a failed call."""
    from rich.text import Text

    console = make_console(stderr=True)
    heading = Text.assemble((f"{target} failed: ", "bold"), outcome(error.code, error.reason))
    console.print(heading, soft_wrap=True)
    rows = {
        "message": error.message,
        "chain": " > ".join(error.chain),
        "activity": error.activity_id,
        "executed": _executed(error),
        "details": to_json(error.details) if error.details else "",
        "advice": hint(error),
        "traceback": (error.remote_traceback or "").strip().replace("\n", "\n             "),
    }
    for what, text in rows.items():
        if text:
            line = Text.assemble((f"  {what:<9}  ", "dim"), clean(text))
            console.print(line, soft_wrap=True)


def _executed(error: CallError) -> str:
    """Whether the method ran: what is known, or else what the chain and the reason prove."""
    if not error.maybe_executed:
        return "no, it certainly did not run"
    called_others = len(error.chain) > 1  # the command is in no call: the chain begins below it
    return "yes" if called_others or error.reason in _AFTER or _is_own(error) else "maybe"


def _is_own(error: CallError) -> bool:
    """Whether a handler has chosen the reason: the mesh has none that is not among its own."""
    return error.reason not in Reason.__members__
