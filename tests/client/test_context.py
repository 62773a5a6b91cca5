"""The context of a call: what code sees of it, and how ids are checked."""

from __future__ import annotations

import contextlib

import pytest

import mesh
from mesh.context import current_activity, is_detached
from mesh.wire.codec import is_activity_id, is_name


def test_outside_a_handler_there_is_no_call() -> None:
    """None, and no error."""
    assert mesh.current_call() is None


@pytest.mark.parametrize("text", ["x", "a b", "~" * 128, " "])
def test_activity_ids_are_printable_ascii_up_to_128_characters(text: str) -> None:
    """What was given is what the block works under, and it ends with the block."""
    with mesh.activity(text) as given:
        assert given == text == current_activity.get()
    assert current_activity.get() is None


@pytest.mark.parametrize("text", ["", "~" * 129, "ä", "a\nb", "\x7f", "\x00", "a\n"])
def test_other_activity_ids_are_refused(text: str) -> None:
    """With their length, so that a cut-off one is recognised."""
    with (
        pytest.raises(ValueError, match=f"activity id of {len(text)} characters"),
        mesh.activity(text),
    ):
        pass
    assert not is_activity_id(text)


def test_a_new_activity_is_made_where_none_is_given() -> None:
    """Two of them differ; the inner one counts inside."""
    with mesh.activity() as outer:
        with mesh.activity() as inner:
            assert inner != outer
            assert current_activity.get() == inner
        assert current_activity.get() == outer
    assert is_activity_id(inner)


def test_detached_ends_with_its_block_however_that_ends() -> None:
    """Also when the block raises."""
    seen: list[bool] = []
    with contextlib.suppress(KeyError), mesh.detached():
        seen.append(is_detached.get())
        raise KeyError
    assert seen == [True]
    assert not is_detached.get()


@pytest.mark.parametrize("text", ["a", "_x", "users.v2", "A-b_c.9", "a" * 128])
def test_names_of_peers_services_and_methods(text: str) -> None:
    """A letter or underscore first, then letters, digits and ``_.-``."""
    assert is_name(text)


@pytest.mark.parametrize(
    "text", ["", "1a", ".a", "-a", "a b", "a/b", "a\n", "ä", "a" * 129, "a\x00"]
)
def test_other_names_are_none(text: str) -> None:
    """They would break labels, routes and displays."""
    assert not is_name(text)
