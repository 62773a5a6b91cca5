"""A caller as a process: calls without end, until it is killed.

Arguments: the gateway's address, a prefix for ids. Prints `ready` once its first call is answered.
"""

from __future__ import annotations

import sys

import trio

import mesh


async def main() -> None:
    """Keep eight calls in flight."""
    async with mesh.connect("busy", gateway=sys.argv[1], connect_timeout=20) as client:
        answered = 0

        async def loop(number: int) -> None:
            nonlocal answered
            count = 0
            while True:
                count += 1
                method = ("through", "do")[count % 2]
                service = "front" if method == "through" else "work"
                params = {"id": f"{sys.argv[2]}-{number}-{count}", "pause": 0.002}
                try:
                    await client.call(service, method, params, timeout=5)
                except mesh.CallError:
                    continue
                answered += 1
                if answered == 1:
                    print("ready", flush=True)

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(loop, number)


if __name__ == "__main__":
    trio.run(main)
