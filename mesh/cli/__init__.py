"""The command `mesh`.

This room imports little, so that `mesh --help` answers at once: a command's module is imported when
that command is asked for, and is named in :data:`mesh.cli.commands.COMMANDS`.
"""

from __future__ import annotations

import click

from mesh._version import __version__
from mesh.cli.commands import Commands, example

__all__ = ["main"]


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=example("mesh demo", "mesh COMMAND --help"),
)
@click.version_option(__version__, prog_name="mesh", message="%(prog)s %(version)s")
def main() -> None:
    """An observability-first RPC mesh: services call each other through a gateway."""
