"""Burn rates just below and just above what each pair of windows allows, worked out by hand.

Of the calls, 99.9 % shall not fail, so that 0.1 % may. Of 10,000 calls a minute as many fail as
each case says, such that no pair of windows but its own can exceed its burn rate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mesh_dashboards.burning import burning
from mesh_dashboards.promql import DEFAULT
from tests.dashboards.series import CALLS, PROMISES, run, values

if TYPE_CHECKING:
    from pathlib import Path

OK, INTERNAL = f'{CALLS}, code="ok"}}', f'{CALLS}, code="internal"}}'
GROUPS = burning(PROMISES, DEFAULT)


def burn(alert: str, clean: int, volume: int, failed: int, minutes: int) -> dict[str, Any]:
    """A test in which some of 10,000 calls a minute fail, after a time in which none did.

    Args:
        alert: What is to fire, or not.
        clean: For how many minutes none failed.
        volume: How many calls a minute there were in these.
        failed: How many fail then.
        minutes: For how long, before it is looked.
    """
    before, good, length = clean * volume, 10_000 - failed, minutes + 10
    series = {
        OK: f"0+{volume}x{clean} {before + good}+{good}x{length}",
        INTERNAL: f"0x{clean} {failed}+{failed}x{length}",
    }
    firing = f'ALERTS{{alertname="{alert}", alertstate="firing", slo="success"}} or vector(0)'
    return values(
        f"{alert} {failed}",
        series,
        (firing, clean + minutes, 0),
        ('mesh:slo_errors:ratio_rate5m{slo="success"}', clean + minutes, failed / 10_000),
    )


@pytest.mark.parametrize(
    ("alert", "clean", "volume", "allowed", "minutes", "interval"),
    [
        # 14.4 * 0.1 % are 144 of 10,000 within 5m and 1h; of 6h, 70 minutes are 0.28 % < 0.6 %.
        ("MeshObjectiveBurnsFast", 360, 10_000, 144, 70, "1m"),
        # 6 * 0.1 % are 60 within 30m and 6h, less than 144.
        ("MeshObjectiveBurnsFast", 60, 10_000, 60, 370, "1m"),
        # 3 * 0.1 % are 30 within 2h and 1d; of 3d, with 2 of 20,000 a minute, 0.06 % < 0.1 %.
        ("MeshObjectiveBurnsSlowly", 2880, 20_000, 30, 1450, "5m"),
        # 0.1 % are 10 within 6h and 3d, less than 30.
        ("MeshObjectiveBurnsSlowly", 60, 10_000, 10, 4330, "5m"),
    ],
    ids=["14.4 over 1h", "6 over 6h", "3 over 1d", "1 over 3d"],
)
def test_each_pair_of_windows_fires_above_its_burn_rate_and_not_below(
    tmp_path: Path, alert: str, clean: int, volume: int, allowed: int, minutes: int, interval: str
) -> None:
    below = burn(alert, clean, volume, allowed - 1, minutes)
    above = burn(alert, clean, volume, allowed + 1, minutes)
    above["promql_expr_test"][0]["exp_samples"][0]["value"] = 1
    run(tmp_path, [below, above], GROUPS, interval=interval)


def test_the_budget_is_of_thirty_days(tmp_path: Path) -> None:
    """A day of 0.05 % and one of none: a quarter of the budget is spent, and none of today's."""
    day = 24 * 60
    series = {
        OK: f"0+9995x{day} {9995 * day + 10_000}+10000x{day}",
        INTERNAL: f"0+5x{day} {5 * day}x{day}",
    }
    asked = (
        ('mesh:slo_errors:ratio_rate1d{slo="success"}', 2 * day, 0),
        ('mesh:slo_errors:ratio_rate30d{slo="success"} * 100', 2 * day, 0.025),
        ('mesh:slo_budget_left:ratio{slo="success"}', 2 * day, 0.75),
    )
    run(tmp_path, [values("budget", series, *asked)], GROUPS, interval="5m")
