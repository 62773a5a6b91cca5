"""`mesh trace`: which traces the gateway has kept, and one of them as a waterfall."""

from __future__ import annotations

import shlex
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import click
import trio

from mesh.cli.call import describe, print_error, read_params
from mesh.cli.commands import example, run
from mesh.cli.completing import complete_call, complete_method, complete_service
from mesh.cli.failures import Failure
from mesh.cli.listing import BUILTIN
from mesh.cli.making import prepare_call
from mesh.cli.output import make_console, outcome, print_json, print_table, print_value, share_width
from mesh.cli.peer import (
    Seconds,
    check_activity,
    check_duration,
    gateway_option,
    json_option,
    peer,
    version_option,
)
from mesh.context import activity, traced
from mesh.errors import CallError, NotFound
from mesh.wire.codec import is_activity_id, is_name
from mesh_telemetry import CODE_NAMES, Reason
from mesh_telemetry.logs import DIGITS, clean_line
from mesh_telemetry.texts import duration, further, shorten

if TYPE_CHECKING:
    from collections.abc import Container

    from rich.console import Console
    from rich.text import Text

    from mesh.client import Client

MOST = 1000
"""Traces that the gateway lists at once."""
PATIENCE = 2.0
"""Seconds to wait for all parts of the trace of a call that has just ended."""
POLL = 0.02
"""Seconds between two looks, as the gateway gathers for as long."""

FILTERS = ("service", "method", "code", "min_duration", "activity_id", "reason", "limit")
FIGURES = ("at gateway", "spans")
COLUMNS = ("began", "at gateway", "call", "code", "kept", "spans", "services", "trace")
SPARE = ("services", "trace", "spans", "began")
"""Columns that a narrow terminal does without, the first one first; of the trace's id, a part."""
GIVES_WAY = ("call", "services", "code")
"""Columns that may be shortened."""
LONGEST_CALL = 24
"""Characters of a call that are worth a column."""


@click.command(
    epilog=example(
        "mesh trace --service users --code not_found",
        "mesh trace 4bf92f",
        "mesh trace order-42",
        """mesh trace --call users get '{"user_id": "ada"}'""",
    )
)
@click.argument(
    "what", nargs=-1, metavar="[ID | --call SERVICE METHOD [PARAMS]]", shell_complete=complete_call
)
@click.option("--call", "makes_call", is_flag=True, help="Make a call, and show its trace.")
@click.option(
    "--timeout",
    type=Seconds(0, min_open=True),
    metavar="S",
    help="Seconds, of that call. [default: the contract's, else 30]",
)
@version_option
@click.option("--all", "whole", is_flag=True, help="Draw every span, also the gateway's.")
@click.option("--otlp", is_flag=True, help="Print the trace as OTLP's JSON.")
@click.option(
    "--service",
    metavar="NAME",
    help="Traces in which this service was called.",
    shell_complete=complete_service,
)
@click.option(
    "--method",
    metavar="NAME",
    help="Likewise: get, or users.get.",
    shell_complete=complete_method,
)
@click.option(
    "--code",
    type=click.Choice(CODE_NAMES, case_sensitive=False),
    metavar="CODE",
    help="How such a call ended: ok, not_found, ...",
)
@click.option(
    "--min-duration",
    metavar="S",
    callback=check_duration,
    help="What took so long at least: 0.5, 250ms.",
)
@click.option(
    "--activity",
    "activity_id",
    metavar="ID",
    callback=check_activity,
    help="Traces of this activity; with --call, the one to call on behalf of.",
)
@click.option(
    "--reason",
    type=click.Choice([str(reason) for reason in Reason], case_sensitive=False),
    metavar="WORD",
    help=f"Why it was kept: {', '.join(Reason)}.",
)
@click.option("--limit", type=click.IntRange(1, MOST), metavar="N", help="How many. [default: 50]")
@gateway_option
@json_option
def trace(
    *,
    what: tuple[str, ...],
    makes_call: bool,
    timeout: float | None,
    version: str | None,
    whole: bool,
    otlp: bool,
    gateway: str | None,
    as_json: bool,
    **filters: Any,
) -> None:
    """List the traces that the gateway has kept, or draw one of them.

    ID is a trace id, its first six digits or more, or a whole activity id: of several traces of one
    activity, the newest is drawn. The drawing has a line
    for each call: how long it took in all, in its own code and on the way, what was left of its
    deadline, and a bar; below it, where the time went. Many calls that are alike share a line, but
    not with --all. The list has the gateway's times, from a call's arrival there to its end. With
    --call it makes a call, checked like those of `mesh call`, keeps its trace and shows both; exits
    1 if the call failed.

    A +2 behind a call: its trace has two more entry calls, as where one W3C trace came in with all
    three. The time is then from the first start to the last end, the code the worst.

    A + behind the number of spans in the list: some are missing, or have yet to come.
    """
    given = {name: value for name, value in filters.items() if value is not None}
    if makes_call:
        service, method, params = _target(what)
        activity_id = given.pop("activity_id", None)
        _refuse(given, "--call")
        ended = run(
            _call, gateway, service, method, params,
            timeout=timeout, version=version, activity_id=activity_id,
            form="otlp" if otlp else "waterfall",
        )  # fmt: skip
        _show_call(ended, whole=whole, as_json=as_json, otlp=otlp)
        return
    if timeout is not None or version is not None:
        raise click.UsageError("--timeout and --version are for --call")
    if len(what) > 1:
        raise click.UsageError(f"one ID, not {len(what)}; to make a call, say --call")
    if what:
        _refuse(given, "an ID")
        told = run(ask_for, gateway, what[0], "otlp" if otlp else "waterfall")
        _show(told, whole=whole, as_json=as_json or otlp)
        return
    if whole or otlp:
        raise click.UsageError("--all and --otlp are for one trace: name its ID")
    found = run(ask, gateway, "traces", given)
    if as_json:
        print_json(found)
    elif found:
        _print_list(make_console(), found, given.get("reason", ""))
    else:
        click.echo("No trace is kept" + (" that fits all of it." if given else " yet."), err=True)


