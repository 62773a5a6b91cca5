"""What a parked task is woken with, as trio takes it."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from mesh.waking import given


@pytest.mark.parametrize("value", [None, 0, ("a", b"b"), ValueError("no failure, a value")])
async def test_a_parked_task_gets_the_very_value_that_it_is_woken_with(value: object) -> None:
    got: list[object] = []
    parked: list[trio.lowlevel.Task] = []

    async def park() -> None:
        parked.append(trio.lowlevel.current_task())
        got.append(await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(park)
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.reschedule(parked[0], given(value))
    assert got == [value]
    assert got[0] is value
