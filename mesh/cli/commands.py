"""Which commands there are, and what all of them share.

A command is a `click.Command` in a module of its own and one line in :data:`COMMANDS`. Its failures
become one or two clear lines and an exit status here, so that no command has to catch anything.
"""

from __future__ import annotations

import difflib
import logging
import os
import sys
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from mesh.cli.failures import INTERRUPTED, explain
from mesh.errors import MeshError

if TYPE_CHECKING:
    from collections.abc import Callable


class Entry(NamedTuple):
    """Where a command is, and its line in ``mesh --help``."""

    source: str
    """``package.module:attribute``, imported when the command is asked for."""
    summary: str


COMMANDS: dict[str, Entry] = {
    "gateway": Entry("mesh.cli.gateway:gateway", "Run the gateway that services meet at."),
    "demo": Entry("mesh.cli.demo:demo", "Play a small shop and show what the mesh saw."),
    "list": Entry("mesh.cli.listing:list_services", "List services, methods and instances."),
    "info": Entry("mesh.cli.info:info", "Show one service: methods, instances, callers."),
    "ping": Entry("mesh.cli.ping:ping", "Measure round trips to the gateway or a service."),
    "call": Entry("mesh.cli.call:call", "Call a method and print its result."),
    "trace": Entry("mesh.cli.trace:trace", "Show where the time of a call went, hop by hop."),
    "explain": Entry("mesh.cli.explain:explain", "Say what was decided for a call, and why."),
    "tap": Entry("mesh.cli.tap:tap", "Watch calls as they end, one line each."),
    "stat": Entry("mesh.cli.stat:stat", "Watch rates, errors and latencies of every method."),
    "top": Entry("mesh.cli.top:top", "Watch the methods with most calls, errors, latency or time."),
    "edges": Entry("mesh.cli.edges:edges", "Show who calls whom: rates, errors, latencies."),
    "changes": Entry("mesh.cli.changes:changes", "Show what came, went and changed, newest last."),
    "check": Entry("mesh.cli.check:check", "Say what is not in order, and what to do about it."),
    "drain": Entry("mesh.cli.drain:drain", "Have the gateway end without losing a call."),
    "dashboards": Entry(
        "mesh.cli.dashboards.command:dashboards", "Make rules for Prometheus; show runbooks."
    ),
    "bench": Entry("mesh.cli.bench.command:bench", "Measure a mesh: speed, latency, CPU per call."),
}
"""All commands in the order of ``mesh --help``."""


def example(*lines: str) -> str:
    """An epilog for a command's help, which click leaves unwrapped."""
    return "\b\n" + "\n".join(["Examples:" if len(lines) > 1 else "Example:", *lines]).replace(
        "\n", "\n  "
    )


class Commands(click.Group):
    """The group of all commands, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - likewise
        """A command by its name, imported now."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.source.partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)  # noqa: S101 - a line of the table is wrong
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands and options that begin so, without importing any of them."""
        own = [
            CompletionItem(name, help=entry.summary)
            for name, entry in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*own, *click.Command.shell_complete(self, ctx, incomplete)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments name, or an error that knows the nearest one."""
        name = args[0]
        if ctx.resilient_parsing:
            return super().resolve_command(ctx, args)  # a shell completes, and wants no errors
        if name not in COMMANDS and not name.startswith("-"):
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(COMMANDS)}"
            raise click.UsageError(f"no command {name!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - likewise
        """List the commands by their summaries, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and say what went wrong in its place."""
        _open_missing_streams()
        # What the library warns of is told by the command's own outcome. Those that are servers
        # set up a log of their own, which this does not silence.
        logging.getLogger("mesh").addHandler(logging.NullHandler())
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(INTERRUPTED) from None
        except (MeshError, OSError) as fault:
            failure = explain(fault)
            if failure is None:
                raise
            raise failure from fault


def _open_missing_streams() -> None:
    """Put nothing where whoever started the command closed a standard stream (``>&-``).

    Python has None there, and the next file or socket that is opened gets the stream's number.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != number:
                os.dup2(nothing, number)
                os.close(nothing)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def run(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Run an async function in a trio loop of its own; failures come as they were raised inside."""
    import trio  # `mesh --help` needs no loop

    from mesh.groups import single_exception

    with single_exception():
        return trio.run(partial(function, *arguments, **options))
