"""How tapped calls are written: in columns that a terminal has room for, and as trees."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.cli.tap import trees
from mesh.cli.taplines import Layout
from mesh_telemetry.texts import ASCII, UNICODE, cells, to_text


def call(number: int = 1, parent: int = 0, **fields: Any) -> dict[str, Any]:
    """A call as the gateway tells it."""
    return {
        "ended": "2026-11-21T16:59:48.770123Z", "duration_ms": 33.04, "caller": "shop",
        "service": "orders", "method": "place", "code": "ok", "reason": "", "depth": 1,
        "activity_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "call_id": number, "parent_id": parent,
        "entry_id": 1, **fields,
    }  # fmt: skip


@pytest.mark.parametrize(
    "width",
    [1, 2, 3, 9, 16, 20, 29, 30, 34, 35, 40, 42, 43, 52, 53, 56, 60, 66, 69, 70, 80, 120, 300],
)
@pytest.mark.parametrize("signs", [UNICODE, ASCII])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"code": "deadline_exceeded", "reason": "DEADLINE_EXCEEDED"},
        {"code": "not_found", "reason": "SERVICE_NOT_FOUND", "method": "x" * 128},
        {"caller": "a.caller.with.a.name.of.many.words", "activity_id": "an activity\x1b[31m"},
        {"reason": "\x1b]0;title\x07" * 20, "service": "名前" * 30, "duration_ms": 3.6e8},
    ],
)
def test_no_line_is_wider_than_the_terminal(width: int, signs: Any, fields: dict[str, Any]) -> None:
    layout = Layout(width, signs)
    chain = [call(number, number - 1, depth=number, **fields) for number in range(1, 30)]
    tree = {"calls": chain, "partial": True}
    lines = [layout.heading(), layout.call(call(**fields)), *layout.tree(tree)]
    texts = ["".join(part.text for part in line) for line in lines]
    assert len(texts) == 2 + 29 + 1
    assert all("\x1b" not in text for text in texts)
    if width >= 20:
        assert {cells(text) for text in texts[:-1]} == {width}, "columns line up"
    assert max(map(cells, texts[:-1])) <= width


@pytest.mark.parametrize(
    ("width", "heading", "line"),
    [
        (70, "ENDED ID CALL TOOK CODE DEPTH",
         "16:59:48.770 4bf92f35  shop > …s.place  33.0 ms  deadline_exceeded   1"),
        (69, "ENDED ID CALL TOOK CODE",
         "16:59:48.770 4bf92f35  shop > o…ers.place  33.0 ms  deadline_exceeded"),
        (56, "ID CALL TOOK CODE", "4bf92f35  shop > o…ers.place  33.0 ms  deadline_exceeded"),
        (48, "CALL TOOK CODE", "shop > orders.place   33.0 ms  deadline_exceeded"),
        (40, "CALL CODE", "shop > orders.place    deadline_exceeded"),
        (30, "CALL CODE", "shop > …s.place  deadli…ceeded"),
    ],
)  # fmt: skip
def test_a_narrow_terminal_shows_the_call_and_how_it_ended(
    width: int, heading: str, line: str
) -> None:
    """Depth, time, id and duration give way, in this order."""
    layout = Layout(width, UNICODE)
    failed = call(code="deadline_exceeded", reason="X" * 40)
    assert to_text(layout.heading()).split() == heading.split()
    assert to_text(layout.call(failed)) == line


def test_a_tree_is_drawn_by_parents_in_the_order_of_arrival() -> None:
    calls = [
        call(1), call(2, 1, service="users", method="get", depth=2),
        call(3, 2, service="regions", method="get", depth=3),
        call(5, 1, service="stock", method="take", depth=2, code="not_found"),
        call(9, 7, service="mail", method="send", caller="orders", depth=2),
    ]  # fmt: skip
    layout = Layout(80, UNICODE)
    assert [
        to_text(line)[:44].rstrip() for line in layout.tree({"calls": calls, "partial": 0})
    ] == [
        "16:59:48.770 4bf92f35  shop > orders.place",
        "├─ users.get",
        "│  └─ regions.get",
        "└─ stock.take",
        "16:59:48.770 4bf92f35  orders > mail.send",
    ]


def test_trees_of_an_answer() -> None:
    page = {"calls": [call(1), call(2, 1), call(4, entry_id=4)], "partial": [4]}
    found = trees(page)
    assert [(one["entry_id"], one["partial"], len(one["calls"])) for one in found] == [
        (1, False, 2), (4, True, 1),
    ]  # fmt: skip


def payload(text: str, state: str = "whole", size: int = 40) -> dict[str, Any]:
    """One way of a call as the gateway tells it."""
    return {"text": text, "state": state, "encoding": "msgpack", "size": size}


@pytest.mark.parametrize(
    ("payloads", "lines"),
    [
        (None, []),
        ({}, []),
        ({"params": payload("{}"), "answer": payload("1")}, ["params {}", "result 1"]),
        ({"params": payload("", size=0), "metadata": '{"a":"b"}'}, ['metadata {"a":"b"}']),
        ({"answer": payload('"ab', "cut", 5321)}, ['result "ab... of 5,321 bytes of msgpack']),
        (
            {"params": payload("", "chunked", 3 * 10**6)},
            ["params 3,000,000 bytes of msgpack, in several frames"],
        ),
        ({"params": payload("", "raw", 9)}, ["params 9 bytes of msgpack, not shown"]),
        ({"params": payload("\x1b[31m\n")}, [r"params \x1b[31m\n"]),
        (
            {"withheld": "NOT_ALLOWED"},
            ["no payloads the contract of this method does not say tap=True"],
        ),
        ({"withheld": "OF_A_LATER_VERSION"}, ["no payloads OF_A_LATER_VERSION"]),
    ],
)
def test_what_a_call_carried_stands_below_it(payloads: Any, lines: list[str]) -> None:
    told = call() if payloads is None else call(payloads=payloads)
    first, *rest = Layout(80, UNICODE).lines(told)
    assert to_text(first).startswith("16:59:48.770")
    assert [" ".join(to_text(line).split()) for line in rest] == lines


def test_in_a_tree_it_stands_below_each_call() -> None:
    told = {"params": payload("{}"), "answer": payload("1")}
    calls = [
        call(1, payloads=told), call(2, 1, payloads=told), call(3, 2, payloads=told),
        call(4, 1, code="not_found", payloads=told),
    ]  # fmt: skip
    lines = Layout(80, UNICODE).tree({"calls": calls, "partial": 0})
    assert [to_text(line)[:20].rstrip() for line in lines][1:] == [
        "  params    {}",
        "  result    1",
        "├─ orders.place",
        "│  │    params    {}",
        "│  │    result    1",
        "│  └─ orders.place",
        "│       params    {}",
        "│       result    1",
        "└─ orders.place",
        "     params    {}",
        "     details   1",
    ]