def _target(what: tuple[str, ...]) -> tuple[str, str, Any]:
    if len(what) not in {2, 3}:
        raise click.UsageError("--call wants SERVICE METHOD [PARAMS]")
    service, method, *params = what
    for kind, name in (("service", service), ("method", method)):
        if not is_name(name):
            raise click.UsageError(
                f"{name!r} is no {kind} name: it must begin with a letter or _, then letters, "
                "digits and _.-"
            )
    if service == BUILTIN:
        raise click.UsageError(
            f"calls of the gateway's own service {BUILTIN!r} have no trace; `mesh call {service} "
            f"{method}` makes one"
        )
    return service, method, read_params(params[0]) if params else None


def _refuse(given: dict[str, Any], beside: str) -> None:
    for name in given:
        option = "--activity" if name == "activity_id" else f"--{name.replace('_', '-')}"
        raise click.UsageError(f"{option} filters the list, and makes no sense beside {beside}")


async def ask(gateway: str | None, method: str, params: Any) -> Any:
    """Ask the gateway's own service."""
    async with peer(gateway) as client:
        return await client.call(BUILTIN, method, params)


async def ask_for(gateway: str | None, id_: str, form: str) -> Any:
    """One kept trace in this form; says on standard error where others have the same activity."""
    activity_id = id_.strip()
    same: list[dict[str, Any]] = []
    async with peer(gateway) as client:
        told = await client.call(BUILTIN, "trace", {"id": id_, "format": form})
        if is_activity_id(activity_id):
            wanted = {"activity_id": activity_id, "limit": MOST}
            same = await client.call(BUILTIN, "traces", wanted)
    if len(same) > 1 and told.get("summary", same[0])["trace_id"] == same[0]["trace_id"]:
        more = " or more" if len(same) == MOST else ""
        listed = f"mesh trace --activity {shlex.quote(activity_id)}"
        click.echo(
            f"the newest of {len(same):,}{more} traces of this activity; `{listed}` lists them",
            err=True,
        )
    return told


async def _call(
    gateway: str | None,
    service: str,
    method: str,
    params: Any,
    *,
    timeout: float | None,  # noqa: ASYNC109 - travels with the call
    version: str | None,
    activity_id: str | None,
    form: str,
) -> dict[str, Any]:
    result: Any = None
    error: CallError | None = None
    target = f"{service}.{method}"
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(peer(gateway, patience=timeout))
        try:
            made = await prepare_call(
                stack, client, gateway, service, method, params, timeout=timeout, version=version
            )
        except CallError as refused:  # it is not sent, and has no trace
            nothing = dict.fromkeys(("activity_id", "result", "trace"))
            return {"target": target, **nothing, "error": refused}
        with activity(activity_id) as its_activity, traced():
            # Also tells, before anything is done, whether this gateway keeps traces at all.
            earlier = await client.call(BUILTIN, "traces", {"activity_id": its_activity})
            try:
                result = await made.call(service, method, params, version)
            except CallError as failure:
                error = failure
        known = {one["trace_id"] for one in earlier}
        told = await wait_for(client, its_activity, known)
        if told is not None and form == "otlp":
            wanted = {"id": told["summary"]["trace_id"], "format": form}
            told = await client.call(BUILTIN, "trace", wanted)
    return {
        "target": target,
        "activity_id": its_activity,
        "result": result,
        "error": error,
        "trace": told,
    }


