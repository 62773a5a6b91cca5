"""What an id of a trace may mean as people paste it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.gateway.filters import read_id

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    ("pasted", "meant"),
    [
        (TRACE, [TRACE]),
        (" order-42\n", [" order-42\n", "order-42"]),
        (
            "4bf92f35-77b3-4da6-a3ce-929d0e0e4736",
            ["4bf92f35-77b3-4da6-a3ce-929d0e0e4736", TRACE],
        ),
        (f"00-{TRACE}-00f067aa0ba902b7-01", [f"00-{TRACE}-00f067aa0ba902b7-01", TRACE]),
        (
            f"traceparent: 00-{TRACE}-00f067aa0ba902b7-01",
            [f"traceparent: 00-{TRACE}-00f067aa0ba902b7-01", TRACE],
        ),
        ("4bf92f-35", ["4bf92f-35"]),
        ("", [""]),
    ],
)
def test_an_id_is_found_in_what_is_around_it(pasted: str, meant: list[str]) -> None:
    assert read_id(pasted) == meant


@given(st.text())
def test_what_was_given_always_comes_first(pasted: str) -> None:
    assert read_id(pasted)[0] == pasted
