"""How a kept trace is drawn, on rows that are made up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from mesh_telemetry import Drawing, TraceSummary
from mesh_telemetry.bars import Bars
from mesh_telemetry.texts import ASCII, UNICODE, to_text
from tests.telemetry.rows import SUMMARY, call, nested, row, tree

if TYPE_CHECKING:
    from mesh_telemetry.texts import Signs
    from tests.telemetry.rows import Row


def drawn(
    rows: list[Row],
    *,
    width: int = 80,
    signs: Signs = UNICODE,
    clips: bool = True,
    whole: bool = False,
    **about: Any,
) -> list[str]:
    """The lines of a drawing."""
    if rows and "method" not in about:
        about["service"], _, about["method"] = rows[0]["name"].rpartition(".")
    summary = msgspec.convert({**SUMMARY, **about}, TraceSummary)
    drawing = Drawing(summary, tree(*rows), width=width, signs=signs, clips=clips, whole=whole)
    return [to_text(line) for line in drawing.lines()]


def test_every_call_has_a_line_and_the_time_is_accounted_for() -> None:
    assert drawn(nested()) == [
        "orders.place by shop  ok after 30.0 ms  kept: slow",
        "trace 0af7651916cd43dd8448eb211c80319c  activity order-42",
        "began 2026-01-31 12:00:00.250 UTC  12 spans of 5 services  at gateway 29.0 ms",
        "",
        "milliseconds        total   own   way   left",
        "orders.place         30.0  4.00  2.00  500.0  ─█░░░░░░░██░░░░░░░░░░░░░░░░░░░░░█─",
        "├─ users.get         6.00  4.00  2.00  498.0    ─█████─",
        "└─ payments.charge   18.0  10.0  8.00  490.0             ────████████████────",
        "█ own work  ░ waits for calls below  ─ on the way: gateway, queues, network",
        "",
        "Where 30.0 ms of the 500.0 ms allowed went",
        "  on the way        12.0 ms   40%  ███████             most to payments.charge",
        "  payments.charge   10.0 ms   33%  ██████",
        "  orders.place      4.00 ms   13%  ██",
        "  users.get         4.00 ms   13%  ██",
    ]


def line(at: float, level: str, text: str) -> Row:
    return {
        "name": "log",
        "at_ms": at,
        "attributes": {"log.severity": level, "log.message": text},
    }


def test_log_lines_stand_below_their_call_in_the_order_of_time() -> None:
    """They are no events, of which some are hidden; those of a span of users' code are its own."""
    rows = [
        *call(0, "shop", "orders.place", 0, 30),
        row(4, "orders", "price", "internal", 2, 8),
        *call(5, "orders", "users.get", 3, 6),
    ]
    rows[3]["events"] = [
        line(12.5, "WARNING", "stock is low"),
        {"name": "looked up", "at_ms": 5.0, "attributes": {"rows": 3}},
        line(1.5, "INFO", "two\nlines"),
    ]
    rows[4]["events"] = [line(3.5, "ERROR", "no price")]
    rows[8]["events"] = [line(4.5, "NOTICE", "found")]
    assert [one.split("█")[0].rstrip() for one in drawn(rows)[5:13]] == [
        "orders.place      30.0  22.0  2.00  ─",
        "│  • looked up at 5.00  rows=3",
        "│  1.50 info    two\\nlines",
        "│  12.5 warning stock is low",
        "└─ price          6.00  3.00",
        "   │  3.50 error   no price",
        "   └─ users.get   3.00  1.00  2.00      ─",
        "         4.50 notice  found",
    ]