async def wait_for(client: Client, activity_id: str, known: Container[str] = ()) -> Any:
    """The trace of a call that has just ended, once it is complete or patience is over.

    Args:
        client: A peer of the gateway that keeps it.
        activity_id: Of the call.
        known: Ids of traces that this activity had before.

    Returns:
        What the method `mesh.trace` tells with the format ``waterfall``; None where none is kept.
    """
    told: Any = None
    wanted = {"id": activity_id, "format": "waterfall"}
    with trio.move_on_after(PATIENCE):
        while told is None or not told["summary"]["complete"]:
            try:
                newest = await client.call(BUILTIN, "trace", wanted)
            except NotFound:
                newest = None  # the gateway gathers what it keeps for a moment
            if newest is not None and newest["summary"]["trace_id"] not in known:
                told = newest
            await trio.sleep(POLL)
    return told


def _show_call(ended: dict[str, Any], *, whole: bool, as_json: bool, otlp: bool) -> None:
    error: CallError | None = ended["error"]
    told = ended["trace"]
    if told is None and ended["activity_id"] is not None:
        raise Failure(
            f"the gateway has not kept the trace of activity {ended['activity_id']}",
            "It keeps a few of those that are asked for per second (traces.quota).",
        )
    if otlp and told is not None:
        print_json(told)
    elif as_json:
        print_json({**ended, "error": describe(error) if error is not None else None})
    else:
        if error is None:
            print_value(make_console(), ended["result"])
        else:
            print_error(ended["target"], error)
        if told is not None:
            print()
            _show(told, whole=whole, as_json=False)
    if error is not None:
        raise click.exceptions.Exit(1)


def _show(told: Any, *, whole: bool, as_json: bool) -> None:
    if as_json:
        print_json(told)
        return
    from mesh.cli.waterfall import draw

    draw(make_console(), told, whole=whole)


def _print_list(console: Console, found: list[dict[str, Any]], asked: str = "") -> None:
    """Print a list; a reason that was asked for is shown beside the first one."""
    from rich.text import Text

    on_terminal = console.is_terminal
    found = sorted(found, key=lambda one: one["started"], reverse=True)
    rows: list[dict[str, str | Text]] = [
        {
            "began": one["started"][11:23] if on_terminal else one["started"],
            "at gateway": duration(one["duration_ms"] / 1e3)
            if one["duration_ms"] is not None
            else Text("running", style="yellow"),
            "call": clean_line(f"{one['caller']} > {one['service']}.{one['method']}")
            + further(one.get("entry_calls", 1))
            if one["method"]
            else "-",
            "code": outcome(one["code"]) if one["code"] else Text("running", style="yellow"),
            "kept": ", ".join(dict.fromkeys(filter(None, (one["reason"], asked)))),
            "spans": f"{one['spans']:,}" + ("" if one["complete"] else "+"),
            "services": clean_line(
                ",".join(name for name in one["services"] if name != one.get("gateway"))
            ),
            "trace": one["trace_id"],
        }
        for one in found
    ]
    columns, widths = fit(rows, console.width if on_terminal else None)
    cells = [[_shorten(name, row[name], widths[name]) for name in columns] for row in rows]
    print_table(console, columns, cells, figures=FIGURES)
    if on_terminal:
        some = found[0]["trace_id"][:DIGITS]
        console.print(Text(f"mesh trace {some} draws the first one", style="dim"))


def fit(
    rows: list[dict[str, str | Text]], width: int | None
) -> tuple[tuple[str, ...], dict[str, int]]:
    """The columns that a terminal has room for, and how wide they are; all where there is none."""
    wanted = {name: max(len(name), *(len(row[name]) for row in rows)) for name in COLUMNS}
    if width is None:
        return COLUMNS, wanted
    shown = list(COLUMNS)

    def room() -> int:
        """What is left for those that may be shortened."""
        return width - sum(wanted[name] + 2 for name in shown if name not in GIVES_WAY)

    for spare in SPARE:
        sharing = [name for name in GIVES_WAY if name in shown]
        least = sum(min(wanted[name], LONGEST_CALL) + 2 for name in sharing)
        if room() < least and spare == "trace":
            wanted[spare] = DIGITS
        elif room() < least:
            shown.remove(spare)
    sharing = [name for name in GIVES_WAY if name in shown]
    shared = share_width({name: wanted[name] for name in sharing}, room() - 2 * len(sharing))
    return tuple(shown), wanted | shared


def _shorten(column: str, cell: str | Text, width: int) -> str | Text:
    from rich.text import Text

    if len(cell) <= width:
        return cell
    if column == "trace":
        return cell[:width]  # its first digits stand for all of it
    style = cell.style if isinstance(cell, Text) else ""
    return Text(shorten(str(cell), width), style=style)
