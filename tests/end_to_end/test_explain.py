"""`mesh explain` of every order of the demo that fails, each in another way."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.end_to_end.test_demo import make_folder, read_until, start_demo

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["make_folder"]

INSTANCE = r"\(from {} \([\w-]+\)\)"
TOLD = {
    "order-006": [
        r"users.get .*failed: USER_NOT_FOUND: There is no user 'nobody'\. "
        + INSTANCE.format("users")
    ],
    "order-013": [r"failed: OUT_OF_STOCK: 5 of typewriter wanted, .* \(from inventory"],
    "order-027": [r"failed: CARD_DECLINED: The bank declined .* \(from payments"],
    "order-034": [
        r"out of time: orders.place was allowed 300.0 ms; it may have run \[timeout = 0.3s\]",
        r"payments.charge .*the deadline of orders.place \(300.0 ms, set by customers\)",
        r"trace kept: a call in it (failed|was cancelled)",
    ],
    "order-041": [
        r"refused: visit 4 of inventory.reserve exceeds max_visits 3; .* \[limits.max_visits = 3\]",
        r"trace kept: a call in it was refused \(inventory.reserve\); .* \[traces.quota = 10/s\]",
    ],
    "order-048": [
        r"failed: BLOCKED: The account of mallory is blocked\. " + INSTANCE.format("users")
    ],
    "order-055": [
        r"failed: the connection to payments \([\w-]+\), which served payments.charge, was lost"
    ],
    "order-074": [r"failed: UNDECODABLE: .*" + INSTANCE.format("orders")],
    "order-081": [r"failed: ValueError: .*" + INSTANCE.format("payments")],
}
AFTER = [r"waited [\d.]+ m?s for payments \(it had .* \[limits.service_wait = 5s\]"]
"""What an order has waited for that came while payments was gone."""


def explain(address: str, order: str) -> str:
    """What the command prints, in one line."""
    result = subprocess.run(
        [sys.executable, "-m", "mesh.cli", "explain", order, "--gateway", address],
        env={**os.environ, "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return " ".join(result.stdout.split())


def test_every_way_to_fail_of_the_demo_is_explained(folder: Path) -> None:
    with start_demo(folder) as demo:
        output = read_until(demo, "Ctrl-C closes it.")
        address = re.findall(r"MESH_GATEWAY=(\S+)", output)[-1]
        for question in ("explain order-", "tap ", "top ", "edges "):
            assert f"mesh {question}" in output
        for order, patterns in TOLD.items():
            told = explain(address, order)
            for pattern in [*patterns, rf"activity {order}\b", r"only instance of orders"]:
                assert re.search(pattern, told), f"{order}: {pattern} in {told}"
        later = [explain(address, f"order-{number:03}") for number in range(56, 60)]
        assert any(re.search(AFTER[0], told) for told in later), later