@pytest.mark.parametrize("whole", [False, True])
def test_of_many_log_lines_the_newest_are_drawn(whole: bool) -> None:
    rows = call(0, "shop", "orders.place", 0, 30)
    rows[3]["events"] = [line(float(at), "INFO", f"line {at}") for at in range(25)]
    rows[3]["lines_left_out"] = 1_200
    lines = [one.strip() for one in drawn(rows, whole=whole)]
    numbers = [int(one.split()[-1]) for one in lines if " info " in one]
    assert numbers == list(range(0 if whole else 15, 25))
    at = lines.index("+1,200 log lines left out")
    earlier = "and 15 earlier ones: mesh trace 0af76519 --all"
    assert lines[at + 1] == ("0.00 info    line 0" if whole else earlier)


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("whole", [False, True])
def test_no_line_is_wider_than_the_terminal(width: int, whole: bool) -> None:
    rows: list[Row] = []
    for depth in range(16):
        failed: Row = {
            "error": True,
            "error_type": "HANDLER_FAILED",
            "error_message": "long " * 100,
        }
        rows += call(
            4 * depth, "a", f"service-{depth}.with-a-long-name", depth, 99 - depth, **failed,
            attributes={"key": "value " * 30, "other": [1] * 99},
            events=[
                {"name": "event " * 30, "at_ms": 1.0, "attributes": {}},
                line(1.0, "INFO", "line " * 99),
            ],
        )  # fmt: skip
    lines = drawn(rows, width=width, whole=whole, activity_id="x" * 128, missing=["gone " * 50])
    assert max(len(line) for line in lines if "x" * 128 not in line) <= width


@pytest.mark.parametrize("clips", [True, False])
def test_the_legend_wraps_and_loses_nothing(clips: bool) -> None:
    """With every sign it takes 125 columns."""
    bars = Bars(0, 40, 40, UNICODE)
    bars._used.update(UNICODE)
    wide = bars.legend(200)[0]
    assert " ".join(bars.legend(80)).split() == wide.split()
    assert max(map(len, bars.legend(80))) <= 80
    lines = drawn(nested(), width=60, clips=clips)
    assert lines[8:10] == [
        "█ own work  ░ waits for calls below",
        "─ on the way: gateway, queues, network",
    ]


@pytest.mark.parametrize("length", [1, 30, 31, 32, 128])
@pytest.mark.parametrize("clips", [True, False])
def test_ids_are_never_cut(length: int, clips: bool) -> None:
    lines = drawn(nested(), activity_id="x" * length, clips=clips)
    trace = f"trace {SUMMARY['trace_id']}"
    activity = f"activity {'x' * length}"
    if clips and length > 31:
        assert lines[1:3] == [trace, activity]
    else:
        assert lines[1] == f"{trace}  {activity}"


def test_the_gateways_time_is_told_where_it_is_not_the_callers() -> None:
    assert drawn(nested(), duration_ms=29.0)[2].endswith("  at gateway 29.0 ms")
    assert drawn(nested(), duration_ms=30.0)[2].endswith(" services")
    assert drawn(nested(), duration_ms=None)[2].endswith(" services")


def test_a_name_draws_no_lines_of_its_own() -> None:
    rows = call(0, "shop\nforged", "a.f\nforged", 0, 9)
    lines = drawn(rows, caller="shop\nforged", missing=["x\nforged"])
    assert not any(line.strip().startswith("forged") for line in lines)
    assert any("a.f\\nforged" in line for line in lines)


def test_texts_are_whole_where_nothing_is_clipped() -> None:
    rows = call(0, "shop", "a.f", 0, 9, error=True, error_type="E", error_message="long " * 40)
    lines = drawn(rows, clips=False)
    assert f"   ✗ E: {'long ' * 40}".rstrip() in lines


def test_it_can_be_drawn_with_ascii() -> None:
    lines = drawn(nested(), signs=ASCII)
    assert lines[7].startswith("`- payments.charge   18.0  10.0  8.00  490.0             ----####")


def test_a_failure_is_told_where_it_arose_and_the_entry_points_to_it() -> None:
    failed: Row = {"error": True, "error_type": "USER_NOT_FOUND", "error_message": "no user 'x'"}
    rows = [
        *call(0, "shop", "orders.place", 0, 30, **failed),
        *call(4, "orders", "users.get", 2, 8, **failed),
        *call(8, "users", "stock.get", 3, 7, **failed),
    ]
    lines = drawn(rows, code="not_found")
    assert [line for line in lines if "✗" in line] == [
        "│  ✗ failed below at stock.get",
        "         ✗ USER_NOT_FOUND: no user 'x'",
    ]
    for one in rows:  # as a real mesh has it
        if one["kind"] == "server":
            one |= {"code": "not_found", "error": False, "error_type": "", "error_message": ""}
        one["code"] = "not_found"
    assert [
        line.lstrip(" │") for line in drawn(rows, code="not_found", whole=True) if "✗" in line
    ] == [
        "✗ failed below at gw1 client stock.get",
        "✗ USER_NOT_FOUND: no user 'x'",
    ]


