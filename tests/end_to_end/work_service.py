"""A service as a process: notes each execution in a file before it does anything else.

Arguments: the gateway's address, the file, the service's name. Prints `ready` once it is served.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Any

import trio

import mesh


async def work(client: mesh.Client) -> None:
    """Register, and tell when the gateway knows."""
    executed = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    name = sys.argv[3]

    def note(params: dict[str, Any]) -> None:
        os.write(executed, f"{name} {params['id']}\n".encode())

    async def do(params: dict[str, Any]) -> str:
        note(params)
        await trio.sleep(params.get("pause", 0))
        return f"done {params['id']}"

    async def big(params: dict[str, Any]) -> bytes:
        note(params)
        return bytes(params["size"])

    async def through(params: dict[str, Any]) -> Any:
        note(params)
        return await client.call("work", "do", params)

    def in_thread(params: dict[str, Any]) -> str:
        note(params)
        time.sleep(params.get("pause", 0))
        return f"done {params['id']}"

    for method in (do, big, through, in_thread):
        client.register(method.__name__, method, service=name)
    while True:
        try:
            await client.call("mesh", "status")
        except mesh.CallError:
            continue
        print("ready", flush=True)
        return


if __name__ == "__main__":
    logging.basicConfig(level="INFO")
    mesh.run(work, name=sys.argv[3], gateway=sys.argv[1])
