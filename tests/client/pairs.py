"""A peer that serves and one that calls, and what a handler's outcome looks like to the caller."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import mesh
from tests.gateway.raw_peer import settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class Pair(NamedTuple):
    """A gateway with a peer that serves and one that calls."""

    gateway: mesh.Gateway
    server: mesh.Client
    caller: mesh.Client

    async def outcome(self, function: Callable[..., Any], params: object = None) -> Any:
        """What a call of this handler gives; afterwards both connections are still the first."""
        self.server.register("method", function)
        await settled(self.server)
        try:
            return await self.caller.call("server", "method", params, timeout=5)
        except mesh.CallError as error:
            return error
        finally:
            self.server.unregister("method")
            if "server.sane" not in self.server.registered_methods():
                self.server.register("sane", sane)
            await settled(self.server)
            assert await self.caller.call("server", "sane", timeout=5) == "sane"
            assert self.gateway.core.counters.connections_opened == 2
            assert len(self.gateway.core.sessions) == 3
            assert not self.gateway.core.table.by_id


async def sane() -> str:
    return "sane"


@asynccontextmanager
async def paired(limits: mesh.Limits | None = None) -> AsyncIterator[Pair]:
    async with (
        mesh.Gateway(limits=limits) as gateway,
        mesh.connect("server", gateway=gateway) as server,
        mesh.connect("caller", gateway=gateway) as caller,
    ):
        yield Pair(gateway, server, caller)


@dataclass
class User:
    """A type of a user."""

    name: str
    age: int = 0


async def echo(params: Any) -> Any:
    return params


async def typed(user: User) -> Any:
    assert isinstance(user, User)
    return User(user.name, user.age + 1)