def test_a_failed_entry_call_is_told_where_no_span_of_it_failed() -> None:
    """A SERVER span takes a not_found that it passes on for no failure."""
    ended: Row = {"code": "not_found", "outcome": "error"}
    failed: Row = {"error": True, "error_type": "NO_USER", "error_message": "no user 'x'"}
    rows = call(0, "shop", "orders.place", 0, 30, **ended)[1:]
    for one in rows:
        one["depth"] -= 1
    rows += call(3, "orders", "users.get", 2, 8, **ended, **failed)
    lines = drawn(rows, code="not_found")
    assert [line for line in lines if "✗" in line] == [
        "│  ✗ not_found: failed below at users.get",
        "      ✗ NO_USER: no user 'x'",
    ]
    assert "   ✗ not_found" in drawn(rows[:3], code="not_found")


def test_a_failure_that_says_more_than_the_one_below_is_told_too() -> None:
    rows = [
        *call(0, "shop", "orders.place", 0, 30, error=True, error_type="A", error_message="more"),
        *call(4, "orders", "users.get", 2, 8, error=True, error_type="B", error_message="less"),
    ]
    lines = drawn(rows)
    assert "│  ✗ A: more" in lines
    assert "      ✗ B: less" in lines


def test_texts_from_elsewhere_cannot_steer_the_terminal() -> None:
    rows = call(0, "shop", "a.f", 0, 9, error=True, error_type="E", error_message="\x1b[31mred\n2",
                attributes={"k": "a\x1b[2Jb\nc"}, events=[])  # fmt: skip
    lines = drawn(rows, activity_id="a")
    assert "   ✗ E: \\x1b[31mred" in lines
    assert any("k=a\\x1b[2Jb c" in line for line in lines)
    assert not any("\x1b" in line for line in lines)


def test_users_spans_attributes_and_events_are_shown_in_short() -> None:
    events = [{"name": f"step {n}", "at_ms": n, "attributes": {"n": n}} for n in range(5)]
    rows = [
        *call(0, "shop", "orders.place", 0, 30),
        row(4, "orders", "SELECT", "internal", 2, 20, attributes={"rows": 3}, events=events),
    ]
    lines = drawn(rows)
    at = next(number for number, line in enumerate(lines) if "SELECT" in line)
    assert lines[at].startswith("└─ SELECT      18.0  18.0")
    assert lines[at + 1 : at + 6] == [
        "      rows=3",
        "      • step 0 at 0.00  n=0",
        "      • step 1 at 1.00  n=1",
        "      • step 2 at 2.00  n=2",
        "      and 2 more events",
    ]
    assert any("• step 4 at 4.00  n=4" in line for line in drawn(rows, whole=True))


def test_what_is_odd_or_missing_is_said() -> None:
    rows = call(0, "shop", "orders.place", 0, 30)[:3]
    rows.append(row(1, "users", "users.get", "server", 5, 9, orphan=True, shifted_ms=-1500.0))
    lines = drawn(rows, missing=["orders (o-1): disconnected before it sent its spans"], dropped=2)
    assert any(line.startswith("└─ users.get ?~") for line in lines)
    said = [line for line in lines if line[:1] in {"?", "~", "!"}]
    assert said == [
        "? 1 span without the span above, which is not there: put at the root",
        "~ 1 span moved by up to 1.50 s, as hosts' clocks disagree",
        "! missing: orders (o-1): disconnected before it sent its spans",
        "! missing: 2 spans that a process has lost, or the store had no room for",
    ]
    assert any("▒ no word of the callee" in line for line in lines)


