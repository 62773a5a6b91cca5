"""The walk over trio's cancel scopes says what trio says."""

from __future__ import annotations

from contextlib import ExitStack
from math import inf

import trio
from hypothesis import given
from hypothesis import strategies as st

from mesh.scopes import effective_deadline

SCOPES = st.lists(
    st.fixed_dictionaries(
        {
            "deadline": st.sampled_from([inf, 1e9, 2e9, 3e9, -1.0]),
            "shield": st.booleans(),
            "extended": st.sampled_from([None, inf, 5e8, -1.0]),
            "cancelled": st.sampled_from([False, False, False, True]),
        }
    ),
    max_size=8,
)


@given(SCOPES)
def test_the_walk_finds_what_trio_finds(scopes: list[dict[str, float | None]]) -> None:
    async def compare() -> None:
        with ExitStack() as stack:
            for planned in scopes:
                scope = trio.CancelScope(
                    deadline=planned["deadline"] or 0.0, shield=bool(planned["shield"])
                )
                stack.enter_context(scope)
                if planned["extended"] is not None:
                    scope.deadline = planned["extended"]
                if planned["cancelled"]:
                    scope.cancel()
            found = effective_deadline(trio.lowlevel.current_task())
            assert found == trio.current_effective_deadline()

    trio.run(compare)


async def test_another_trio_without_these_attributes_is_asked() -> None:
    class Task:
        """Of a later trio."""

    with trio.CancelScope(deadline=1e9):  # noqa: ASYNC100 - only looked at
        assert effective_deadline(Task()) == 1e9  # type: ignore[arg-type]
