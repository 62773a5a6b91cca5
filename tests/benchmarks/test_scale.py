"""Every part of `scale.py` still works; what it measures is not looked at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("scale.py")


def scale(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--rounds", "1", "--tiny", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize(
    ("part", "row"),
    [
        ("services", "| gateway CPU per call, us, 3 services registered, all called | "),
        ("connections", "| memory per connection in the gateway, KB, 3 idle connections | "),
        ("scrape", "| throughput lost, %, by a scrape each second "),
        ("payload", "| 0.0954 MiB echoed, concurrency 8, MiB/s each way: spanmesh | "),
        ("unread", "| afterwards, MB, a consumer that does not read | "),
        ("flood", "| calls taken from it in 0.05 s | "),
    ],
)
def test_every_part_measures_something(part: str, row: str) -> None:
    ended = scale("--only", part)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    heading, *lines = ended.stdout.splitlines()
    assert heading == "| what | figure |"
    assert any(line.startswith(row) for line in lines), lines


def test_there_is_no_part_without_a_test() -> None:
    text = SCRIPT.read_text()
    parts = text[text.index("PARTS = {") :].partition("}")[0]
    marks = getattr(test_every_part_measures_something, "pytestmark", [])
    assert parts.count("_part,") == len(marks[0].args[1])