def test_every_span_can_have_a_line() -> None:
    lines = drawn(nested(), whole=True)
    assert [line[:42].rstrip() for line in lines[5:9]] == [
        "shop client orders.place",
        "└─ gw1 server orders.place",
        "   └─ gw1 client orders.place",
        "      └─ orders server orders.place",
    ]


def test_a_service_under_another_name_is_named() -> None:
    rows = call(0, "shop", "orders.place", 0, 30)
    rows[3]["service"] = "people"
    assert drawn(rows)[5].startswith("orders.place by people")


def test_a_trace_that_still_runs_is_drawn_as_far_as_it_is_known() -> None:
    lines = drawn([], duration_ms=None, code="", service="", method="", caller="", spans=0)
    assert lines[0] == "unknown call  still runs  kept: slow"
    assert lines[-1] == "none of its spans has come yet"


def test_no_deadline_is_none() -> None:
    lines = drawn(call(0, "shop", "a.f", 0, 9, deadline_ms=3.2e11))
    assert lines[4].split() == ["milliseconds", "total", "own", "way"]
    assert "Where 9.00 ms went" in lines


def test_waiting_for_a_service_is_told() -> None:
    rows = call(0, "shop", "payments.charge", 0, 650, way=4)
    rows[1]["waited_ms"] = 621.0
    rows[2] |= {"start_ms": 623.0, "duration_ms": 25.0}
    rows[3] |= {"start_ms": 624.0, "duration_ms": 22.0}
    lines = drawn(rows)
    assert lines[5].startswith("payments.charge  650.0  22.0  7.00  ┄┄┄┄┄")
    assert lines[6] == "   waited 621.0 ms for an instance of payments"
    assert any(line.startswith("  waiting for payments  621.0 ms   96%") for line in lines)
    assert any("waited 621.0 ms for an instance of payments" in line for line in drawn(
        rows, whole=True))  # fmt: skip


def test_waiting_in_vain_is_told() -> None:
    rows = call(0, "shop", "payments.charge", 0, 650, way=4)[:2]
    rows[1]["waited_ms"] = 640.0
    assert any(line.startswith("  waiting for payments  640.0 ms   98%") for line in drawn(rows))


def test_an_exception_that_is_not_the_failure_is_an_event() -> None:
    told = {
        "exception.type": "ValueError",
        "exception.message": "coupon expired",
        "exception.stacktrace": "Traceback",
    }
    event = {"name": "exception", "at_ms": 2.0, "attributes": told}
    failed: Row = {"error": True, "error_message": "coupon ignored"}
    lines = drawn([row(0, "orders", "price", "internal", 0, 9, events=[event], **failed)])
    assert lines[6:8] == ["   ✗ coupon ignored", "   • ValueError: coupon expired at 2.00"]
    failed["error_message"] = "coupon expired"
    lines = drawn([row(0, "orders", "price", "internal", 0, 9, events=[event], **failed)])
    assert [line for line in lines if "expired" in line] == ["   ✗ coupon expired"]


@pytest.mark.parametrize(
    ("ms", "shown"), [(999.96, "1,000"), (1000.0, "1,000"), (999.9, "999.9"), (9.996, "10.0")]
)
def test_figures_have_one_format(ms: float, shown: str) -> None:
    line = drawn(call(0, "shop", "a.f", 0, 5, deadline_ms=ms))[5]
    assert line.split()[4] == shown


def test_without_the_entry_call_the_summary_tells_how_long_it_took() -> None:
    rows = [
        *call(0, "orders", "users.get", 2, 8, way=0),
        *call(1, "orders", "payments.charge", 10, 28, way=0, orphan=True),
    ]
    lines = drawn(rows, duration_ms=40.0, service="orders", method="place")
    assert lines[0].startswith("orders.place by shop  ok after 40.0 ms")
    assert "! missing: the root: no span of orders.place; times are the gateway's" in lines
    at = next(number for number, line in enumerate(lines) if line.startswith("Where"))
    assert lines[at].startswith("Where 40.0 ms")
    shares = {
        line[2:].split("  ")[0].rstrip("…"): line.split(" ms")[0].split()[-1]
        for line in lines[at + 1 :]
    }
    assert shares == {
        "payments.charge": "18.0",
        "orders.place (spans missing)": "16.0",
        "users.get": "6.00",
    }


