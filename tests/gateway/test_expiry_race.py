"""Who tells of a deadline: always the gateway, which knows where the time went."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

import mesh

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_a_callee_that_notices_the_deadline_first_does_not_hide_where_time_went(
    autojump_clock: MockClock,
) -> None:
    """Its word and the gateway's timer may come in either order; the caller sees the same."""
    assert autojump_clock.current_time() == 0
    async with (
        mesh.Gateway() as gateway,
        mesh.connect("users", gateway=gateway) as users,
        mesh.connect("shop", gateway=gateway) as shop,
    ):

        @users.method
        async def wait() -> None:
            await trio.sleep_forever()

        @users.method
        async def late() -> None:
            """Says itself that it is late, at the very moment of the deadline."""
            call = mesh.current_call()
            assert call is not None
            with trio.CancelScope(shield=True):
                await trio.sleep_until(call.deadline)
            raise mesh.DeadlineExceeded("my own words")

        await users.call("mesh", "status")
        for method in ("wait", "late"):
            for _ in range(20):
                with pytest.raises(mesh.DeadlineExceeded) as raised:
                    await shop.call("users", method, timeout=0.05)
                assert raised.value.details["spent"][0]["call"] == f"users.{method}"
                assert raised.value.chain == (f"users.{method}",)
