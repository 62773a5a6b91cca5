"""What the demo shows while it runs: a bar and lines on a terminal, lines in a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from mesh.cli.output import outcome
from mesh.cli.waterfall import signs_of
from mesh_telemetry.logs import clean
from mesh_telemetry.texts import duration

if TYPE_CHECKING:
    from rich.console import Console

    from mesh.cli.demo.orders import Played

EVERY = 20
"""Orders between two lines about the progress, where there is no bar."""


class Screen:
    """Prints what happens. It is a context manager, since a bar must be taken away in the end.

    Args:
        console: Where to.
        total: How many orders will be played.
        quiet: Whether to print nothing at all, for `--json`.
    """

    def __init__(self, console: Console, total: int, *, quiet: bool) -> None:
        self._console = console
        self._total = total
        self._quiet = quiet
        self._signs = signs_of(console)
        self._played = 0
        self._good = 0
        self._progress = Progress(
            TextColumn("  orders"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._progress.add_task("orders", total=total, start=True)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def line(self, *parts: str | tuple[str, str]) -> None:
        """Print one line, above the bar if there is one."""
        if not self._quiet:
            self._progress.console.print(Text.assemble(*parts), soft_wrap=True)

    def title(self, text: str) -> None:
        """Begin a new part."""
        self.line("")
        self.line((text, "bold"))

    def started(self, name: str, pid: int, about: str) -> None:
        """A process is ready."""
        self.line(
            (f"  {self._signs.good} ", "green"),
            (f"{name:<11}", "bold cyan"),
            (f"process {pid:<8} ", "dim"),
            clean(about),
        )

    def ended(self, played: Played) -> None:
        """An order has ended. Those that go well are only counted."""
        self._played += 1
        self._good += played.as_expected
        self._progress.update(self._task, completed=self._played)
        if not played.as_expected or played.outcome.code != "ok":
            self._show(played)
        if self._progress.disable and (self._played % EVERY == 0 or self._played == self._total):
            self.line(
                f"  {self._played} of {self._total} orders played, {self._good} ended as expected"
            )

    def _show(self, played: Played) -> None:
        good = played.as_expected
        how = outcome(played.outcome.code, played.outcome.reason)
        how.pad_right(max(0, 33 - len(how)))
        self.line(
            (
                f"  {self._signs.good} " if good else f"  {self._signs.bad} ",
                "green" if good else "red",
            ),
            f"{played.order.id}  ",
            (how.plain, "yellow" if good else "red"),
            (f"  {played.order.about}", "dim"),
        )
        if not good:
            message = clean(played.message) or "it went well"
            self.line(f"    expected {played.order.expect}, but: {message}")

    def happened(self, name: str, event: str, details: dict[str, Any], in_flight: int) -> None:
        """A process died, or is back."""
        if event == "died":
            self.line(
                ("  ! ", "bold red"), (name, "bold cyan"), f" died of {details['by']} ",
                (f"(process {details['pid']})", "dim"), "; it is being restarted",
            )  # fmt: skip
        elif event == "back":
            waiting = f"; {in_flight} orders waited for it" if in_flight else ""
            self.line(
                (f"  {self._signs.good} ", "green"), (name, "bold cyan"),
                f" is back after {duration(details['away_s'])} ",
                (f"(process {details['pid']})", "dim"), waiting,
            )  # fmt: skip
