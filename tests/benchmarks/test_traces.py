"""Every part of `traces.py` still works; what it measures is not looked at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("traces.py")


@pytest.mark.parametrize(
    ("part", "row"),
    [
        ("tax", "| concurrency 64: calls per second, ratio | "),
        ("load", "| 50 calls/s of depth 3: traces complete, of calls made | 10 of 10 |"),
        ("export", "| 2,000 spans/s kept: spans exported, of those made | 400 of 400 |"),
        ("memory", "| peer memory for each row, bytes | "),
    ],
)
def test_every_part_measures_something(part: str, row: str) -> None:
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), "--rounds", "1", "--tiny", "--only", part],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
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
