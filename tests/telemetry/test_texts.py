"""Durations, figures and lines for people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from mesh_telemetry.texts import Look, Part, cells, cut, duration, fit, to_text

pieces = st.lists(st.text(st.sampled_from("abc \u4f60\u00e9e\u0301\u2588"), max_size=9).map(Part))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.000421, "0.42 ms"),
        (0.0123, "12.3 ms"),
        (0.009994, "9.99 ms"),
        (0.009996, "10.0 ms"),
        (0.99994, "999.9 ms"),
        (0.99996, "1.00 s"),
        (1.234, "1.23 s"),
        (59.994, "59.99 s"),
        (59.999, "1m 0s"),
        (61, "1m 1s"),
        (7_260, "2h 1m"),
        (100_000, "1d 3h"),
    ],
)
def test_durations_have_the_unit_that_reads_best(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@given(st.floats(0, 70))
def test_no_duration_reads_as_one_of_the_next_unit(seconds: float) -> None:
    shown = duration(seconds)
    figure, _, unit = shown.partition(" ")
    if unit == "ms":
        assert float(figure) < 1000
        assert len(figure) == 4 or float(figure) >= 100
    elif unit == "s":
        assert 1 <= float(figure) < 60
    else:
        assert shown.startswith("1m ")


@given(pieces, st.integers(1, 40))
def test_a_line_is_cut_to_the_columns_that_it_takes(line: list[Part], width: int) -> None:
    whole = "".join(part.text for part in line)
    shown = "".join(part.text for part in cut(line, width))
    assert cells(shown) <= width
    assert shown == whole if cells(whole) <= width else whole.startswith(shown.removesuffix("…"))
    assert sum(cells(part.text) for part in fit(line, width)) == width


@given(st.text(st.sampled_from("abc \u4f60\u00e9e\u0301\u2588")))
def test_characters_are_as_wide_as_terminals_have_them(text: str) -> None:
    assert cells(text) == cell_len(text)


def test_a_cut_line_keeps_its_looks() -> None:
    line = [Part("one ", Look.BAD), Part("two"), Part(" three")]
    assert cut(line, 6) == [Part("one ", Look.BAD), Part("t…")]
    assert to_text(line) == "one two three"
