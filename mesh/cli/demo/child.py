"""One process of the demo: `python -m mesh.cli.demo.child NAME DIRECTORY`.

However the demo ends, also by SIGKILL, the kernel closes its end of this process's standard input.
That is what ties the two: at the end of the input this process removes what the demo left and ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading

KEEP_ALL = ("--traces-baseline", "1000", "--traces-max-spans-per-second", "20000")
"""The demo has more orders a second than a gateway keeps by default, and shows the slowest."""


def tie_to_parent(directory: str) -> None:
    """End with the process at the other end of standard input, and leave nothing behind."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        shutil.rmtree(directory, ignore_errors=True)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def main(name: str, directory: str) -> None:
    """Be the gateway or one of the services."""
    tie_to_parent(directory)
    address = f"unix:{directory}/mesh.sock"
    if name == "gateway":
        from mesh.cli import main as command  # the services need none of it

        command([
            *("gateway", "--json", "--listen", address, "--admin", "127.0.0.1:0"),
            *KEEP_ALL,
        ])  # fmt: skip
    else:
        from mesh.cli.demo.shop import serve

        serve(name, address)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
