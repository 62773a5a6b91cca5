"""One process of the shop: `python -m shop users`, `payments`, `orders` or `customers`.

``SHOP_METRICS`` is the ``HOST:PORT`` where it serves its own metrics, ``SHOP_METRICS_TOKEN_FILE``
what scrapers must show there. The gateway is where ``MESH_GATEWAY`` says.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import trio

import mesh
from shop.customers import visit
from shop.services import OrderService, PaymentService, UserService

SERVICES = {"users": UserService, "payments": PaymentService, "orders": OrderService}


def main(name: str) -> None:
    """Be one of the services, or the customers."""
    mesh.logs.configure()
    metrics = os.environ.get("SHOP_METRICS")
    file = os.environ.get("SHOP_METRICS_TOKEN_FILE")
    token = Path(file).read_text().strip() if file else None
    if name == "customers":
        trio.run(visit, metrics, token)
    else:
        mesh.run(SERVICES[name], metrics=metrics, metrics_token=token)


if __name__ == "__main__":
    main(sys.argv[1])
