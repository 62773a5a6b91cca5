"""The service `users`, which others call."""

import os
from pathlib import Path

import mesh


def users(client: mesh.Client) -> None:
    """Serve who the customers are."""

    @client.method("get")
    async def get(params: dict[str, str]) -> dict[str, str]:
        return {"id": params["user_id"], "name": "Ada"}


mesh.logs.configure()
token = Path(os.environ["METRICS_TOKEN_FILE"]).read_text().strip()
mesh.run(users, metrics=os.environ["METRICS"], metrics_token=token)
