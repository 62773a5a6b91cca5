"""A process that dies at a chosen moment of a call.

Arguments: the gateway's address, and what it is. A `service` prints `ready` once it is served; its
method `die` answers and is killed before it can be asked for spans, `wait` takes a while. A
`caller` calls `work.get` once, and then `dies` or `leaves`.
"""

from __future__ import annotations

import os
import signal
import sys

import trio

import mesh


async def serve() -> None:
    """Serve until the end."""
    async with mesh.connect("work", gateway=sys.argv[1]) as client, trio.open_nursery() as nursery:

        async def get() -> str:
            return "got"

        async def wait() -> str:
            await trio.sleep(60)
            return "waited"

        async def die() -> str:
            async def soon() -> None:
                await trio.sleep(0.005)  # the answer has left; KEEP comes 20 ms after it
                os.kill(os.getpid(), signal.SIGKILL)

            nursery.start_soon(soon)
            return "dying"

        client.register("get", get)
        client.register("wait", wait)
        client.register("die", die)
        await client.call("mesh", "status")
        print("ready", flush=True)
        await trio.sleep_forever()


async def call() -> None:
    """Call once."""
    async with mesh.connect("short", gateway=sys.argv[1]) as client:
        await client.call("work", "get")
        if sys.argv[3] == "dies":
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    trio.run(serve if sys.argv[2] == "service" else call)
