"""Trying a benchmark out: every part of it still works; what it measures is not looked at."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def check_part(script: Path, part: str, row: str) -> None:
    """A part runs in small and prints a line that begins so."""
    ended = subprocess.run(
        [sys.executable, str(script), "--rounds", "1", "--tiny", "--only", part],
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


def check_all_tried(script: Path, test: Any) -> None:
    """The cases of this test are all parts that there are."""
    text = script.read_text()
    parts = text[text.index("PARTS = {") :].partition("}")[0]
    assert parts.count("_part,") == len(test.pytestmark[0].args[1])
