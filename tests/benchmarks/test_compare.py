"""`compare.py` still measures what it is to compare; the figures are not looked at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("compare.py")


def test_plain_calls_and_stubs_are_compared_with_the_bare_hub_in_one_run() -> None:
    command = [sys.executable, str(SCRIPT), "--bare-hub", "--rounds", "1", "--calls", "100"]
    run = subprocess.run(
        [*command, "--concurrency", "4"], capture_output=True, text=True, timeout=120, check=True
    )
    titles, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in run.stdout.splitlines()
    ]
    assert titles[2:] == [
        *("bare hub", "spanmesh", "to the hub", "spanmesh, stub", "to the hub", "to plain calls"),
    ]
    assert [row[:2] for row in rows] == [
        ["4", "calls per second"],
        ["4", "p50, us"],
        ["4", "gateway CPU per call, us"],
        ["4", "caller CPU per call, us"],
        ["4", "service CPU per call, us"],
    ]
    for row in rows:
        assert len(row) == len(titles)
        beside = (2, 4, 6) if row[1].startswith(("caller", "service")) else ()
        for at, cell in enumerate(row[2:], 2):  # the bare hub does not tell all
            assert not cell if at in beside else float(cell.split()[0].replace(",", "")) > 0
