"""Every part of `traces.py` still works; what it measures is not looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.smoke import check_all_tried, check_part

SCRIPT = Path(__file__).with_name("traces.py")


@pytest.mark.parametrize(
    ("part", "row"),
    [
        ("tax", "| concurrency 64: calls per second, ratio | "),
        ("load", "| 50 calls/s of depth 3: traces complete, of calls made | 10 of 10 |"),
        ("export", "| 2,000 spans/s kept: spans exported, of those made | 400 of 400 |"),
        ("tap", "| mesh tap --json: calls per second, ratio | "),
        ("memory", "| peer memory for each row, bytes | "),
    ],
)
def test_every_part_measures_something(part: str, row: str) -> None:
    check_part(SCRIPT, part, row)


def test_there_is_no_part_without_a_test() -> None:
    check_all_tried(SCRIPT, test_every_part_measures_something)
