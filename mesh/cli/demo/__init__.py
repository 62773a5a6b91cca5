"""`mesh demo`: a shop of four services on a real gateway, and what the mesh saw of it."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import trio

from mesh.cli.commands import example, run
from mesh.cli.demo.orders import Played, load, unexpected
from mesh.cli.demo.play import AT_A_TIME, Player, ask
from mesh.cli.demo.processes import GATEWAY, Processes, open_processes
from mesh.cli.demo.report import describe, print_methods, slowest, telling_failure
from mesh.cli.demo.screen import Screen
from mesh.cli.output import make_console, print_json, to_json
from mesh.cli.peer import json_option, peer
from mesh.cli.trace import wait_for
from mesh.cli.waterfall import draw
from mesh.environment import forget_settings
from mesh.units import tell_seconds
from mesh_telemetry.texts import duration

SERVICES = {
    "users": "who the customers are",
    "inventory": "what is on the shelves",
    "payments": "the way to the bank",
    "orders": "what customers talk to",
}

Shown = tuple[str, Played, Any]
"""What is special about an order, the order, and its trace."""


@click.command(epilog=example("mesh demo", "mesh demo --once --json"))
@click.option(
    "--once",
    is_flag=True,
    help="End after the report; exit 0 only if every order ended as it must.",
)
@click.option(
    "--orders", "count", type=click.IntRange(1), metavar="N", help="Play only the first N orders."
)
@json_option
def demo(*, once: bool, count: int | None, as_json: bool) -> None:
    """Play a small shop: a gateway, four services, some hundred orders.

    All of them are processes of their own. Some orders must fail, each in another way, and one of
    the services is killed at work. Then the mesh shows what it saw of it, and stays up for you to
    look around until Ctrl-C.
    """
    show = Demo(once=once, count=count, as_json=as_json)
    forget_settings()  # the demo is the same everywhere
    run(show.run)
    if show.stopped_by is not None:
        raise click.exceptions.Exit(128 + show.stopped_by)
    if unexpected(show.played):
        raise click.exceptions.Exit(1)


class Demo:
    """One run of the demo."""

    def __init__(self, *, once: bool, count: int | None, as_json: bool) -> None:
        self._once = once
        self._as_json = as_json
        self._orders = load()[:count]
        self._console = make_console()
        self._screen = Screen(self._console, len(self._orders), quiet=as_json)
        self._player = Player(self._screen.ended)
        self._started = time.monotonic()
        self._is_over = False
        self.played: list[Played] = []
        self.stopped_by: int | None = None
        """The signal that ended the demo before its report."""

    async def run(self) -> None:
        """Run until the end, or until a signal; nothing is left behind."""
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as received:
            async with trio.open_nursery() as nursery:
                scope = trio.CancelScope()
                processes: Processes | None = None

                async def watch() -> None:
                    async for number in received:
                        if scope.cancel_called and processes is not None:
                            processes.kill_all()
                        elif not self._is_over:
                            self.stopped_by = number
                        scope.cancel()

                nursery.start_soon(watch)
                # The path of a Unix socket has a limit of 107 bytes, and some temporary
                # directories are longer than that by themselves.
                where = tempfile.gettempdir() if len(tempfile.gettempdir()) < 70 else "/tmp"  # noqa: S108
                with tempfile.TemporaryDirectory(
                    prefix="mesh-demo-", dir=where, ignore_cleanup_errors=True
                ) as directory:
                    async with open_processes(Path(directory), self._happened) as processes:
                        with scope:
                            await self._show(processes, f"unix:{directory}/mesh.sock")
                nursery.cancel_scope.cancel()

    def _happened(self, name: str, event: str, details: dict[str, Any]) -> None:
        if event == "waiting_for_bank":
            self._player.reached_bank(details["activity"])
        else:
            self._screen.happened(name, event, details, self._player.in_flight)

    async def _show(self, processes: Processes, address: str) -> None:
        metrics = await self._open_shop(processes)
        async with peer(address, "customers") as client:
            with self._screen:
                self._screen.title(f"{len(self._orders)} orders, {AT_A_TIME} at a time")
                self.played = await self._player.play(client, processes, self._orders)
            methods = await ask(client, "stats")
            shown = {
                "The slowest order": slowest(self.played),
                "An order that failed": telling_failure(self.played),
            }
            traces = [
                (title, one, await wait_for(client, one.order.id))
                for title, one in shown.items()
                if one is not None
            ]
        if self._as_json:
            self._print_json(address, metrics, traces, methods)
        else:
            self._print_report(metrics, methods)
            self._print_traces(traces)
        self._is_over = True
        if not self._once:
            if not self._as_json:
                self._invite(processes, address, metrics)
            await trio.sleep_forever()

    async def _open_shop(self, processes: Processes) -> str:
        self._screen.line(("A small shop, each part of it a process of its own", "bold"))
        gateway = await processes.start(GATEWAY)
        self._screen.started(GATEWAY, gateway.process.pid, gateway.details["addresses"][0])

        async def start(name: str, about: str) -> None:
            child = await processes.start(name)
            methods = ", ".join(child.details["methods"])
            self._screen.started(name, child.process.pid, f"{about}: {methods}")

        async with trio.open_nursery() as nursery:
            for name, about in SERVICES.items():
                nursery.start_soon(start, name, about)
        return str(gateway.details["metrics"])

    def _print_report(self, metrics: str, methods: list[dict[str, Any]]) -> None:
        screen, wrong = self._screen, unexpected(self.played)
        screen.title("What the mesh saw, with no line of instrumentation in the shop")
        screen.line("")
        print_methods(self._console, methods)
        screen.line("")
        screen.line(("Metrics  ", "bold"), metrics)
        screen.line("")
        took = duration(time.monotonic() - self._started)
        if not wrong:
            failed = sum(one.outcome.code != "ok" for one in self.played)
            screen.line(
                (f"All {len(self.played)} orders ended as they must", "bold green"),
                f", {failed} of them in failure; the whole took {took}",
            )
            return
        screen.line((f"{len(wrong)} of {len(self.played)} orders ended otherwise:", "bold red"))
        for one in wrong:
            screen.line(f"  {one.order.id}: {one.outcome} instead of {one.order.expect}")

    def _print_traces(self, traces: list[Shown]) -> None:
        for title, one, told in traces:
            self._screen.title(f"{title}: {describe(one)}")
            if told is None:
                self._screen.line("  its trace has not been kept")
            else:
                draw(self._console, told)

    def _invite(self, processes: Processes, address: str, metrics: str) -> None:
        order = {"user": "tu", "lines": [{"sku": "mug", "quantity": 1}], "card": "1"}
        screen, failed = self._screen, telling_failure(self.played)
        screen.title("The shop stays open. Look around from another terminal:")
        mesh = "mesh" if shutil.which("mesh") else str(Path(sys.executable).with_name("mesh"))
        for command in (
            f"export MESH_GATEWAY={address}",
            f"{mesh} trace    # what was kept",
            f"{mesh} trace --call orders place '{to_json(order)}'",
            *([f"{mesh} explain {failed.order.id}    # why it failed"] if failed else []),
            f"{mesh} tap    # calls as they end",
            f"{mesh} top    # who is slow, who fails",
            f"{mesh} edges    # who calls whom",
            f"curl {metrics}",
            f"kill -9 {processes.pid('payments')}    # it comes back",
        ):
            screen.line(("  $ ", "dim"), command)
        screen.title("Ctrl-C closes it.")

    def _print_json(
        self,
        address: str,
        metrics: str,
        traces: list[Shown],
        methods: list[dict[str, Any]],
    ) -> None:
        wrong = unexpected(self.played)
        print_json(
            {
                "ok": not wrong,
                "orders": [one.describe() for one in self.played],
                "unexpected": [one.order.id for one in wrong],
                "traces": {one.order.id: told for _, one, told in traces},
                "methods": methods,
                "gateway": address,
                "metrics": metrics,
                "duration_s": tell_seconds(time.monotonic() - self._started),
            }
        )
