"""How services are listed on a terminal."""

from __future__ import annotations

import pytest
from rich.console import Console

from mesh.cli import listing

INSTANCE = "a-host-of-some-length-123456-0a1b2c3d"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_what_is_copied_stays_in_one_line_where_there_is_room(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the names of methods are told at every width."""
    console = Console(force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr(listing, "make_console", lambda: console)
    service = {
        "name": "payments",
        "methods": [f"charge_{number}" for number in range(12)],
        "instances": [
            {
                "process_id": INSTANCE,
                "state": "healthy",
                "version": "1.2.0",
                "in_flight": 3,
                "connected_s": 61.0,
            }
        ],
    }
    with console.capture() as printed:
        listing._print([service])
    lines = printed.get().splitlines()
    assert sum(INSTANCE in line for line in lines) == (width >= 80)
    assert sum(line.count("charge_") for line in lines) == 12
    assert ("CONNECTED" in lines[0]) == (width == 200)
    assert sum("1.2.0" in line for line in lines) == (width == 200)
    assert max(map(len, lines)) <= width
