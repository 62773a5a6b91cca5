"""The service `orders`, which calls `users`."""

import os
from pathlib import Path

import mesh


def orders(client: mesh.Client) -> None:
    """Serve what customers talk to."""

    @client.method("place")
    async def place(params: dict[str, str]) -> dict[str, str]:
        user = await client.call("users", "get", {"user_id": params["user_id"]})
        return {"for": user["name"]}


mesh.logs.configure()
token = Path(os.environ["METRICS_TOKEN_FILE"]).read_text().strip()
mesh.run(orders, metrics=os.environ["METRICS"], metrics_token=token)