def test_of_several_entry_calls_the_time_is_that_of_all() -> None:
    rows = [
        *call(0, "web", "front.buy", 0, 20, way=0),
        *call(4, "front", "stock.get", 5, 10, way=0),
        *call(0, "web", "front.buy", 30, 60, way=0),
        *call(0, "web", "front.pay", 50, 100, way=0),
    ]
    lines = drawn(rows, width=100, duration_ms=100.0, code="not_found", entry_calls=3)
    assert lines[0] == "front.buy +2 by shop  not_found after 100.0 ms  kept: slow"
    assert [line.split("  ")[0] for line in lines[5:9]] == [
        "front.buy", "└─ stock.get", "front.buy", "front.pay",
    ]  # fmt: skip
    at = lines.index("Where 100.0 ms went")
    assert [line.split(" ms")[0].split() for line in lines[at + 1 :]] == [
        ["front.pay", "50.0"],
        ["front.buy", "35.0"],
        ["in", "the", "caller", "10.0"],
        ["stock.get", "5.00"],
    ]


def test_an_entry_call_that_took_no_time_is_drawn() -> None:
    lines = drawn(call(0, "shop", "a.f", 5, 5, way=0))
    assert lines[5].split()[:2] == ["a.f", "0.00"]
    assert lines[-1] == "Where 0.00 ms went"


def many() -> list[Row]:
    rows = call(0, "shop", "orders.place", 0, 1000)
    for at in range(400):
        took = 5 if at == 200 else 1
        rows += call(4, "orders", "users.get", 2 * at + 10, 2 * at + 10 + took, way=0)
    return rows


def test_many_calls_of_one_method_are_told_as_one() -> None:
    assert drawn(many(), signs=ASCII)[5:10] == [
        "orders.place       1,000  596.0  2.00  ...##...##...##...##...###..###..########",
        "|- users.get        1.00   1.00  0.00  |",
        "|- users.get        1.00   1.00  0.00  |",
        "|- users.get        5.00   5.00  0.00                  #",
        "`- users.get x397  p50 1.00  max 1.00  ||||||||||||||||||||||||||||||||||",
    ]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_what_is_told_as_one_keeps_to_the_width(width: int) -> None:
    rows = [row(0, "a", "job", "internal", 0, 900)]
    rows += [row(1, "a", "SELECT", "internal", at, at + 1) for at in range(900)]
    lines = drawn(rows, width=width, signs=ASCII)
    assert max(len(line) for line in lines if not line.startswith(("trace", "act"))) <= width
    assert any("SELECT x897  p50 1.00  max 1.00  |" in line for line in lines)


def test_every_call_has_its_line_where_all_spans_do() -> None:
    assert sum("users.get" in line for line in drawn(many(), whole=True)) >= 400 * 4


def test_what_is_inside_calls_that_are_told_as_one_is_counted() -> None:
    rows = call(0, "shop", "orders.place", 0, 1000)
    for at in range(20):
        rows += call(4, "orders", "users.get", 20 * at, 20 * at + 9)
        rows += call(8, "users", "stock.get", 20 * at + 2, 20 * at + 4)
    lines = drawn(rows, signs=ASCII)
    at = next(number for number, line in enumerate(lines) if "users.get x17" in line)
    assert lines[at + 1] == "      and 17 calls and spans inside"


@pytest.mark.parametrize(("methods", "told"), [(6, []), (7, []), (8, ["2 others"])])
def test_of_many_methods_the_last_ones_are_summed(methods: int, told: list[str]) -> None:
    rows = [row(0, "a", "job", "internal", 0, 10 * methods)]
    rows += [row(1, "a", f"step{at}", "internal", 10 * at, 10 * at + 10) for at in range(methods)]
    lines = drawn(rows, method="")
    shares = lines[lines.index(f"Where {10 * methods:.1f} ms went") + 1 :]
    assert [line.strip().split("  ")[0] for line in shares if "others" in line] == told
    assert len(shares) == min(methods, 7)
