"""Every part of `scale.py` still works; what it measures is not looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.smoke import check_all_tried, check_part

SCRIPT = Path(__file__).with_name("scale.py")


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
    check_part(SCRIPT, part, row)


def test_there_is_no_part_without_a_test() -> None:
    check_all_tried(SCRIPT, test_every_part_measures_something)
