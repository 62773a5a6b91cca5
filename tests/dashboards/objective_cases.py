"""What the alerts of objectives are tried with, and when they must fire."""

from __future__ import annotations

from tests.dashboards.series import CALLS, DURATION, IS_UP, OF_METHOD, Case

FAST_CASES = (
    # A tenth of all calls fails, or half of them take too long, for an hour.
    Case(
        "MeshObjectiveBurnsFast",
        {
            **IS_UP,
            f'{CALLS}, code="ok"}}': "0+90x600",
            f'{CALLS}, code="not_found"}}': "0+90x600",  # an answer
            f'{CALLS}, code="unavailable"}}': "0x120 0+20x60 1200x400",
        },
        121,
        140,
        220,
        {**OF_METHOD, "slo": "success"},
        "10%",
    ),
    Case(
        "MeshObjectiveBurnsFast",
        {
            **IS_UP,
            f"mesh_call_duration_seconds_count{DURATION}}}": "0+100x600",
            f'mesh_call_duration_seconds_bucket{DURATION}, le="0.1"}}': "0x600",
            f'mesh_call_duration_seconds_bucket{DURATION}, le="0.25"}}': (
                "0+100x120 12000+50x60 15000+100x400"
            ),
        },
        121,
        145,
        220,
        {**OF_METHOD, "slo": "latency"},
        "50%",
    ),
)
"""Those of objectives that fire within minutes."""

SLOW_CASES = (
    # Half a per cent for twelve hours, after a day without.
    Case(
        "MeshObjectiveBurnsSlowly",
        {
            **IS_UP,
            f'{CALLS}, code="ok"}}': "0+597x2600",
            f'{CALLS}, code="internal"}}': "0x1440 0+3x720 2160x500",
        },
        1440 + 240,
        1440 + 480,
        1440 + 720 + 360,
        {**OF_METHOD, "slo": "success"},
        "0.5%",
    ),
    Case(
        "MeshObjectiveBurnsSlowly",
        {
            **IS_UP,
            f"mesh_call_duration_seconds_count{DURATION}}}": "0+100x2600",
            f'mesh_call_duration_seconds_bucket{DURATION}, le="0.25"}}': (
                "0+100x1440 144000+95x720 212400+100x500"
            ),
        },
        1440 + 240,
        1440 + 480,
        1440 + 720 + 360,
        {**OF_METHOD, "slo": "latency"},
        "5%",
    ),
)
"""Those that need hours."""
